// What the layers of the encoder compute between their matrix products, forward and backward. One
// call is one thread's. Matrices are rows of floats or of bfloat16 ("low": the precision of products);
// the residual stream, gradients of weights and all arithmetic are float32.
#ifndef MB_TRAINING_H
#define MB_TRAINING_H

#include "forward.h"

INLINE vf load_low(enum precision p, const void *row, size_t at) {
    if (p == FLOAT32) return load((const float *)row + at);
    return (vf)(__builtin_convertvector(*(const vh_any *)((const uint16_t *)row + at), vi) << 16);
}

INLINE void store_low(enum precision p, void *row, size_t at, vf x) {
    if (p == FLOAT32) store((float *)row + at, x);
    else *(vh_any *)((uint16_t *)row + at) = halves_bf16(x);
}

INLINE const void *low_row(enum precision p, const void *rows, size_t at) {
    return (const char *)rows + at * (p == FLOAT32 ? 4 : 2);
}

// Set the rows after the last token to 0.
INLINE void pad_rows(int64_t precision, void *rows, int64_t tokens, int64_t padded, size_t width) {
    size_t bytes = width * (precision == FLOAT32 ? 4 : 2);
    if (rows) memset((char *)rows + tokens * bytes, 0, (padded - tokens) * bytes);
}

// --- norms

// x + y, and its norm: (T, D) each. Without y, `sum` is not written; without a weight, `out` is the sum
// itself; without `out` there is no norm. `stats` gets the mean and 1 / deviation of each row.
INLINE void add_norm_rows(enum precision p, const mb_rows *r, const float *x, const void *y, float *sum,
                          const float *weight, const float *bias, float *stats, void *out) {
    size_t width = r->width;
    for (size_t t = 0; t < (size_t)r->tokens; t++, x += width) {
        const float *from = x;
        void *to = (void *)low_row(p, out, t * width);
        if (y) {
            float *row = sum + t * width;
            const void *other = low_row(p, y, t * width);
            for (size_t i = 0; i < width; i += W) store(row + i, load(x + i) + load_low(p, other, i));
            from = row;
        }
        if (!out) continue;
        vf total = splat(0), squares = splat(0);
        for (size_t i = 0; weight && i < width; i += W) total += load(from + i);
        float mean = sum_v(total) / (float)width;
        for (size_t i = 0; weight && i < width; i += W) {
            vf d = load(from + i) - mean;
            squares += d * d;
        }
        float scale = 1.0f / sqrtf(sum_v(squares) / (float)width + (float)r->epsilon);
        if (weight) stats[2 * t] = mean, stats[2 * t + 1] = scale;
        for (size_t i = 0; i < width; i += W) {
            vf v = load(from + i);
            if (weight) v = (v - mean) * scale * load(weight + i);
            store_low(p, to, i, bias ? v + load(bias + i) : v);
        }
    }
}

// dx = d + the gradient of the norm's input, for the gradient `dout` of its output; also rounded, in
// `low`, unless that is NULL. The gradients of weight and bias are added to.
INLINE void norm_backward_rows(enum precision p, const mb_rows *r, const void *dout, const float *x, const float *stats,
                               const float *weight, const float *d, float *dx, void *low, float *dweight, float *dbias) {
    size_t width = r->width;
    for (size_t t = 0; t < (size_t)r->tokens; t++, x += width, d += width, dx += width) {
        const void *grad = low_row(p, dout, t * width);
        void *to = (void *)low_row(p, low, t * width);
        vf sum = splat(0), product = splat(0);
        float mean = 0, scale = 0;
        if (weight) mean = stats[2 * t], scale = stats[2 * t + 1];
        for (size_t i = 0; weight && i < width; i += W) {
            vf g = load_low(p, grad, i), normal = (load(x + i) - mean) * scale, h = g * load(weight + i);
            store(dweight + i, load(dweight + i) + g * normal);
            if (dbias) store(dbias + i, load(dbias + i) + g);
            sum += h, product += h * normal;
        }
        float a = sum_v(sum) / (float)width, b = sum_v(product) / (float)width;
        for (size_t i = 0; i < width; i += W) {
            vf g = load_low(p, grad, i);
            if (weight) g = (g * load(weight + i) - a - (load(x + i) - mean) * scale * b) * scale;
            g += load(d + i);
            store(dx + i, g);
            if (low) store_low(p, to, i, g);
        }
    }
}

