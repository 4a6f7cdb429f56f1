// Products C[M][N] = A[M][K] * B[N][K]^T, in float32, bfloat16 and 8 bits.
//
// All three multiply 32-bit groups along K: one float, two bfloat16 or four bytes. B is packed in
// panels of NR rows: a panel has, for each group, the groups of its NR rows side by side. A tile of
// MR rows of A and a panel give MR x NR sums that stay in registers.
#ifndef MB_PRODUCT_H
#define MB_PRODUCT_H

#include "vector.h"

enum precision { FLOAT32, BFLOAT16, INT8 };

#define NR (NV * W)

typedef vf tile_f[MR][NV];
typedef vi tile_i[MR][NV];

#define TILE(NAME, V, TYPE, STEP)                                                                 \
    INLINE void NAME##_rows(int rows, const int32_t *a, size_t stride, const int32_t *b,          \
                            size_t groups, TYPE out) {                                            \
        V sums[MR][NV];                                                                           \
        for (int i = 0; i < rows; i++)                                                            \
            for (int j = 0; j < NV; j++) sums[i][j] = (V){0};                                     \
        for (size_t k = 0; k < groups; k++, b += NR) {                                            \
            vi panel[NV];                                                                         \
            for (int j = 0; j < NV; j++) panel[j] = load_i(b + j * W);                            \
            _Pragma("GCC unroll 16") for (int i = 0; i < rows; i++) {                             \
                vi x = splat_i(a[i * stride + k]);                                                \
                for (int j = 0; j < NV; j++) sums[i][j] = STEP(sums[i][j], x, panel[j]);          \
            }                                                                                     \
        }                                                                                         \
        for (int i = 0; i < rows; i++)                                                            \
            for (int j = 0; j < NV; j++) out[i][j] = sums[i][j];                                  \
    }                                                                                             \
    static void NAME##_tile(int rows, const int32_t *a, size_t stride, const int32_t *b,          \
                            size_t groups, TYPE out) {                                            \
        if (rows == MR) return NAME##_rows(MR, a, stride, b, groups, out);                        \
        for (; rows >= 4; rows -= 4, a += 4 * stride, out += 4)                                   \
            NAME##_rows(4, a, stride, b, groups, out);                                            \
        for (; rows > 0; rows--, a += stride, out++) NAME##_rows(1, a, stride, b, groups, out);   \
    }

INLINE vf step_f32(vf sum, vi a, vi b) { return sum + (vf)a * (vf)b; }
TILE(f32, vf, tile_f, step_f32)
#ifdef STEP_BF16
TILE(bf16, vf, tile_f, STEP_BF16)
#endif
#ifdef STEP_I8
TILE(i8, vi, tile_i, STEP_I8)
#endif

INLINE size_t groups_of(enum precision p, size_t k) {
    return p == FLOAT32 ? k : p == BFLOAT16 ? (k + 1) / 2 : (k + 3) / 4;
}

