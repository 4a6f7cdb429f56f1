// The variants of the engine, and the one that suits this CPU.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "engine.h"

#include <string.h>

#define VISIBLE __attribute__((visibility("default")))
enum { AVX2 = 1, AVXVNNI = 2, AVX512 = 4, AMX = 8, NEON = 16, NEON_BF16 = 32 };

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

// What the system saves of the CPU's registers; GCC's builtins do not say it with every compiler.
static unsigned saved_registers(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int all_of(unsigned value, unsigned bits) { return (value & bits) == bits; }

// What the CPU has, and the system lets this process use.
static int features(void) {
    unsigned a, b, c, d, b7, c7, d7, a71 = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !all_of(c, 1u << 12 | 1u << 27 | 1u << 28)) return 0;  // FMA, OSXSAVE, AVX
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) || !(b7 >> 5 & 1)) return 0;  // AVX2
    if (a) __get_cpuid_count(7, 1, &a71, &b, &c, &d);
    unsigned saved = saved_registers();
    if (!all_of(saved, 0x6)) return 0;
#ifdef EMULATE
    return AVX2 | AVXVNNI | AVX512 | AMX;
#endif
    int found = a71 >> 4 & 1 ? AVX2 | AVXVNNI : AVX2;
    if (!all_of(saved, 0xe6) || !all_of(b7, 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) ||  // F, DQ, BW, VL
        !(c7 >> 11 & 1) || !(a71 >> 5 & 1))                                                 // VNNI, BF16
        return found;
    found |= AVX512;
#ifdef __linux__
    if (all_of(d7, 1u << 22 | 1u << 24 | 1u << 25) &&       // AMX: BF16, TILE, INT8
        !syscall(SYS_arch_prctl, 0x1023, 18))               // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
        found |= AMX;
#endif
    return found;
}
#elif defined(__aarch64__)
#ifdef __linux__
#include <sys/auxv.h>
static int features(void) {
    int found = getauxval(AT_HWCAP) >> 20 & 1 ? NEON : 0;  // HWCAP_ASIMDDP
    return found && getauxval(AT_HWCAP2) >> 14 & 1 ? found | NEON_BF16 : found;
}
#elif defined(__APPLE__)
#include <sys/sysctl.h>
static int has(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return !sysctlbyname(name, &value, &size, NULL, 0) && value;
}

static int features(void) {
    int found = has("hw.optional.arm.FEAT_DotProd") ? NEON : 0;
    return found && has("hw.optional.arm.FEAT_BF16") ? found | NEON_BF16 : found;
}
#else
static int features(void) { return 0; }
#endif
#else
static int features(void) { return 0; }
#endif

extern const mb_variant mb_portable;
#if defined(__x86_64__) || defined(_M_X64)
extern const mb_variant mb_avx2, mb_avxvnni, mb_avx512, mb_amx;
#elif defined(__aarch64__)
extern const mb_variant mb_neon, mb_neon_bf16;
#endif

static const struct {
    int needs;
    const mb_variant *variant;
} VARIANTS[] = {
#if defined(__x86_64__) || defined(_M_X64)
    {AMX, &mb_amx}, {AVX512, &mb_avx512}, {AVXVNNI, &mb_avxvnni}, {AVX2, &mb_avx2},
#elif defined(__aarch64__)
    {NEON_BF16, &mb_neon_bf16}, {NEON, &mb_neon},
#endif
    {0, &mb_portable},
};

// Return a variant by name, or the fastest for NULL; NULL if this CPU cannot run it.
VISIBLE const mb_variant *mb_find(const char *name) {
    int have = features();
    for (size_t i = 0; i < sizeof VARIANTS / sizeof *VARIANTS; i++)
        if ((VARIANTS[i].needs & have) == VARIANTS[i].needs && (!name || !strcmp(name, VARIANTS[i].variant->name)))
            return VARIANTS[i].variant;
    return NULL;
}
