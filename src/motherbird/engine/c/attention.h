// Attention of one head of one document: a tile of queries at a time, so that scores stay in the
// cache. Both of its products are those of product.h: B is the keys, then the values.
#ifndef MB_ATTENTION_H
#define MB_ATTENTION_H

#include "product.h"

// Queries of a tile. Windows of whole panels then begin and end at panels as often as possible.
#define QUERIES TILE_ROWS
// Keys in 8 bits: four of them are added where four weights of a row are (`pack_row`).
#ifdef SUM_MAX
#define KEY_MAX (SUM_MAX / 4)
#else
#define KEY_MAX B_MAX
#endif

// Queries, keys and values of a batch: (3, heads, T, size). `size` is the head dimension, with each
// half padded to a multiple of W. Queries and keys are rotated and in groups (see product.h);
// queries are multiplied by log2(e) / sqrt(head dimension). Values are in their order, and so are the
// results, which replace the queries.
typedef struct {
    enum precision precision;  // float32 or bfloat16
    size_t heads, tokens, size;
    size_t groups;  // of `size`: the words of a token
    int32_t *words;
} qkv;

INLINE int32_t *row_of(const qkv *q, size_t part, size_t head, size_t token) {
    return q->words + ((part * q->heads + head) * q->tokens + token) * q->groups;
}

// Memory for one head of a document of up to `length` tokens.
typedef struct {
    float *row;           // (size)
    activations queries;  // (QUERIES, size), for scores in 8 bits
    packed keys;          // (length, size)
    int32_t *values;      // packed
    float *scores;        // (QUERIES, length)
    int32_t *weights;     // the same in groups
} attention_memory;

static int attention_allocate(attention_memory *m, const qkv *from, size_t length) {
    size_t all = round_up(length, NR), groups = larger(from->groups, groups_of(INT8, from->size));
    m->row = buffer(4 * from->size), m->queries.rows = buffer(4 * (QUERIES + MR) * groups), m->queries.scale = buffer(4 * QUERIES);
    m->keys.panels = buffer(4 * all * groups), m->keys.scale = buffer(4 * all), m->keys.start = buffer(4 * all);
    m->values = buffer(4 * all * from->groups);
    m->scores = buffer(4 * QUERIES * all), m->weights = buffer(4 * (QUERIES + MR) * all);
    int ok = m->row && m->queries.rows && m->queries.scale && m->keys.panels && m->keys.scale && m->keys.start;
    return ok && m->values && m->scores && m->weights ? 0 : -1;
}

static void attention_free(attention_memory *m) {
    release(m->row), release(m->queries.rows), release(m->queries.scale), free_packed(&m->keys);
    release(m->values), release(m->scores), release(m->weights);
}

// A query (part 0), a key or a value as floats.
INLINE void floats_of(const qkv *in, size_t part, size_t head, size_t token, float *out) {
    const int32_t *from = row_of(in, part, head, token);
    if (in->precision == FLOAT32) {
        memcpy(out, from, 4 * in->size);
        return;
    }
    for (size_t n = 0; n < in->size; n += W)
        store(out + n, (vf)(__builtin_convertvector(*(const vh_any *)((const uint16_t *)from + n), vi) << 16));
}