INLINE uint16_t to_bf16(float x) {  // to the nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// A matrix B, packed. With 8 bits: a scale for each row, and 128 times the sum of its integers,
// because activations are unsigned with a zero point of 128.
typedef struct {
    size_t n, k, groups;
    enum precision precision;
    int32_t *panels;
    float *scale;
    int32_t *offset;
} packed;

static int pack(packed *out, const float *b, size_t n, size_t k, enum precision p) {
    size_t groups = groups_of(p, k), columns = (n + NR - 1) / NR * NR;
    *out = (packed){n, k, groups, p, buffer(columns * groups * 4), NULL, NULL};
    if (!out->panels) return -1;
    memset(out->panels, 0, columns * groups * 4);
    if (p == INT8) {
        out->scale = buffer(columns * 4);
        out->offset = buffer(columns * 4);
        if (!out->scale || !out->offset) return -1;
        memset(out->scale, 0, columns * 4);
        memset(out->offset, 0, columns * 4);
    }
    for (size_t row = 0; row < n; row++) {
        const float *from = b + row * k;
        int32_t *panel = out->panels + row / NR * NR * groups + row % NR;
        float largest = 1e-30f;
        for (size_t i = 0; p == INT8 && i < k; i++) largest = fmaxf(largest, fabsf(from[i]));
        float scale = largest / 127.0f;
        int32_t sum = 0;
        for (size_t i = 0; i < k; i++) {
            if (p == FLOAT32) {
                memcpy(panel + i * NR, from + i, 4);
            } else if (p == BFLOAT16) {
                uint16_t half = to_bf16(from[i]);
                memcpy((uint16_t *)(panel + i / 2 * NR) + i % 2, &half, 2);
            } else {
                int8_t whole = (int8_t)lrintf(from[i] / scale);
                memcpy((int8_t *)(panel + i / 4 * NR) + i % 4, &whole, 1);
                sum += whole;
            }
        }
        if (p == INT8) out->scale[row] = scale, out->offset[row] = 128 * sum;
    }
    return 0;
}

// Rows of activations, ready to be multiplied: in groups, and with 8 bits a scale for each row.
typedef struct {
    size_t groups;
    int32_t *rows;
    float *scale;
} activations;

// Convert `count` rows of k floats that are `stride` floats apart.
static void convert(activations *out, const float *x, size_t stride, size_t count, size_t k, enum precision p) {
    size_t groups = out->groups = groups_of(p, k);
    for (size_t row = 0; row < count; row++) {
        const float *from = x + row * stride;
        int32_t *to = out->rows + row * groups;
        if (p == FLOAT32) {
            memcpy(to, from, 4 * k);
        } else if (p == BFLOAT16) {
            uint16_t *half = (uint16_t *)to;
            size_t i = 0;
            for (; i + W <= k; i += W) {
                vi bits = (vi)load(from + i);
                vi rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
                typedef uint16_t vh __attribute__((vector_size(2 * W), aligned(2), may_alias));
                *(vh *)(half + i) = __builtin_convertvector(rounded, vh);
            }
            for (; i < k; i++) half[i] = to_bf16(from[i]);
            if (k % 2) half[k] = 0;
        } else {
            vf most = splat(0);
            size_t i = 0;
            for (; i + W <= k; i += W) most = max_v(most, abs_v(load(from + i)));
            float largest = max_of(most);
            for (; i < k; i++) largest = fmaxf(largest, fabsf(from[i]));
            float scale = fmaxf(largest, 1e-30f) / 127.0f, inverse = 1.0f / scale;
            out->scale[row] = scale;
            uint8_t *bytes = (uint8_t *)to;
            typedef uint8_t vb __attribute__((vector_size(W), aligned(1), may_alias));
            for (i = 0; i + W <= k; i += W) {
                vf near = (load(from + i) * inverse + 12582912.0f) - 12582912.0f;
                *(vb *)(bytes + i) = __builtin_convertvector(__builtin_convertvector(near, vi) + 128, vb);
            }
            for (; i < 4 * groups; i++) bytes[i] = i < k ? (uint8_t)(lrintf(from[i] * inverse) + 128) : 0;
        }
    }
}

// Compute the floats of a tile: rows of A from `row` on, with the panel that starts at column `n`.
INLINE void floats(const activations *a, size_t row, int rows, const packed *b, size_t n, tile_f out) {
    const int32_t *from = a->rows + row * a->groups, *panel = b->panels + n * b->groups;
    if (b->precision == FLOAT32) {
        f32_tile(rows, from, a->groups, panel, b->groups, out);
#ifdef STEP_BF16
    } else if (b->precision == BFLOAT16) {
        bf16_tile(rows, from, a->groups, panel, b->groups, out);
#endif
#ifdef STEP_I8
    } else if (b->precision == INT8) {
        tile_i sums;
        i8_tile(rows, from, a->groups, panel, b->groups, sums);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < NV; j++) {
                vi whole = sums[i][j] - load_i(b->offset + n + j * W);
                out[i][j] = __builtin_convertvector(whole, vf) * a->scale[row + i] * load(b->scale + n + j * W);
            }
#endif
    }
}

// C[count][n] = A * B^T (+ bias); rows of C are `stride` floats apart. With `add`, it is added to C.
static void product(const activations *a, size_t count, const packed *b, const float *bias, float *c,
                    size_t stride, int add) {
    for (size_t n = 0; n < b->n; n += NR)
        for (size_t m = 0; m < count; m += MR) {
            int rows = count - m < MR ? (int)(count - m) : MR;
            tile_f tile;
            floats(a, m, rows, b, n, tile);
            for (int i = 0; i < rows; i++)
                for (int j = 0; j < NV; j++) {
                    float *to = c + (m + i) * stride + n + j * W;
                    size_t left = n + j * W < b->n ? b->n - n - j * W : 0;
                    if (left >= W) {
                        vf x = tile[i][j];
                        if (bias) x += load(bias + n + j * W);
                        store(to, add ? load(to) + x : x);
                    } else {
                        for (size_t l = 0; l < left; l++)
                            to[l] = tile[i][j][l] + (bias ? bias[n + j * W + l] : 0) + (add ? to[l] : 0);
                    }
                }
        }
}

#endif
