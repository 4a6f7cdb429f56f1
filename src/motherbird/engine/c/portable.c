// Any CPU.
#define W 4
#define MR 4
#define NV 2
#include "model.h"
VARIANT(portable);
