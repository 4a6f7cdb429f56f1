// ARM with NEON and its dot product (ARMv8.2: Cortex-A76, Apple M1, Graviton 2 and later).
#include <arm_neon.h>
#define W 4
#define VR 12
#define GROUP_STEP 1
#define A_ZERO 0
#define A_MAX 127
#define B_MAX 127
#define STEP_I8(sum, a, b) ((vi)vdotq_s32((int32x4_t)(sum), (int8x16_t)(a), (int8x16_t)(b)))
#ifdef __ARM_FEATURE_BF16
#define STEP_BF16(sum, a, b) ((vf)vbfdotq_f32((float32x4_t)(sum), (bfloat16x8_t)(a), (bfloat16x8_t)(b)))
#endif
#include "training.h"
#ifdef __ARM_FEATURE_BF16
VARIANT(neon_bf16);
#else
VARIANT(neon);
#endif
