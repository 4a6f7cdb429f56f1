// Any CPU.
#define W 4
#define VR 4
#define GROUP_STEP 1
#define A_ZERO 128
#define A_MAX 127
#define B_MAX 127
#define STEP_I8 dot_bytes
#include "training.h"
VARIANT(portable);
