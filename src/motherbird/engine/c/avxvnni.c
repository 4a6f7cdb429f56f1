// AVX2 with AVX-VNNI: Alder Lake, Zen 5 and later.
#include <immintrin.h>
#define W 8
#define VR 6
#define GROUP_STEP 1
#define A_ZERO 128
#define A_MAX 127
#define B_MAX 127
#ifdef EMULATE  // to test this file on other CPUs
#include "vector.h"
#define STEP_I8 dot_bytes
#else
#define STEP_I8(sum, a, b) ((vi)_mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(a), (__m256i)(b)))
#endif
#include "training.h"
VARIANT(avxvnni);
