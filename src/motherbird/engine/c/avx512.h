// What AVX512 does in one instruction; see vector.h.
#define max_v(a, b) ((vf)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define min_v(a, b) ((vf)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define nearest(x) ((vf)_mm512_roundscale_ps((__m512)(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define scale_by(x, whole) ((vf)_mm512_scalef_ps((__m512)(x), (__m512)(whole)))
#define PAIR_STEP 1
#define pair_bf16(a, b) ((vi)_mm512_cvtne2ps_pbh((__m512)(b), (__m512)(a)))
#define halves_bf16(x) ((vh_any)_mm512_cvtneps_pbh((__m512)(x)))
