// AVX512 with VNNI and BF16: Cooper Lake, Sapphire Rapids, Zen 4 and later.
#include <immintrin.h>
#define W 16
#define VR 14
#define GROUP_STEP 1
#define A_ZERO 128
#define A_MAX 127
#define B_MAX 127
#include "avx512.h"
#define STEP_BF16(sum, a, b) ((vf)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)(a), (__m512bh)(b)))
#define STEP_I8(sum, a, b) ((vi)_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(a), (__m512i)(b)))
#include "training.h"
VARIANT(avx512);