// --- the gated MLP

// `activate`, and its derivative.
INLINE vf activate_slope(vf x, enum activation kind, vf *slope) {
    vf y = x;
    if (kind == GELU) {
        vf p = below(x);
        y = x * p, *slope = p + x * exp2_v(x * x * -0.72134752f) * 0.39894228f;
    } else if (kind == GELU_TANH || kind == SILU) {
        vf z = x, dz = splat(1);
        if (kind == GELU_TANH) z = 1.59576912f * (x + 0.044715f * x * x * x), dz = 1.59576912f * (1.0f + 0.134145f * x * x);
        vf s = sigmoid(z);
        y = x * s, *slope = s + x * s * (1.0f - s) * dz;
    } else {
        y = activate(x, kind), *slope = choose(x > 0.0f, splat(1), splat(0));
    }
    return y;
}

// out (T, F) = activation(first half of in (T, 2 F)) * second half
INLINE void gate_rows(enum precision p, const mb_rows *r, const void *in, void *out) {
    size_t f = r->width;
    enum activation kind = (enum activation)r->activation;
    for (size_t t = 0; t < (size_t)r->tokens; t++) {
        const void *row = low_row(p, in, 2 * f * t);
        void *to = (void *)low_row(p, out, f * t);
        for (size_t i = 0; i < f; i += W)
            store_low(p, to, i, activate(load_low(p, row, i), kind) * load_low(p, row, f + i));
    }
}

// The gradient (T, 2 F) of `in`; `out` is computed again.
INLINE void gate_backward_rows(enum precision p, const mb_rows *r, const void *in, const void *dout, void *din, void *out) {
    size_t f = r->width;
    enum activation kind = (enum activation)r->activation;
    for (size_t t = 0; t < (size_t)r->tokens; t++) {
        const void *row = low_row(p, in, 2 * f * t), *grad = low_row(p, dout, f * t);
        void *drow = (void *)low_row(p, din, 2 * f * t), *to = (void *)low_row(p, out, f * t);
        for (size_t i = 0; i < f; i += W) {
            vf x = load_low(p, row, i), gated = load_low(p, row, f + i), g = load_low(p, grad, i), slope;
            vf y = activate_slope(x, kind, &slope);
            store_low(p, to, i, y * gated);
            store_low(p, drow, i, g * gated * slope);
            store_low(p, drow, f + i, g * y);
        }
    }
}

// One copy of the loops for each precision.
#define BY_PRECISION(r, NAME, ...)                                                                \
    if ((r)->precision == FLOAT32) NAME(FLOAT32, __VA_ARGS__);                                    \
    else NAME(BFLOAT16, __VA_ARGS__)

static void add_norm(const mb_rows *r, const float *x, const void *y, float *sum, const float *weight,
                     const float *bias, float *stats, void *out) {
    BY_PRECISION(r, add_norm_rows, r, x, y, sum, weight, bias, stats, out);
    pad_rows(r->precision, out, r->tokens, r->padded, r->width);
}

static void norm_backward(const mb_rows *r, const void *dout, const float *x, const float *stats, const float *weight,
                          const float *d, float *dx, void *low, float *dweight, float *dbias) {
    BY_PRECISION(r, norm_backward_rows, r, dout, x, stats, weight, d, dx, low, dweight, dbias);
    pad_rows(r->precision, low, r->tokens, r->padded, r->width);
}

static void gate(const mb_rows *r, const void *in, void *out) {
    BY_PRECISION(r, gate_rows, r, in, out);
    pad_rows(r->precision, out, r->tokens, r->padded, r->width);
}

static void gate_backward(const mb_rows *r, const void *in, const void *dout, void *din, void *out) {
    BY_PRECISION(r, gate_backward_rows, r, in, dout, din, out);
    pad_rows(r->precision, din, r->tokens, r->padded, 2 * r->width);
    pad_rows(r->precision, out, r->tokens, r->padded, r->width);
}

