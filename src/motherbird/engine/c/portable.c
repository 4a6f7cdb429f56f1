// Any CPU.
#define W 4
#define VR 4
#define GROUP_STEP 1
#define A_ZERO 128
#define A_MAX 127
#define B_MAX 127
#include "vector.h"
INLINE vi step_i8(vi sum, vi a, vi b) {
    for (int shift = 0; shift < 32; shift += 8) sum += (a >> shift & 0xff) * (b << (24 - shift) >> 24);
    return sum;
}
#define STEP_I8 step_i8
#include "forward.h"
VARIANT(portable);
