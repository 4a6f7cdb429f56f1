// Matrix products C[M][N] = A[M][K] * B[N][K]^T in float32, bfloat16 and 8 bits.
//
// All three multiply 32-bit groups along K: one float, two bfloat16 or four bytes. B is packed in
// panels of NR rows: a panel has, for each group, the groups of its NR rows side by side. At most MR
// rows of A and a panel give a tile of sums. Those of VR rows fit into the vector registers.
#ifndef MB_PRODUCT_H
#define MB_PRODUCT_H

#include "engine.h"
#include "vector.h"

enum precision { FLOAT32, BFLOAT16, INT8 };

#ifndef MR
#define MR VR        // rows of A in a tile
#define ROW_STEP 1   // by which they are best increased
#endif
#define NV 2         // vectors of a panel's row
#define NR (NV * W)  // rows of B in a panel

#define TILE_ROWS (MR > 16 ? MR : 16)  // of any tile: attention has 16 queries where MR is smaller

typedef vf tile_f[TILE_ROWS][NV];
typedef vi tile_i[TILE_ROWS][NV];

// Fetch what is at the same place of the next panel into the second cache: memory is then read while
// other rows of A are multiplied with this panel.
#define FETCH_NEXT(address) __builtin_prefetch(address, 0, 2)

// So that sums stay in registers.
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// NAME_tile(rows, a, stride, b, groups, start, out): sums of `groups` steps, from `start` or 0.
#define TILE(NAME, V, TYPE, STEP)                                                                 \
    INLINE void NAME##_rows(int rows, const int32_t *a, size_t stride, const int32_t *b,          \
                            size_t groups, const int32_t *start, TYPE out) {                      \
        V sums[VR][NV];                                                                           \
        UNROLL for (int i = 0; i < rows; i++)                                                     \
            for (int j = 0; j < NV; j++) sums[i][j] = start ? (V)load_i(start + j * W) : (V){0};  \
        for (size_t k = 0; k < groups; k++, b += NR) {                                            \
            vi panel[NV];                                                                         \
            for (int j = 0; j < NV; j++) FETCH_NEXT(b + groups * NR + j * W);                     \
            for (int j = 0; j < NV; j++) panel[j] = load_i(b + j * W);                            \
            UNROLL for (int i = 0; i < rows; i++) {                                               \
                vi x = splat_i(a[i * stride + k]);                                                \
                for (int j = 0; j < NV; j++) sums[i][j] = STEP(sums[i][j], x, panel[j]);          \
            }                                                                                     \
        }                                                                                         \
        UNROLL for (int i = 0; i < rows; i++)                                                     \
            for (int j = 0; j < NV; j++) out[i][j] = sums[i][j];                                  \
    }                                                                                             \
    static void NAME##_some(int rows, const int32_t *a, size_t stride, const int32_t *b,          \
                            size_t groups, const int32_t *start, TYPE out) {                      \
        switch (rows) {                                                                           \
            ROWS(NAME, 1) ROWS(NAME, 2) ROWS(NAME, 3) ROWS(NAME, 4) ROWS(NAME, 5) ROWS(NAME, 6)   \
            ROWS(NAME, 7) ROWS(NAME, 8) ROWS(NAME, 9) ROWS(NAME, 10) ROWS(NAME, 11)               \
            ROWS(NAME, 12) ROWS(NAME, 13) ROWS(NAME, 14)                                          \
        }                                                                                         \
    }                                                                                             \
    INLINE void NAME##_tile(int rows, const int32_t *a, size_t stride, const int32_t *b,          \
                            size_t groups, const int32_t *start, TYPE out) {                      \
        int step = (rows + (rows + VR - 1) / VR - 1) / ((rows + VR - 1) / VR);                    \
        for (; rows > 0; rows -= step, a += step * stride, out += step)                           \
            NAME##_some(rows < step ? rows : step, a, stride, b, groups, start, out);             \
    }
#define ROWS(NAME, R)                                                                             \
    case R:                                                                                       \
        if (R <= VR) NAME##_rows(R < VR ? R : VR, a, stride, b, groups, start, out);              \
        break;

INLINE vf step_f32(vf sum, vi a, vi b) { return sum + (vf)a * (vf)b; }
TILE(f32, vf, tile_f, step_f32)
#ifdef AMX
#include "amx.h"
#else
#define begin_tiles()
#define end_tiles()
#ifdef STEP_BF16
TILE(bf16, vf, tile_f, STEP_BF16)
#endif
#ifdef SUM_MAX
#include "pairs.h"
#else
TILE(i8, vi, tile_i, STEP_I8)
#endif
#endif

