// Vectors of W floats or 32-bit integers, in the vector extensions of gcc and clang.
//
// A file that includes this defines W; the compiler's flags decide which instructions are used.
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
// The same in memory, where they are not aligned; and W 16-bit or 8-bit integers.
typedef float vf_any __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t vi_any __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint16_t vh_any __attribute__((vector_size(2 * W), aligned(2), may_alias));
typedef uint8_t vb_any __attribute__((vector_size(W), aligned(1), may_alias));

INLINE vf load(const float *p) { return *(const vf_any *)p; }
INLINE void store(float *p, vf x) { *(vf_any *)p = x; }
INLINE vi load_i(const void *p) { return *(const vi_any *)p; }
INLINE void store_i(void *p, vi x) { *(vi_any *)p = x; }
INLINE vf splat(float x) { return x - (vf){0}; }
INLINE vi splat_i(int32_t x) { return x - (vi){0}; }
INLINE vf choose(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
#ifndef max_v  // a variant may define what its instructions do better
INLINE vf max_v(vf a, vf b) { return choose(a > b, a, b); }
INLINE vf min_v(vf a, vf b) { return choose(a < b, a, b); }
#endif
INLINE vf abs_v(vf x) { return (vf)((vi)x & 0x7fffffff); }
INLINE vf to_float(vi x) { return __builtin_convertvector(x, vf); }

#ifndef sum_v
INLINE float sum_v(vf x) {
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
}

INLINE float max_of(vf x) {
    float largest = x[0];
    for (int i = 1; i < W; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}
#endif

// Transpose W rows of W numbers.
#ifndef transpose
INLINE void transpose(vi x[W]) {
    for (int i = 0; i < W; i++)
        for (int j = 0; j < i; j++) {
            int32_t other = x[i][j];
            x[i][j] = x[j][i], x[j][i] = other;
        }
}
#endif

INLINE void copy_words(int32_t *to, const int32_t *from, size_t count) {  // a multiple of W
    for (size_t i = 0; i < count; i += W) store_i(to + i, load_i(from + i));
}

// The nearest integer, for |x| below 2^22.
#ifndef nearest
INLINE vf nearest(vf x) { return (x + 12582912.0f) - 12582912.0f; }
#endif

// x times 2^whole, for x of 1/2 to 2; 0 if whole is below -126.
#ifndef scale_by
INLINE vf scale_by(vf x, vf whole) {
    vi power = (__builtin_convertvector(whole, vi) + 127) << 23;
    return choose(whole < -126.0f, splat(0), x * (vf)power);
}
#endif

// 2^x for x of at most 0; 0 below -126. The relative error is 2e-7.
INLINE vf exp2_v(vf x) {
    vf bounded = max_v(x, splat(-200.0f)), whole = nearest(bounded), r = bounded - whole;
    vf p = 1.327646659e-3f * r + 9.675541291e-3f;  // least squares on [-1/2, 1/2]
    p = p * r + 5.550713290e-2f;
    p = p * r + 2.402211972e-1f;
    p = p * r + 6.931469671e-1f;
    return scale_by(p * r + 1.0f, whole);
}

// The same with a relative error of 8e-5, where the result is rounded to bfloat16.
INLINE vf exp2_rough(vf x) {
    vf bounded = max_v(x, splat(-200.0f)), whole = nearest(bounded), r = bounded - whole;
    vf p = 5.517162187e-2f * r + 2.426111186e-1f;
    p = p * r + 6.932609942e-1f;
    return scale_by(p * r + 9.999280740e-1f, whole);
}

// The normal distribution's P(X <= x). The error of erf, a rational function, is 3e-7.
INLINE vf below(vf x) {
    vf z = min_v(max_v(x * 0.70710678f, splat(-4.0f)), splat(4.0f)), u = z * z;
    vf p = 1.921701181e-8f * u - 1.990246335e-6f;
    p = p * u + 1.555241152e-4f;
    p = p * u + 4.292587212e-3f;
    p = p * u + 5.243206285e-2f;
    p = p * u + 2.139342306e-1f;
    p = p * u + 1.128378678f;
    vf q = 1.097919771e-3f * u + 1.555017495e-2f;
    q = q * u + 1.207952717e-1f;
    q = q * u + 5.229219361e-1f;
    q = q * u + 1.0f;
    return 0.5f * (1.0f + z * p / q);
}

INLINE vf gelu(vf x) { return x * below(x); }

// 1 / (1 + e^-x)
INLINE vf sigmoid(vf x) {
    vf t = exp2_v(abs_v(x) * -1.44269504f), small = t / (1.0f + t);
    return choose(x < 0.0f, small, 1.0f - small);
}

// Numbered as `ACTIVATIONS` in library.py. gelu_pytorch_tanh is 0.5 x (1 + tanh(z)) = x sigmoid(2z).
enum activation { GELU, GELU_TANH, SILU, RELU, NO_ACTIVATION };
INLINE vf activate(vf x, enum activation kind) {
    if (kind == GELU) return gelu(x);
    if (kind == GELU_TANH) return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x));
    if (kind == SILU) return x * sigmoid(x);
    return kind == RELU ? max_v(x, splat(0)) : x;
}

// bfloat16, to nearest with ties to even. `pair_bf16` packs two vectors into groups of two: lane l of
// a with lane l of b (PAIR_STEP W), or the lanes 2 l and 2 l + 1 of a, then of b (PAIR_STEP 1).
#ifndef PAIR_STEP
#define PAIR_STEP W
INLINE vi round_bf16(vf x) { return (vi)x + 0x7fff + ((vi)x >> 16 & 1); }
INLINE vi pair_bf16(vf a, vf b) {
    return (round_bf16(a) >> 16 & 0xffff) | (round_bf16(b) & (int32_t)0xffff0000);
}
INLINE vh_any halves_bf16(vf x) { return __builtin_convertvector(round_bf16(x) >> 16, vh_any); }
#endif

// Add the products of four unsigned bytes of a and four signed ones of b.
INLINE vi dot_bytes(vi sum, vi a, vi b) {
    for (int shift = 0; shift < 32; shift += 8) sum += (a >> shift & 0xff) * (b << (24 - shift) >> 24);
    return sum;
}

INLINE size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
INLINE size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
INLINE size_t larger(size_t a, size_t b) { return a > b ? a : b; }

#ifdef _WIN32
#include <malloc.h>
#define aligned_alloc(align, bytes) _aligned_malloc(bytes, align)
#define release(pointer) _aligned_free(pointer)
#else
#define release(pointer) free(pointer)
#endif
INLINE void *buffer(size_t bytes) { return aligned_alloc(ALIGN, round_up(bytes + ALIGN, ALIGN)); }
INLINE void *zeros(size_t bytes) {
    void *made = buffer(bytes);
    return made ? memset(made, 0, bytes) : NULL;
}

#endif
