// Attention, a tile of MR queries of one head of one document at a time: scores stay in the cache.
//
// Keys are packed as a matrix B of (keys, H) and values as one of (H, keys), per document and head,
// so that both products are those of product.h. A document's keys are padded to a multiple of NR.
#ifndef MB_ATTENTION_H
#define MB_ATTENTION_H

#include "product.h"

INLINE size_t padded(size_t n) { return (n + NR - 1) / NR * NR; }

// A batch: its tokens' vectors for attention. Heads are the outermost dimension of keys and values.
typedef struct {
    enum precision precision;
    size_t heads, head_dim, documents, tokens;
    const int32_t *starts;  // of the documents, followed by the number of tokens
    size_t *places;         // of the documents among padded keys, followed by their number
    int32_t *queries;       // (T, N, groups of H)
    int32_t *keys;          // (N, panels of documents)
    int32_t *values;        // (N, H / NR panels, groups of keys)
} heads;

INLINE size_t key_groups(const heads *h) { return groups_of(h->precision, h->head_dim); }
INLINE size_t value_panels(const heads *h) { return padded(h->head_dim); }

// Rotate pairs (k, k + H/2) of a head by the angles of a token.
INLINE void rotate(float *x, const float *cosine, const float *sine, size_t half) {
    size_t i = 0;
    for (; i + W <= half; i += W) {
        vf a = load(x + i), b = load(x + half + i), c = load(cosine + i), s = load(sine + i);
        store(x + i, a * c - b * s);
        store(x + half + i, b * c + a * s);
    }
    for (; i < half; i++) {
        float a = x[i], b = x[half + i];
        x[i] = a * cosine[i] - b * sine[i];
        x[half + i] = b * cosine[i] + a * sine[i];
    }
}

// Store Q, K and V of a token, which are rotated already; `at` is its place among padded keys.
static void store_token(heads *h, const float *qkv, size_t token, size_t at) {
    size_t size = h->head_dim, width = h->heads * size, groups = key_groups(h), keys = h->places[h->documents];
    enum precision p = h->precision;
    activations rows = {0, h->queries + token * h->heads * groups, NULL};
    convert(&rows, qkv, size, h->heads, size, p);
    int32_t row[size];
    activations one = {0, row, NULL};
    for (size_t head = 0; head < h->heads; head++) {
        convert(&one, qkv + width + head * size, size, 1, size, p);
        int32_t *panel = h->keys + (head * keys + at / NR * NR) * groups + at % NR;
        for (size_t g = 0; g < groups; g++) panel[g * NR] = row[g];
        const float *v = qkv + 2 * width + head * size;
        size_t value_groups = groups_of(p, keys), group = p == FLOAT32 ? at : at / 2;
        int32_t *to = h->values + head * value_panels(h) * value_groups;
        for (size_t n = 0; n < size; n += W) {
            int32_t *words = to + (n / NR * NR) * value_groups + group * NR + n % NR;
            float last[W] = {0};  // fewer than W channels
            if (n + W > size) memcpy(last, v + n, (size - n) * sizeof *v);
            vi x = (vi)load(n + W <= size ? v + n : last);
            if (p == BFLOAT16) {  // the even token has the lower halves, and is stored first
                vi rounded = (x + 0x7fff + (x >> 16 & 1)) >> 16;
                x = at % 2 ? (load_i(words) & 0xffff) | rounded << 16 : rounded & 0xffff;
            }
            store_i(words, x);
        }
    }
}

INLINE void tile_of(enum precision p, int rows, const int32_t *a, size_t stride, const int32_t *b, size_t groups, tile_f out) {
#ifdef STEP_BF16
    if (p == BFLOAT16) return bf16_tile(rows, a, stride, b, groups, out);
#endif
    (void)p;
    f32_tile(rows, a, stride, b, groups, out);
}

// The softmax of `rows` rows of scores over keys [from, from + count), in place; keys that a query
// does not see get 0. `first` is the position of the first query. Returns 1 / sum of each row.
INLINE void softmax(float *scores, size_t count, int rows, size_t first, size_t from, size_t length, size_t window, float scale, float *inverse) {
    for (int i = 0; i < rows; i++) {
        float *row = scores + i * count;
        size_t query = first + i, low = query > window ? query - window : 0;
        size_t high = query + window < length ? query + window + 1 : length;
        low -= from;  // `from` is at most the lowest key of the tile
        high -= from;
        for (size_t k = 0; k < low; k++) row[k] = -INFINITY;
        for (size_t k = high; k < count; k++) row[k] = -INFINITY;
        vf most = splat(-INFINITY), total = splat(0);
        for (size_t k = 0; k < count; k += W) most = max_v(most, load(row + k));
        float shift = max_of(most) * scale;
        for (size_t k = 0; k < count; k += W) {
            vf e = exp_v(load(row + k) * scale - shift);
            store(row + k, e);
            total += e;
        }
        inverse[i] = 1.0f / sum_v(total);
    }
}

// Attention of one document; y has (T, D) floats. `scores` and `weights` have room for MR rows of
// all padded keys of the longest document, and W more.
static void attend(const heads *h, size_t document, size_t window, float *y, float *scores, int32_t *weights) {
    enum precision p = h->precision;
    size_t start = h->starts[document], length = h->starts[document + 1] - start;
    size_t place = h->places[document], all = h->places[h->documents];
    size_t size = h->head_dim, groups = key_groups(h), value_groups = groups_of(p, all);
    float scale = 1.0f / sqrtf((float)size);
    for (size_t head = 0; head < h->heads; head++) {
        const int32_t *keys = h->keys + (head * all + place) * groups;
        const int32_t *values = h->values + head * value_panels(h) * value_groups + groups_of(p, place) * NR;
        for (size_t first = 0; first < length; first += MR) {
            int rows = length - first < MR ? (int)(length - first) : MR;
            size_t last = first + rows - 1;
            size_t from = (first > window ? first - window : 0) / NR * NR;
            size_t to = padded(last + window < length ? last + window + 1 : length), count = to - from;
            const int32_t *q = h->queries + ((start + first) * h->heads + head) * groups;
            tile_f tile;
            for (size_t n = 0; n < count; n += NR) {
                tile_of(p, rows, q, h->heads * groups, keys + (from + n) * groups, groups, tile);
                for (int i = 0; i < rows; i++)
                    for (int j = 0; j < NV; j++) store(scores + i * count + n + j * W, tile[i][j]);
            }
            float inverse[MR];
            softmax(scores, count, rows, first, from, length, window, scale, inverse);
            activations a = {0, weights, NULL};
            convert(&a, scores, count, rows, count, p);
            for (size_t n = 0; n < size; n += NR) {
                tile_of(p, rows, weights, a.groups, values + n * value_groups + groups_of(p, from) * NR, a.groups, tile);
                for (int i = 0; i < rows; i++)
                    for (int j = 0; j < NV && n + j * W < size; j++) {
                        float *out = y + (start + first + i) * h->heads * size + head * size + n + j * W;
                        vf x = tile[i][j] * inverse[i];
                        if (n + (j + 1) * W <= size) store(out, x);
                        else for (size_t l = 0; n + j * W + l < size; l++) out[l] = x[l];
                    }
            }
        }
    }
}

#endif
