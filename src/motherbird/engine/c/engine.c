// The variants of the engine, and the one that suits this CPU.
#include "engine.h"

#include <string.h>

extern const mb_variant mb_portable;
#if defined(__x86_64__) || defined(_M_X64)
extern const mb_variant mb_avx2, mb_avx512;
#endif

// Return a variant by name, or the fastest for NULL; NULL if this CPU cannot run it.
__attribute__((visibility("default"))) const mb_variant *mb_find(const char *name) {
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") &&
                 __builtin_cpu_supports("avx512bf16");
    if (avx512 && (!name || !strcmp(name, "avx512"))) return &mb_avx512;
    if (avx2 && (!name || !strcmp(name, "avx2"))) return &mb_avx2;
#endif
    if (!name || !strcmp(name, "portable")) return &mb_portable;
    return NULL;
}
