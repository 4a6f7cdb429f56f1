// AVX2 with FMA.
#include <immintrin.h>
#define W 8
#define VR 6
#define GROUP_STEP 1
// Two products of bytes are added in 16 bits: 127 * 127 * 2 fits, 255 * 127 * 2 would not. So
// activations have 7 bits.
#define A_ZERO 64
#define A_MAX 63
#define B_MAX 127
#include "vector.h"
INLINE vi step_i8(vi sum, vi a, vi b) {
    __m256i pairs = _mm256_maddubs_epi16((__m256i)a, (__m256i)b);
    return sum + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#define STEP_I8 step_i8
#include "forward.h"
VARIANT(avx2);
