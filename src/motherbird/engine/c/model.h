// The encoder: from token ids to the vectors of the last layer.
#ifndef MB_MODEL_H
#define MB_MODEL_H

#include "attention.h"
#include "engine.h"

#define BLOCK (8 * MR)  // tokens that go through the products of a layer at once

typedef struct {
    float *weight, *bias;  // NULL: no norm, no bias
} norm;

typedef struct {
    norm attention_norm, mlp_norm;
    packed qkv, out, in, down;
    float *qkv_bias, *out_bias, *in_bias, *down_bias;
    size_t window;
    float theta;
} layer;

struct mb_model {
    size_t hidden, glu, heads, vocabulary, count;
    enum precision precision;
    float epsilon;
    float *embedding;
    norm embedding_norm, final_norm;
    layer *layers;
    size_t capacity;
};

static float *copy(const float *from, size_t count) {
    float *to = from ? buffer(4 * count) : NULL;
    if (to) memcpy(to, from, 4 * count);
    return to;
}

static norm copy_norm(const float *weight, const float *bias, size_t size) {
    return (norm){copy(weight, size), copy(bias, size)};
}

static void normalize(const norm *n, const float *x, float *y, size_t size, float epsilon) {
    vf sum = splat(0), squares = splat(0);
    size_t i = 0;
    for (; i + W <= size; i += W) sum += load(x + i);
    float mean = sum_v(sum);
    for (; i < size; i++) mean += x[i];
    mean /= (float)size;
    for (i = 0; i + W <= size; i += W) {
        vf d = load(x + i) - mean;
        squares += d * d;
    }
    float variance = sum_v(squares);
    for (; i < size; i++) variance += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(variance / (float)size + epsilon);
    for (i = 0; i + W <= size; i += W) {
        vf v = (load(x + i) - mean) * scale * load(n->weight + i);
        store(y + i, n->bias ? v + load(n->bias + i) : v);
    }
    for (; i < size; i++) y[i] = (x[i] - mean) * scale * n->weight[i] + (n->bias ? n->bias[i] : 0);
}

// GeGLU, in place: the activation of the first half of a row is the gate of the second.
static void gate(float *x, size_t glu) {
    size_t i = 0;
    for (; i + W <= glu; i += W) store(x + i, gelu(load(x + i)) * load(x + glu + i));
    for (; i < glu; i++) x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f)) * x[glu + i];
}

static mb_model *create(const mb_config *c, const float *embedding, const float *norm_weight, const float *norm_bias,
                        const float *final_weight, const float *final_bias) {
    mb_model *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->hidden = c->hidden, m->glu = c->glu, m->heads = c->heads, m->vocabulary = c->vocabulary;
    m->precision = c->precision, m->epsilon = c->epsilon;
    m->embedding = copy(embedding, m->vocabulary * m->hidden);
    m->embedding_norm = copy_norm(norm_weight, norm_bias, m->hidden);
    m->final_norm = copy_norm(final_weight, final_bias, m->hidden);
    m->capacity = c->layers;
    m->layers = calloc(m->capacity, sizeof *m->layers);
    return m;
}

static int add_layer(mb_model *m, const mb_layer *from) {
    size_t d = m->hidden, f = m->glu;
    layer *l = m->layers + m->count++;
    l->attention_norm = copy_norm(from->attention_norm, from->attention_norm_bias, d);
    l->mlp_norm = copy_norm(from->mlp_norm, from->mlp_norm_bias, d);
    l->qkv_bias = copy(from->qkv_bias, 3 * d), l->out_bias = copy(from->out_bias, d);
    l->in_bias = copy(from->in_bias, 2 * f), l->down_bias = copy(from->down_bias, d);
    l->window = from->window < 0 ? (size_t)1 << 40 : (size_t)from->window;
    l->theta = from->theta;
    return pack(&l->qkv, from->qkv, 3 * d, d, m->precision) | pack(&l->out, from->out, d, d, m->precision) |
           pack(&l->in, from->in, 2 * f, d, m->precision) | pack(&l->down, from->down, d, f, m->precision);
}

static void free_packed(packed *p) { free(p->panels), free(p->scale), free(p->offset); }
static void free_norm(norm *n) { free(n->weight), free(n->bias); }

