// AVX2 with FMA.
#define W 8
#define MR 6
#define NV 2
#include "model.h"
VARIANT(avx2);
