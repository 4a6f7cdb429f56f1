// The variants of the engine, and the one that suits this CPU.
#define _GNU_SOURCE
#include "engine.h"

#include <string.h>
#if defined(__linux__) && defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern const mb_variant mb_portable;
#if defined(__x86_64__) || defined(_M_X64)
extern const mb_variant mb_avx2, mb_avx512, mb_amx;

// Whether the CPU has AMX tiles and the system lets this process use them.
static int has_amx(void) {
#ifdef EMULATE_AMX
    return 1;
#elif defined(__linux__)
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    int bf16 = d >> 22 & 1, tile = d >> 24 & 1, int8 = d >> 25 & 1;
    return bf16 && tile && int8 && !syscall(SYS_arch_prctl, 0x1023, 18);  // ARCH_REQ_XCOMP_PERM, XTILEDATA
#else
    return 0;
#endif
}
#endif

// Return a variant by name, or the fastest for NULL; NULL if this CPU cannot run it.
__attribute__((visibility("default"))) const mb_variant *mb_find(const char *name) {
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") &&
                 __builtin_cpu_supports("avx512bf16");
    if (avx512 && (!name || !strcmp(name, "amx")) && has_amx()) return &mb_amx;
    if (avx512 && (!name || !strcmp(name, "avx512"))) return &mb_avx512;
    if (avx2 && (!name || !strcmp(name, "avx2"))) return &mb_avx2;
#endif
    if (!name || !strcmp(name, "portable")) return &mb_portable;
    return NULL;
}