static void destroy(mb_model *m) {
    for (size_t i = 0; i < m->count; i++) {
        layer *l = m->layers + i;
        free_norm(&l->attention_norm), free_norm(&l->mlp_norm);
        free_packed(&l->qkv), free_packed(&l->out), free_packed(&l->in), free_packed(&l->down);
        free(l->qkv_bias), free(l->out_bias), free(l->in_bias), free(l->down_bias);
    }
    free_norm(&m->embedding_norm), free_norm(&m->final_norm);
    free(m->embedding), free(m->layers), free(m);
}

// Memory of one run.
typedef struct {
    heads heads;
    float *attended;          // (T, D)
    float *wide;              // (BLOCK, the widest product)
    float *narrow;            // (BLOCK, D)
    float *cosine[2], *sine[2];  // (longest, H / 2), for the two last thetas
    float theta[2];
    float *scores;            // see attend
    int32_t *weights;
    activations a;
} scratch;

// Make the tables of cosines and sines of theta the first.
static void tables(scratch *s, float theta, size_t longest, size_t head_dim) {
    size_t half = head_dim / 2;
    if (s->theta[0] == theta) return;
    float *cosine = s->cosine[1], *sine = s->sine[1];
    s->cosine[1] = s->cosine[0], s->sine[1] = s->sine[0];
    s->cosine[0] = cosine, s->sine[0] = sine;
    int known = s->theta[1] == theta;
    s->theta[1] = s->theta[0], s->theta[0] = theta;
    for (size_t k = 0; !known && k < half; k++) {
        float frequency = 1.0f / powf(theta, (float)(2 * k) / (float)head_dim);
        for (size_t t = 0; t < longest; t++) {
            float angle = (float)t * frequency;
            cosine[t * half + k] = cosf(angle);
            sine[t * half + k] = sinf(angle);
        }
    }
}

static void attention_input(const mb_model *m, const layer *l, scratch *s, const float *x, const int32_t *starts, size_t documents) {
    size_t d = m->hidden, size = d / m->heads, half = size / 2, document = 0, tokens = starts[documents];
    for (size_t first = 0; first < tokens; first += BLOCK) {
        size_t count = tokens - first < BLOCK ? tokens - first : BLOCK;
        const float *rows = x + first * d;
        if (l->attention_norm.weight) {
            for (size_t i = 0; i < count; i++) normalize(&l->attention_norm, rows + i * d, s->narrow + i * d, d, m->epsilon);
            rows = s->narrow;
        }
        convert(&s->a, rows, d, count, d, m->precision);
        product(&s->a, count, &l->qkv, l->qkv_bias, s->wide, 3 * d, 0);
        for (size_t i = 0; i < count; i++) {
            while (starts[document + 1] <= (int32_t)(first + i)) document++;
            size_t position = first + i - starts[document];
            float *qkv = s->wide + i * 3 * d;
            for (size_t head = 0; head < 2 * m->heads; head++)
                rotate(qkv + head * size, s->cosine[0] + position * half, s->sine[0] + position * half, half);
            store_token(&s->heads, qkv, first + i, s->heads.places[document] + position);
        }
    }
}

