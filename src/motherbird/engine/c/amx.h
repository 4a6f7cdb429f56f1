// Tiles of 16 rows of 16 groups. A row of tile 0 to 3 is a row of sums: 0 and 1 of the first 16 rows
// of A, 2 and 3 of the next. Tiles 4 and 5 are A, 6 and 7 are the halves of a panel of B.
//
// Rows of A beyond those that are asked for are read and multiplied too; what comes of them is not
// used. All buffers of A have MR rows more for this.
#ifndef MB_AMX_H
#define MB_AMX_H

#ifdef EMULATE  // to test this file on other CPUs
static _Thread_local int32_t tiles[8][16][16];

static void tile_load(int t, const void *from, size_t stride) {
    for (int i = 0; i < 16; i++) memcpy(tiles[t][i], (const char *)from + i * stride, 64);
}

static void tile_store(int t, void *to, size_t stride) {
    for (int i = 0; i < 16; i++) memcpy((char *)to + i * stride, tiles[t][i], 64);
}

static float upper(uint32_t x) {
    float y;
    return memcpy(&y, &x, 4), y;
}

static void tile_dp_bf16(int c, int a, int b) {
    for (int i = 0; i < 16; i++)
        for (int n = 0; n < 16; n++) {
            float sum = upper((uint32_t)tiles[c][i][n]);
            for (int k = 0; k < 16; k++) {
                uint32_t x = (uint32_t)tiles[a][i][k], y = (uint32_t)tiles[b][k][n];
                sum += upper(x << 16) * upper(y << 16) + upper(x & 0xffff0000) * upper(y & 0xffff0000);
            }
            memcpy(&tiles[c][i][n], &sum, 4);
        }
}

static void tile_dp_i8(int c, int a, int b) {
    for (int i = 0; i < 16; i++)
        for (int n = 0; n < 16; n++)
            for (int k = 0; k < 64; k++)
                tiles[c][i][n] += ((uint8_t *)tiles[a][i])[k] * ((int8_t *)&tiles[b][k / 4][n])[k % 4];
}

static void tile_zero(int t) { memset(tiles[t], 0, sizeof tiles[t]); }
#define begin_tiles()
#define end_tiles()
#else
#define tile_load(t, from, stride) _tile_loadd(t, from, stride)
#define tile_store(t, to, stride) _tile_stored(t, to, stride)
#define tile_zero(t) _tile_zero(t)
#define tile_dp_bf16(c, a, b) _tile_dpbf16ps(c, a, b)
#define tile_dp_i8(c, a, b) _tile_dpbusd(c, a, b)

static void begin_tiles(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int t = 0; t < 8; t++) config.bytes[t] = 64, config.rows[t] = 16;
    _tile_loadconfig(&config);
}

static void end_tiles(void) { _tile_release(); }
#endif

#define AMX_TILE(NAME, TYPE, DP)                                                                  \
    static void NAME##_tile(int rows, const int32_t *a, size_t stride, const int32_t *b,          \
                            size_t groups, const int32_t *start, TYPE out) {                      \
        int two = rows > 16;                                                                      \
        if (start) {                                                                              \
            tile_load(0, start, 0); tile_load(1, start + W, 0);                                   \
            tile_load(2, start, 0); tile_load(3, start + W, 0);                                   \
        } else {                                                                                  \
            tile_zero(0); tile_zero(1); tile_zero(2); tile_zero(3);                               \
        }                                                                                         \
        for (size_t k = 0; k < groups; k += 16, b += 16 * NR) {                                   \
            tile_load(4, a + k, 4 * stride);                                                      \
            tile_load(6, b, 4 * NR);                                                              \
            DP(0, 4, 6);                                                                          \
            tile_load(7, b + W, 4 * NR);                                                          \
            DP(1, 4, 7);                                                                          \
            if (two) {                                                                            \
                tile_load(5, a + 16 * stride + k, 4 * stride);                                    \
                DP(2, 5, 6);                                                                      \
                DP(3, 5, 7);                                                                      \
            }                                                                                     \
        }                                                                                         \
        tile_store(0, out[0], 4 * NR); tile_store(1, out[0] + 1, 4 * NR);                         \
        if (two) {                                                                                \
            tile_store(2, out[16], 4 * NR);                                                       \
            tile_store(3, out[16] + 1, 4 * NR);                                                   \
        }                                                                                         \
    }
AMX_TILE(bf16, tile_f, tile_dp_bf16)
AMX_TILE(i8, tile_i, tile_dp_i8)

#endif