// Pack the keys of a document, or another part: a panel has NR tokens.
static void pack_keys(const qkv *in, size_t part, size_t head, size_t start, size_t length, enum precision p,
                      attention_memory *m, packed *out) {
    size_t groups = out->groups = groups_of(p, in->size), tokens = round_up(length, NR);
    out->precision = p;
    if (p != INT8) {
        for (size_t t = 0; t < tokens; t += W)
            for (size_t g = 0; g < groups; g += W) {
                vi x[W];
                for (size_t l = 0; l < W; l++)
                    x[l] = t + l < length ? load_i(row_of(in, part, head, start + t + l) + g) : splat_i(0);
                transpose(x);
                int32_t *to = out->panels + t / NR * NR * groups + g * NR + t % NR;
                for (size_t l = 0; l < W; l++) store_i(to + l * NR, x[l]);
            }
        return;
    }
    for (size_t t = 0; t < tokens; t++) {
        if (t < length) floats_of(in, part, head, start + t, m->row);
        else memset(m->row, 0, 4 * in->size);
        int8_t *bytes = (int8_t *)m->queries.rows;
        out->scale[t] = to_bytes(m->row, in->size, KEY_MAX, 0, bytes);
        int32_t sum = 0;
        for (size_t i = 0; i < in->size; i++) sum += bytes[i];
        out->start[t] = -A_ZERO * sum;
        int32_t *panel = out->panels + t / NR * NR * groups + t % NR;
        for (size_t g = 0; g < groups; g++) panel[g * NR] = g < in->size / 4 ? m->queries.rows[g] : 0;
    }
}

// Pack `length` values: a panel has NR channels. In bfloat16, a group is two tokens, as `pair_bf16` has them.
static void pack_values(const int32_t *from, size_t length, size_t size, enum precision p, int32_t *to) {
    size_t all = round_up(length, NR), groups = groups_of(p, size);
    for (size_t n = 0; n < size; n += W) {
        int32_t *panel = to + n / NR * NR * groups_of(p, all) + n % NR;
        for (size_t block = 0; block < all; block += NR)
            for (size_t t = block; t < block + (p == FLOAT32 ? NR : W); t++, panel += NR) {
                if (p == FLOAT32) {
                    store_i(panel, t < length ? load_i(from + t * groups + n) : splat_i(0));
                    continue;
                }
                vi x[2] = {splat_i(0), splat_i(0)};
                for (int h = 0; h < 2; h++) {
                    size_t at = PAIR_STEP == 1 ? 2 * t - block + h : t + h * W;
                    if (at < length) x[h] = __builtin_convertvector(*(const vh_any *)((const uint16_t *)(from + at * groups) + n), vi);
                }
                store_i(panel, x[0] | x[1] << 16);
            }
    }
}

// The results of all heads for a token, as floats: (heads, size).
INLINE void results_of(const qkv *in, size_t token, float *out) {
    for (size_t head = 0; head < in->heads; head++) floats_of(in, 0, head, token, out + head * in->size);
}

INLINE void attention_tile(enum precision p, int rows, const int32_t *a, size_t stride, const int32_t *b, size_t groups, tile_f out) {
#ifdef STEP_BF16
    if (p == BFLOAT16) {
        bf16_tile(rows, a, stride, b, groups, NULL, out);
        return;
    }
#endif
    (void)p;
    f32_tile(rows, a, stride, b, groups, NULL, out);
}

typedef struct {
    size_t first, last, length, window;  // queries [first, last] of a document
    size_t from, to;  // keys: multiples of NR
} span;

INLINE size_t lowest(const span *s, size_t query) { return query > s->window ? query - s->window : 0; }
INLINE size_t end_of(const span *s, size_t query) { return smaller(s->length, query + s->window + 1); }

// Scores of a tile of queries; -infinity for keys that a query does not see. `most` is the largest
// of each query, by lane.
static void scores_of(const span *s, const activations *queries, const packed *keys, float *scores, vf *most) {
    size_t count = s->to - s->from;
    int rows = (int)(s->last - s->first + 1);
    vi lanes;
    for (int l = 0; l < W; l++) lanes[l] = l;
    for (int i = 0; i < rows; i++) most[i] = splat(-INFINITY);
    for (size_t n = s->from; n < s->to; n += NR) {
        tile_f tile;
        multiply(queries, 0, rows, keys, n, tile);
        int all = n >= lowest(s, s->last) && n + NR <= end_of(s, s->first);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < NV; j++) {
                vf x = tile[i][j];
                if (!all) {
                    vi key = lanes + (int32_t)(n + j * W);
                    vi seen = (key >= (int32_t)lowest(s, s->first + i)) & (key < (int32_t)end_of(s, s->first + i));
                    x = choose(seen, x, splat(-INFINITY));
                }
                most[i] = max_v(most[i], x);
                store(scores + i * count + (n - s->from) + j * W, x);
            }
    }
}