// --- attention

// Rotate the halves of a row of one head by the token's angles, times a sign, and multiply it.
INLINE void rotate(enum precision from, enum precision to, const void *x, const float *cosine, const float *sine,
                   float sign, float scale, size_t half, void *out) {
    for (size_t i = 0; i < half; i += W) {
        vf a = load_low(from, x, i), b = load_low(from, x, half + i);
        vf c = load(cosine + i) * scale, s = load(sine + i) * (sign * scale);
        store_low(to, out, i, a * c - b * s), store_low(to, out, half + i, b * c + a * s);
    }
}

// Room for queries, keys and values of all heads of a document, and for `dout` if there are four parts.
static int qkv_allocate(const mb_attention *a, size_t parts, qkv *out) {
    enum precision p = (enum precision)a->precision;
    *out = (qkv){p, a->heads, a->longest, a->size, groups_of(p, a->size), NULL};
    out->words = buffer(4 * (parts * a->heads * a->longest + MR) * out->groups);
    return out->words ? 0 : -1;
}

// Read a document of (T, 3 D) as attention.h does: Q and K rotated, Q times log2(e) / sqrt(H). With
// `dout` (T, D), that is part 3.
static void read_qkv(const mb_attention *a, const void *in, const void *dout, size_t start, size_t length, qkv *out) {
    enum precision p = out->precision;
    size_t size = a->size, width = a->heads * size;
    float scale = 1.44269504f / sqrtf((float)size);
    for (size_t t = 0; t < length; t++) {
        size_t from = start + t;
        const float *cosine = a->cosine + from * size / 2, *sine = a->sine + from * size / 2;
        for (size_t h = 0; h < out->heads; h++) {
            for (size_t part = 0; part < 2; part++) {
                const void *x = low_row(p, in, from * 3 * width + part * width + h * size);
                rotate(p, p, x, cosine, sine, 1.0f, part ? 1.0f : scale, size / 2, row_of(out, part, h, t));
            }
            copy_words(row_of(out, 2, h, t), low_row(p, in, from * 3 * width + 2 * width + h * size), out->groups);
            if (dout) copy_words(row_of(out, 3, h, t), low_row(p, dout, from * width + h * size), out->groups);
        }
    }
}

// out (T, D), and `logsum` (N, T) for the backward pass. Returns -1 without memory.
static int attention_forward(const mb_attention *a, const void *in, void *out, float *logsum) {
    qkv q;
    attention_memory m = {0};
    int failed = qkv_allocate(a, 3, &q) || attention_allocate(&m, &q, a->longest);
    size_t window = a->window < 0 ? (size_t)a->longest : (size_t)a->window, width = q.heads * q.size;
    begin_tiles();
    for (size_t d = 0; !failed && d < (size_t)a->documents; d++) {
        size_t start = a->starts[d], length = a->starts[d + 1] - start;
        read_qkv(a, in, NULL, start, length, &q);
        for (size_t h = 0; h < q.heads; h++) {
            attend(&q, 0, length, h, window, 0, &m, logsum + h * a->tokens + start);
            for (size_t t = 0; t < length; t++)
                copy_words((void *)low_row(q.precision, out, (start + t) * width + h * q.size), row_of(&q, 0, h, t), q.groups);
        }
    }
    end_tiles();
    pad_rows(a->precision, out, a->tokens, a->padded, width);
    attention_free(&m), release(q.words);
    return failed ? -1 : 0;
}

// Memory of the backward pass for one head of a document of up to `length` tokens.
typedef struct {
    packed tokens[4];     // queries, keys, values and dout in panels of tokens
    int32_t *channels[4];  // the same in panels of channels, but for values
    float *logsum, *delta;  // of each query
    int32_t *p, *ds;       // (TILE_ROWS, length) in groups
    int32_t *rows;         // (TILE_ROWS, size): a tile of A
    int32_t *others;       // the same of the other product
    float *sums;           // (TILE_ROWS, size)
} backward_memory;

