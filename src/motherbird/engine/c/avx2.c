// AVX2 with FMA.
#include <immintrin.h>
#define W 8
#define VR 6
#define MR 12
#define ROW_STEP 4
#define GROUP_STEP 1
// Four products of bytes are added in 16 bits: 127 * 258 fits. So activations have 7 bits, and of
// the sums of weights, which are rounded, 2 less are used.
#define A_ZERO 64
#define A_MAX 63
#define B_MAX 127
#define SUM_MAX 256
#include "vector.h"
INLINE vi pairs(vi a, vi b) { return (vi)_mm256_maddubs_epi16((__m256i)a, (__m256i)b); }
INLINE vi add_16(vi a, vi b) { return (vi)_mm256_add_epi16((__m256i)a, (__m256i)b); }
INLINE vi widen(vi pairs) { return (vi)_mm256_madd_epi16((__m256i)pairs, _mm256_set1_epi16(1)); }
#include "training.h"
VARIANT(avx2);