static void attention_output_and_mlp(const mb_model *m, const layer *l, scratch *s, float *x, size_t tokens) {
    size_t d = m->hidden, f = m->glu;
    for (size_t first = 0; first < tokens; first += BLOCK) {
        size_t count = tokens - first < BLOCK ? tokens - first : BLOCK;
        float *rows = x + first * d;
        convert(&s->a, s->attended + first * d, d, count, d, m->precision);
        product(&s->a, count, &l->out, l->out_bias, rows, d, 1);
        for (size_t i = 0; i < count; i++) normalize(&l->mlp_norm, rows + i * d, s->narrow + i * d, d, m->epsilon);
        convert(&s->a, s->narrow, d, count, d, m->precision);
        product(&s->a, count, &l->in, l->in_bias, s->wide, 2 * f, 0);
        for (size_t i = 0; i < count; i++) gate(s->wide + i * 2 * f, f);
        convert(&s->a, s->wide, 2 * f, count, f, m->precision);
        product(&s->a, count, &l->down, l->down_bias, rows, d, 1);
    }
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static int allocate(const mb_model *m, scratch *s, const int32_t *starts, size_t documents) {
    size_t tokens = starts[documents], d = m->hidden, size = d / m->heads, longest = 0, keys = 0;
    heads *h = &s->heads;
    memset(s, 0, sizeof *s);
#ifdef STEP_BF16
    h->precision = m->precision == FLOAT32 ? FLOAT32 : BFLOAT16;
#else
    h->precision = FLOAT32;
#endif
    h->heads = m->heads, h->head_dim = size, h->documents = documents, h->tokens = tokens, h->starts = starts;
    h->places = buffer((documents + 1) * sizeof *h->places);
    if (!h->places) return -1;
    for (size_t i = 0; i < documents; i++) {
        size_t length = starts[i + 1] - starts[i];
        h->places[i] = keys;
        keys += padded(length);
        longest = larger(longest, length);
    }
    h->places[documents] = keys;
    size_t values = m->heads * value_panels(h) * groups_of(h->precision, keys) * 4;
    h->queries = buffer(tokens * m->heads * key_groups(h) * 4);
    h->keys = calloc(1, m->heads * keys * key_groups(h) * 4 + ALIGN);
    h->values = calloc(1, values + ALIGN);
    s->attended = buffer(tokens * d * 4);
    s->wide = buffer(BLOCK * larger(3 * d, 2 * m->glu) * 4);
    s->narrow = buffer(BLOCK * d * 4);
    for (int i = 0; i < 2; i++)
        s->cosine[i] = buffer(longest * size / 2 * 4), s->sine[i] = buffer(longest * size / 2 * 4);
    s->scores = buffer(MR * padded(longest) * 4);
    s->weights = buffer(MR * padded(longest) * 4);
    s->a.rows = buffer(BLOCK * larger(d, m->glu) * 4);
    s->a.scale = buffer(BLOCK * 4);
    return h->queries && h->keys && h->values && s->attended && s->wide && s->narrow && s->cosine[0] && s->cosine[1] && s->sine[0] &&
                   s->sine[1] && s->scores && s->weights && s->a.rows && s->a.scale ? 0 : -1;
}

static void release(scratch *s) {
    free(s->heads.places), free(s->heads.queries), free(s->heads.keys), free(s->heads.values);
    free(s->attended), free(s->wide), free(s->narrow), free(s->cosine[0]), free(s->sine[0]), free(s->cosine[1]), free(s->sine[1]);
    free(s->scores), free(s->weights), free(s->a.rows), free(s->a.scale);
}

static int run(const mb_model *m, const int32_t *ids, const int32_t *starts, int64_t documents, float *x) {
    size_t tokens = starts[documents], d = m->hidden, longest = 0;
    scratch s;
    if (allocate(m, &s, starts, documents)) return release(&s), -1;
    for (int64_t i = 0; i < documents; i++) longest = larger(longest, starts[i + 1] - starts[i]);
    for (size_t t = 0; t < tokens; t++)
        normalize(&m->embedding_norm, m->embedding + (size_t)ids[t] * d, x + t * d, d, m->epsilon);
    for (const layer *l = m->layers; l < m->layers + m->count; l++) {
        tables(&s, l->theta, longest, d / m->heads);
        attention_input(m, l, &s, x, starts, documents);
        for (int64_t i = 0; i < documents; i++) attend(&s.heads, i, l->window, s.attended, s.scores, s.weights);
        attention_output_and_mlp(m, l, &s, x, tokens);
    }
    for (size_t t = 0; t < tokens; t++) normalize(&m->final_norm, x + t * d, x + t * d, d, m->epsilon);
    release(&s);
    return 0;
}

#ifdef STEP_BF16
#define HAS_BF16 1
#else
#define HAS_BF16 0
#endif
#ifdef STEP_I8
#define HAS_INT8 1
#else
#define HAS_INT8 0
#endif
#define VARIANT(NAME) \
    const mb_variant mb_##NAME = {#NAME, HAS_BF16, HAS_INT8, create, add_layer, run, destroy}

#endif