static int backward_allocate(backward_memory *m, const qkv *q, size_t length) {
    size_t all = round_up(length, NR), rows = TILE_ROWS + MR;
    int ok = 1;
    for (int i = 0; i < 4; i++) {
        m->tokens[i] = (packed){all, q->size, q->groups, q->precision, buffer(4 * all * q->groups), NULL, NULL, NULL};
        m->channels[i] = buffer(4 * all * q->groups);
        ok = ok && m->tokens[i].panels && m->channels[i];
    }
    m->logsum = zeros(4 * all), m->delta = zeros(4 * all);
    m->p = buffer(4 * rows * all), m->ds = buffer(4 * rows * all), m->sums = buffer(4 * TILE_ROWS * q->size);
    m->rows = zeros(4 * rows * q->groups), m->others = zeros(4 * rows * q->groups);
    return ok && m->logsum && m->delta && m->p && m->ds && m->sums && m->rows && m->others ? 0 : -1;
}

static void backward_free(backward_memory *m) {
    for (int i = 0; i < 4; i++) release(m->tokens[i].panels), release(m->channels[i]);
    release(m->logsum), release(m->delta), release(m->p), release(m->ds), release(m->sums);
    release(m->rows), release(m->others);
}

// For a tile of queries against keys, or of keys against queries (`by_key`): the gradients of scores
// and, by key, their powers, both in groups.
static void score_gradients(const span *s, const backward_memory *m, enum precision p, int by_key) {
    int count = (int)(s->last - s->first + 1);
    size_t stride = groups_of(p, s->to - s->from);
    activations rows = {m->tokens[0].groups, m->rows, NULL}, others = {rows.groups, m->others, NULL};
    vi lanes;
    for (int l = 0; l < W; l++) lanes[l] = l;
    for (size_t n = s->from; n < s->to; n += NR) {
        tile_f x, y;
        multiply(&rows, 0, count, m->tokens + !by_key, n, x);
        multiply(&others, 0, count, m->tokens + (by_key ? 3 : 2), n, y);
        int all = n >= lowest(s, s->last) && n + NR <= end_of(s, s->first);
        for (int i = 0; i < count; i++) {
            vf power[NV], gradient[NV];
            for (int j = 0; j < NV; j++) {
                size_t at = n + j * W;
                vf shift = by_key ? load(m->logsum + at) : splat(m->logsum[s->first + i]);
                vf delta = by_key ? load(m->delta + at) : splat(m->delta[s->first + i]);
                vf score = min_v(x[i][j] - shift, splat(0));
                vf power_of = p == FLOAT32 ? exp2_v(score) : exp2_rough(score);
                if (!all) {
                    vi key = lanes + (int32_t)at;
                    vi seen = (key >= (int32_t)lowest(s, s->first + i)) & (key < (int32_t)end_of(s, s->first + i));
                    power_of = choose(seen, power_of, splat(0));
                }
                power[j] = power_of, gradient[j] = power_of * (y[i][j] - delta);
            }
            int32_t *to = m->ds + i * stride + groups_of(p, n - s->from), *at = m->p + i * stride + groups_of(p, n - s->from);
            if (p == FLOAT32) {
                for (int j = 0; j < NV; j++) store_i(to + j * W, (vi)gradient[j]), store_i(at + j * W, (vi)power[j]);
            } else {
                store_i(to, pair_bf16(gradient[0], gradient[1]));
                if (by_key) store_i(at, pair_bf16(power[0], power[1]));
            }
        }
    }
}

// m->sums = weights (count, length) * values (length, size)
static void weighted_sums(const span *s, const backward_memory *m, const int32_t *weights, const int32_t *values, const qkv *q) {
    enum precision p = q->precision;
    size_t stride = groups_of(p, s->to - s->from), all = groups_of(p, round_up(s->length, NR));
    int count = (int)(s->last - s->first + 1);
    for (size_t n = 0; n < q->size; n += NR) {
        tile_f tile;
        attention_tile(p, count, weights, stride, values + n * all + groups_of(p, s->from) * NR, stride, tile);
        for (int i = 0; i < count; i++)
            for (int j = 0; j < NV; j++) store(m->sums + i * q->size + n + j * W, tile[i][j]);
    }
}

