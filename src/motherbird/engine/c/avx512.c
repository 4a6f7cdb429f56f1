// AVX512 with VNNI and BF16: Ice Lake to Zen 5.
#include <immintrin.h>
#define W 16
#define MR 14
#define NV 2
#define STEP_BF16(sum, a, b) ((vf)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)(a), (__m512bh)(b)))
#define STEP_I8(sum, a, b) ((vi)_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(a), (__m512i)(b)))
#include "model.h"
VARIANT(avx512);