INLINE size_t groups_of(enum precision p, size_t k) {
    return p == FLOAT32 ? k : p == BFLOAT16 ? k / 2 : round_up(k / 4, GROUP_STEP);
}

// The rows of each tile but the last, for `count` rows.
INLINE size_t tile_rows(size_t count) {
    size_t tiles = (count + MR - 1) / MR;
    return round_up((count + tiles - 1) / tiles, ROW_STEP);
}

// A matrix B and the bias of its rows, packed: n is a multiple of NR and k of NR.
typedef struct {
    size_t n, k, groups;
    enum precision precision;
    int32_t *panels;
    float *bias;     // or NULL
    float *scale;    // with 8 bits: of each row
    int32_t *start;  // with 8 bits: -A_ZERO times the sum of the row, because a byte of A has A_ZERO added
} packed;

INLINE uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Pack k floats as row `row` of B.
static void pack_row(packed *out, size_t row, const float *from) {
    int32_t *panel = out->panels + row / NR * NR * out->groups + row % NR;
    float largest = 1e-30f;
    int32_t sum = 0;
    for (size_t i = 0; i < out->k; i++) largest = fabsf(from[i]) > largest ? fabsf(from[i]) : largest;
    float scale = largest / B_MAX;
#ifdef SUM_MAX
    for (size_t i = 0; i < out->k; i += i % 4 ? 6 : 2) {  // i and i + 1, i + 4 and i + 5
        float plus = 0, minus = 0;
        for (size_t j = 0; j < 4; j++) {
            float x = from[i + j / 2 * 4 + j % 2];
            plus += x > 0 ? x : 0, minus -= x < 0 ? x : 0;
        }
        scale = fmaxf(scale, fmaxf(plus, minus) / SUM_MAX);
    }
#endif
    float inverse = 1.0f / scale;
    for (size_t i = 0; i < out->k; i++) {
        if (out->precision == FLOAT32) {
            memcpy(panel + i * NR, from + i, 4);
        } else if (out->precision == BFLOAT16) {
            uint16_t half = to_bf16(from[i]);
            memcpy((uint16_t *)(panel + i / 2 * NR) + i % 2, &half, 2);
        } else {
            int32_t whole = (int32_t)((from[i] * inverse + 12582912.0f) - 12582912.0f);
            ((int8_t *)(panel + i / 4 * NR))[i % 4] = (int8_t)whole;
            sum += whole;
        }
    }
    if (out->precision == INT8) out->scale[row] = scale, out->start[row] = -A_ZERO * sum;
}

static void free_packed(packed *p) { release(p->panels), release(p->bias), release(p->scale), release(p->start); }

// Read row `row` of a tensor of `columns` columns as floats.
static void read_row(const mb_tensor *t, size_t row, size_t columns, float *out) {
    if (t->dtype == MB_FLOAT32) {
        memcpy(out, (const float *)t->data + row * columns, 4 * columns);
        return;
    }
    const uint16_t *from = (const uint16_t *)t->data + row * columns;
    for (size_t i = 0; i < columns; i++) {
        uint32_t h = from[i], bits = h << 16;
        if (t->dtype == MB_FLOAT16) {
            uint32_t sign = (h & 0x8000) << 16, rest = h & 0x7fff;
            if (rest < 0x400) {  // zero or subnormal
                float x = (float)rest * 5.9604644775390625e-8f;
                memcpy(&bits, &x, 4);
                bits |= sign;
            } else {
                bits = sign | ((rest << 13) + 0x38000000);
            }
        }
        memcpy(out + i, &bits, 4);
    }
}