// The gradients of one head of a document, to `din` (T, 3 D).
static void attend_backward(const mb_attention *a, const qkv *q, size_t start, size_t length, size_t h, size_t window,
                            backward_memory *m, attention_memory *pack, void *din) {
    enum precision p = q->precision;
    size_t half = q->size / 2, width = q->heads * q->size;
    for (size_t part = 0; part < 4; part++) {
        pack_keys(q, part, h, 0, length, p, pack, m->tokens + part);
        if (part != 2) pack_values(row_of(q, part, h, 0), length, q->size, p, m->channels[part]);
    }
    for (size_t t = length; t < round_up(length, NR); t++) m->logsum[t] = 0, m->delta[t] = 0;
    for (int by_key = 0; by_key < 2; by_key++)
        for (size_t first = 0; first < length; first += TILE_ROWS) {
            span s = {first, smaller(first + TILE_ROWS, length) - 1, length, window, 0, 0};
            s.from = lowest(&s, s.first) / NR * NR, s.to = round_up(end_of(&s, s.last), NR);
            size_t count = s.last - s.first + 1;
            memcpy(m->rows, row_of(q, by_key, h, first), 4 * count * q->groups);
            memcpy(m->others, row_of(q, by_key ? 2 : 3, h, first), 4 * count * q->groups);
            score_gradients(&s, m, p, by_key);
            // Q was multiplied by log2(e) / sqrt(H).
            weighted_sums(&s, m, m->ds, m->channels[!by_key], q);
            float scale = by_key ? 0.69314718f : 1.0f / sqrtf((float)q->size);
            for (size_t i = 0; i < count; i++) {
                size_t t = start + first + i;
                void *to = (void *)low_row(p, din, t * 3 * width + by_key * width + h * q->size);
                rotate(FLOAT32, p, m->sums + i * q->size, a->cosine + t * half, a->sine + t * half, -1.0f, scale, half, to);
            }
            if (!by_key) continue;
            weighted_sums(&s, m, m->p, m->channels[3], q);
            for (size_t i = 0; i < count; i++) {
                void *to = (void *)low_row(p, din, (start + first + i) * 3 * width + 2 * width + h * q->size);
                for (size_t c = 0; c < q->size; c += W) store_low(p, to, c, load(m->sums + i * q->size + c));
            }
        }
}

// din (T, 3 D), from what `attention_forward` was given and made. Returns -1 without memory.
static int attention_backward(const mb_attention *a, const void *in, const void *out, const void *dout,
                              const float *logsum, void *din) {
    qkv q;
    backward_memory m = {0};
    attention_memory pack = {0};
    int failed = qkv_allocate(a, 4, &q) || backward_allocate(&m, &q, a->longest);
    size_t window = a->window < 0 ? (size_t)a->longest : (size_t)a->window, width = q.heads * q.size;
    begin_tiles();
    for (size_t d = 0; !failed && d < (size_t)a->documents; d++) {
        size_t start = a->starts[d], length = a->starts[d + 1] - start;
        read_qkv(a, in, dout, start, length, &q);
        for (size_t h = 0; h < q.heads; h++) {
            memcpy(m.logsum, logsum + h * a->tokens + start, 4 * length);
            for (size_t t = 0; t < length; t++) {
                size_t at = (start + t) * width + h * q.size;
                vf sum = splat(0);
                for (size_t i = 0; i < q.size; i += W)
                    sum += load_low(q.precision, out, at + i) * load_low(q.precision, dout, at + i);
                m.delta[t] = sum_v(sum);
            }
            attend_backward(a, &q, start, length, h, window, &m, &pack, din);
        }
    }
    end_tiles();
    pad_rows(a->precision, din, a->tokens, a->padded, 3 * width);
    backward_free(&m), release(q.words);
    return failed ? -1 : 0;
}

#ifdef STEP_BF16
#define HAS_BF16 1
#else
#define HAS_BF16 0
#endif
#define VARIANT(NAME)                                                                             \
    const mb_variant mb_##NAME = {#NAME, HAS_BF16, create, add_layer, destroy, begin, work, finish,    \
                                  linear, apply, largest, free_linear, add_norm, norm_backward, gate,  \
                                  gate_backward, attention_forward, attention_backward}

#endif
