// AVX2 with FMA.
#include <immintrin.h>
#define W 8
#define VR 6
#define GROUP_STEP 1
#define A_ZERO 0
#define A_MAX 127
#define B_MAX 127
#include "vector.h"
// Pairs of products are added in 16 bits. With |a| unsigned and the sign of a moved to b, they fit:
// 2 * 127 * 127 < 2^15.
INLINE vi step_i8(vi sum, vi a, vi b) {
    __m256i moved = _mm256_sign_epi8((__m256i)b, (__m256i)a);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)a), moved);
    return sum + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#define STEP_I8 step_i8
#include "forward.h"
VARIANT(avx2);
