// Vectors of W floats or 32-bit integers, in the vector extensions of gcc and clang.
//
// A file that includes this defines W; the compiler's flags decide which instructions are used.
// Letters of shapes are those of docs/architecture.md: T tokens, D hidden size, F GLU size, N heads,
// H head dimension.
#ifndef MB_VECTOR_H
#define MB_VECTOR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define ALIGN 64  // bytes; of all buffers

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
// The same without alignment, to load and store.
typedef float vf_any __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t vi_any __attribute__((vector_size(4 * W), aligned(4), may_alias));

INLINE vf load(const float *p) { return *(const vf_any *)p; }
INLINE void store(float *p, vf x) { *(vf_any *)p = x; }
INLINE vi load_i(const void *p) { return *(const vi_any *)p; }
INLINE void store_i(void *p, vi x) { *(vi_any *)p = x; }
INLINE vf splat(float x) { return x - (vf){0}; }
INLINE vi splat_i(int32_t x) { return x - (vi){0}; }
INLINE vf choose(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
INLINE vf max_v(vf a, vf b) { return choose(a > b, a, b); }
INLINE vf min_v(vf a, vf b) { return choose(a < b, a, b); }
INLINE vf abs_v(vf x) { return (vf)((vi)x & 0x7fffffff); }

INLINE float sum_v(vf x) {
    float total = 0;
    for (int i = 0; i < W; i++) total += x[i];
    return total;
}

INLINE float max_of(vf x) {
    float largest = x[0];
    for (int i = 1; i < W; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

// e^x with a relative error of 2e-7, for x from -87 to 88; lower values give 0.
INLINE vf exp_v(vf x) {
    vf clamped = min_v(max_v(x, splat(-87.3f)), splat(88.3f));
    vf scaled = clamped * 1.44269504f;
    vf rounded = (scaled + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23: to the nearest integer
    vf r = clamped - rounded * 0.693359375f;
    r = r + rounded * 2.12194440e-4f;
    vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    vi power = (__builtin_convertvector(rounded, vi) + 127) << 23;
    return choose(x < -87.3f, splat(0), p * (vf)power);
}

// The normal distribution's x * P(X <= x), with erf by Abramowitz and Stegun 7.1.26 (1.5e-7).
INLINE vf gelu(vf x) {
    vf z = abs_v(x) * 0.70710678f;
    vf t = 1.0f / (1.0f + 0.3275911f * z);
    vf p = splat(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vf half_tail = 0.5f * p * t * exp_v(-z * z);  // (1 - erf(z)) / 2
    return x * choose(x < 0.0f, half_tail, 1.0f - half_tail);
}

INLINE void *buffer(size_t bytes) { return aligned_alloc(ALIGN, (bytes + 2 * ALIGN - 1) / ALIGN * ALIGN); }

#endif