// Pack a tensor: row r of B is its row rows[r], or 0 where that is -1; columns likewise (NULL: as
// they are). Returns -1 without memory.
static int pack(packed *out, const mb_tensor *weight, const mb_tensor *bias, size_t source_columns,
                const int32_t *rows, size_t n, const int32_t *columns, size_t k, enum precision p) {
    size_t groups = groups_of(p, k);
    *out = (packed){n, k, groups, p, buffer(n * groups * 4), NULL, NULL, NULL};
    float *source = zeros(4 * larger(source_columns, k)), *row = zeros(4 * k);
    int ok = out->panels && source && row;
    if (ok) memset(out->panels, 0, 4 * n * groups);
    if (p == INT8) {
        out->scale = buffer(4 * n), out->start = buffer(4 * n);
        ok = ok && out->scale && out->start;
    }
    if (bias->data) ok = (out->bias = zeros(4 * n)) && ok;
    for (size_t r = 0; ok && r < n; r++) {
        memset(row, 0, 4 * k);
        if (rows[r] >= 0) {
            read_row(weight, (size_t)rows[r], source_columns, source);
            if (!columns) memcpy(row, source, 4 * source_columns);
            for (size_t i = 0; columns && i < k; i++) row[i] = columns[i] >= 0 ? source[columns[i]] : 0;
            if (out->bias) read_row(bias, (size_t)rows[r], 1, out->bias + r);
        }
        pack_row(out, r, row);
    }
    release(source), release(row);
    return ok ? 0 : -1;
}

// Rows of A, in groups; with 8 bits a scale for each row.
typedef struct {
    size_t groups;
    int32_t *rows;
    float *scale;
} activations;

// Convert a row of k floats to bytes, `zero` plus -most to most; returns their scale.
INLINE float to_bytes(const float *x, size_t k, int most, int zero, void *to) {
    vf largest = splat(1e-30f);
    for (size_t i = 0; i < k; i += W) largest = max_v(largest, abs_v(load(x + i)));
    float scale = max_of(largest) / (float)most, inverse = 1.0f / scale;
    for (size_t i = 0; i < k; i += W) {
        vi whole = __builtin_convertvector(nearest(load(x + i) * inverse), vi) + zero;
        *(vb_any *)((uint8_t *)to + i) = __builtin_convertvector(whole, vb_any);
    }
    return scale;
}

// Convert a row of k floats.
INLINE void convert(activations *out, size_t row, const float *x, size_t k, enum precision p) {
    int32_t *to = out->rows + row * (out->groups = groups_of(p, k));
    if (p == FLOAT32) {
        memcpy(to, x, 4 * k);
    } else if (p == BFLOAT16) {
        for (size_t i = 0; i < k; i += W)
            *(vh_any *)((uint16_t *)to + i) = halves_bf16(load(x + i));
    } else {
        out->scale[row] = to_bytes(x, k, A_MAX, A_ZERO, to);
    }
}

// The tile of `rows` rows of A from `row` on, with the panel of B that starts at row `n`.
INLINE void multiply(const activations *a, size_t row, int rows, const packed *b, size_t n, tile_f out) {
    const int32_t *from = a->rows + row * a->groups, *panel = b->panels + n * b->groups;
    if (b->precision == FLOAT32) {
        f32_tile(rows, from, a->groups, panel, b->groups, NULL, out);
#ifdef STEP_BF16
    } else if (b->precision == BFLOAT16) {
        bf16_tile(rows, from, a->groups, panel, b->groups, NULL, out);
#endif
    } else {
        tile_i sums;
        i8_tile(rows, from, a->groups, panel, b->groups, b->start + n, sums);
        vf scale[NV];
        for (int j = 0; j < NV; j++) scale[j] = load(b->scale + n + j * W);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < NV; j++) out[i][j] = to_float(sums[i][j]) * (scale[j] * a->scale[row + i]);
    }
    for (int j = 0; b->bias && j < NV; j++) {
        vf bias = load(b->bias + n + j * W);
        for (int i = 0; i < rows; i++) out[i][j] += bias;
    }
}

// Multiply `count` rows of A with panels [first, last) of B, and call WRITE(target, row, n, x) for
// the NR results of each row and panel.
#define PRODUCT(NAME, TARGET, WRITE)                                                              \
    static void NAME(const activations *a, size_t count, const packed *b, size_t first,           \
                     size_t last, const TARGET *target) {                                         \
        size_t step = tile_rows(count);                                                           \
        for (size_t n = first * NR; n < last * NR; n += NR)                                       \
            for (size_t row = 0; row < count; row += step) {                                      \
                size_t rows = smaller(step, count - row);                                         \
                tile_f tile;                                                                      \
                multiply(a, row, (int)rows, b, n, tile);                                          \
                for (size_t i = 0; i < rows; i++) WRITE(target, row + i, n, tile[i]);             \
            }                                                                                     \
    }

#endif
