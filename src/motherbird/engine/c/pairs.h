// 8 bits without an instruction that sums four products in 32 bits: `maddubs` sums two in 16 bits.
//
// The sums of two groups are added in 16 bits before they are widened: four products, which fit if
// the positive and the negative weights of them sum to at most SUM_MAX (`pack_row`).
#ifndef MB_PAIRS_H
#define MB_PAIRS_H

#define VR_I8 4  // rows of A whose sums, with four vectors of a panel, fit into the registers

INLINE void i8_rows(int rows, const int32_t *a, size_t stride, const int32_t *b, size_t groups,
                    const int32_t *start, tile_i out) {
    vi sums[VR_I8][NV];
    UNROLL for (int i = 0; i < rows; i++)
        for (int j = 0; j < NV; j++) sums[i][j] = load_i(start + j * W);
    for (size_t k = 0; k < groups; k += 2, b += 2 * NR) {
        vi panel[2][NV];
        for (int j = 0; j < 2 * NV; j++) FETCH_NEXT(b + groups * NR + j * W);
        for (int j = 0; j < 2 * NV; j++) panel[j / NV][j % NV] = load_i(b + j * W);
        UNROLL for (int i = 0; i < rows; i++) {
            vi x = splat_i(a[i * stride + k]), y = splat_i(a[i * stride + k + 1]);
            for (int j = 0; j < NV; j++)
                sums[i][j] += widen(add_16(pairs(x, panel[0][j]), pairs(y, panel[1][j])));
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        for (int j = 0; j < NV; j++) out[i][j] = sums[i][j];
}

static void i8_tile(int rows, const int32_t *a, size_t stride, const int32_t *b, size_t groups,
                    const int32_t *start, tile_i out) {
    for (; rows > 0; rows -= VR_I8, a += VR_I8 * stride, out += VR_I8) switch (rows) {
        case 1: i8_rows(1, a, stride, b, groups, start, out); break;
        case 2: i8_rows(2, a, stride, b, groups, start, out); break;
        case 3: i8_rows(3, a, stride, b, groups, start, out); break;
        default: i8_rows(4, a, stride, b, groups, start, out);
    }
}

#endif
