// What AVX512 does in one instruction; see vector.h.
#define max_v(a, b) ((vf)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define min_v(a, b) ((vf)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define nearest(x) ((vf)_mm512_roundscale_ps((__m512)(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
// Without the mask, numbers below 2^-126 take 300 times as long.
#define scale_by(x, whole)                                                                        \
    ((vf)_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask((__m512)(whole), _mm512_set1_ps(-126.0f), _CMP_GE_OQ), \
                                (__m512)(x), (__m512)(whole)))
#define PAIR_STEP 1
#define pair_bf16(a, b) ((vi)_mm512_cvtne2ps_pbh((__m512)(b), (__m512)(a)))
#define halves_bf16(x) ((vh_any)_mm512_cvtneps_pbh((__m512)(x)))
#define sum_v(x) _mm512_reduce_add_ps((__m512)(x))
#define max_of(x) _mm512_reduce_max_ps((__m512)(x))

// In four rounds: with the row 1, 2, 4 and 8 further on, pairs of 1, 2, 4 and 8 numbers change places.
static inline __attribute__((always_inline)) void transpose_16(__m512i x[16]) {
    __m512i y[16];
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            x[i + 2 * j] = _mm512_unpacklo_epi64(y[i + j], y[i + 2 + j]);
            x[i + 2 * j + 1] = _mm512_unpackhi_epi64(y[i + j], y[i + 2 + j]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; j++) {
            y[i + j] = _mm512_shuffle_i32x4(x[i + j], x[i + 4 + j], 0x88);
            y[i + 4 + j] = _mm512_shuffle_i32x4(x[i + j], x[i + 4 + j], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        x[j] = _mm512_shuffle_i32x4(y[j], y[8 + j], 0x88);
        x[8 + j] = _mm512_shuffle_i32x4(y[j], y[8 + j], 0xdd);
    }
}
#define transpose(x) transpose_16((__m512i *)(x))
