// AVX512 with AMX tiles for bfloat16 and 8 bits: Sapphire Rapids and later.
#include <immintrin.h>
#define AMX
#define W 16
#define VR 14
#define MR 32  // two tiles of 16
#define ROW_STEP 16
#define GROUP_STEP 16
#define A_ZERO 128
#define A_MAX 127
#define B_MAX 127
#include "avx512.h"
#define STEP_BF16
#include "training.h"
VARIANT(amx);