// Convert scores to weights that are not divided by their sum; `inverse` is 1 / sum, and `shift` was
// subtracted from the scores.
static void softmax(float *scores, size_t count, int rows, enum precision p, const vf *most, int32_t *weights,
                    float *inverse, float *shift) {
    for (int i = 0; i < rows; i++) {
        const float *row = scores + i * count;
        int32_t *to = weights + i * groups_of(p, count);
        shift[i] = max_of(most[i]);
        vf sum[NV] = {splat(0), splat(0)};
        for (size_t k = 0; k < count; k += NR) {
            vf a = load(row + k) - shift[i], b = load(row + k + W) - shift[i];
            if (p == FLOAT32) {
                a = exp2_v(a), b = exp2_v(b);
                store_i(to + k, (vi)a), store_i(to + k + W, (vi)b);
            } else {
                a = exp2_rough(a), b = exp2_rough(b);
                store_i(to + k / 2, pair_bf16(a, b));
            }
            sum[0] += a, sum[1] += b;
        }
        inverse[i] = 1.0f / sum_v(sum[0] + sum[1]);
    }
}

// One head of a document of `length` tokens that starts at token `start`; `bytes`: scores in 8 bits.
// `logsum`, unless NULL, gets log2 of the sum of the powers of 2 of each query's scores.
static void attend(const qkv *in, size_t start, size_t length, size_t head, size_t window, int bytes,
                   attention_memory *m, float *logsum) {
    enum precision p = in->precision;
    size_t all = round_up(length, NR), step = QUERIES;
    pack_keys(in, 1, head, start, length, bytes ? INT8 : p, m, &m->keys);
    pack_values(row_of(in, 2, head, start), length, in->size, p, m->values);
    for (size_t first = 0; first < length; first += step) {
        span s = {first, smaller(first + step, length) - 1, length, window, 0, 0};
        s.from = lowest(&s, s.first) / NR * NR, s.to = round_up(end_of(&s, s.last), NR);
        int count = (int)(s.last - s.first + 1);
        vf most[QUERIES];
        float inverse[QUERIES], shift[QUERIES];
        activations queries = {in->groups, row_of(in, 0, head, start + s.first), NULL};
        for (int i = 0; bytes && i < count; i++) {
            floats_of(in, 0, head, start + s.first + i, m->row);
            convert(&m->queries, i, m->row, in->size, INT8);
        }
        if (!bytes && count < QUERIES) {  // rows beyond them are read too (see amx.h), and others write there
            memcpy(m->queries.rows, queries.rows, 4 * count * in->groups);
            queries.rows = m->queries.rows;
        }
        scores_of(&s, bytes ? &m->queries : &queries, &m->keys, m->scores, most);
        softmax(m->scores, s.to - s.from, count, p, most, m->weights, inverse, shift);
        for (int i = 0; logsum && i < count; i++) logsum[s.first + i] = shift[i] - log2f(inverse[i]);
        size_t keys = groups_of(p, s.to - s.from);
        for (size_t n = 0; n < in->size; n += NR) {
            tile_f tile;
            attention_tile(p, count, m->weights, keys, m->values + n * groups_of(p, all) + groups_of(p, s.from) * NR, keys, tile);
            for (int i = 0; i < count; i++)
                for (int j = 0; j < NV; j++) {
                    int32_t *to = row_of(in, 0, head, start + s.first + i);
                    vf x = tile[i][j] * inverse[i];
                    if (p == FLOAT32) store_i(to + n + j * W, (vi)x);
                    else *(vh_any *)((uint16_t *)to + n + j * W) = halves_bf16(x);
                }
        }
    }
}

#endif
