// A model: its weights, packed.
#ifndef MB_MODEL_H
#define MB_MODEL_H

#include "attention.h"

typedef struct {
    float *weight, *bias;  // padded with 0; NULL: no norm, no bias
} norm;

typedef struct {
    norm attention_norm, mlp_norm;
    packed qkv, out, in, down;
    size_t window;
    int table;  // of its theta
} layer;

#define THETAS 2

// Sizes are padded so that no kernel has a remainder: `width` and `glu` are D and F, `size` is H.
struct mb_model {
    size_t hidden, width, glu, heads, size, head_dim, count;
    float epsilon, theta[THETAS];
    enum precision attention;
    enum activation activation;
    mb_tensor embedding;
    norm embedding_norm, final_norm;
    layer *layers;
};

static float *padded(const mb_tensor *from, size_t count, size_t to) {
    float *out = from->data ? buffer(4 * to) : NULL;
    if (!out) return NULL;
    memset(out, 0, 4 * to);
    read_row(from, 0, count, out);
    return out;
}

static norm copy_norm(const mb_model *m, const mb_tensor *weight, const mb_tensor *bias) {
    return (norm){padded(weight, m->hidden, m->width), padded(bias, m->hidden, m->width)};
}

static void free_norm(norm *n) { release(n->weight), release(n->bias); }

static void destroy(mb_model *m) {
    for (size_t i = 0; m->layers && i < m->count; i++) {
        layer *l = m->layers + i;
        free_norm(&l->attention_norm), free_norm(&l->mlp_norm);
        free_packed(&l->qkv), free_packed(&l->out), free_packed(&l->in), free_packed(&l->down);
    }
    free_norm(&m->embedding_norm), free_norm(&m->final_norm);
    release(m->layers), release(m);
}

static mb_model *create(const mb_config *c) {
    mb_model *m = zeros(sizeof *m);
    if (!m) return NULL;
    m->hidden = c->hidden, m->width = round_up(m->hidden, NR);
    m->glu = round_up(c->glu, NR), m->heads = c->heads;
    m->head_dim = m->hidden / m->heads, m->size = 2 * round_up(m->head_dim / 2, W);
    m->activation = (enum activation)c->activation;
    m->epsilon = (float)c->epsilon;
    m->embedding = c->embedding;
    m->embedding_norm = copy_norm(m, &c->norm, &c->norm_bias);
    m->final_norm = copy_norm(m, &c->final_norm, &c->final_norm_bias);
    m->layers = zeros(c->layers * sizeof *m->layers);
    if (!m->layers || !m->embedding_norm.weight || !m->final_norm.weight) return destroy(m), NULL;
    return m;
}

// Where row r of packed Wqkv comes from. Of queries and keys, a panel has W channels of the first
// half of a head and the same of the second, which rotate together.
static int32_t qkv_row(const mb_model *m, size_t r) {
    size_t width = m->heads * m->size, part = r / width, head = r % width / m->size, i = r % m->size;
    size_t half = m->head_dim / 2, channel = i;
    if (part < 2) {
        size_t at = i / NR * W + i % W;
        if (at >= half) return -1;
        channel = at + i / W % 2 * half;
    }
    return channel < m->head_dim ? (int32_t)(part * m->hidden + head * m->head_dim + channel) : -1;
}

static int add_layer(mb_model *m, const mb_layer *from) {
    size_t d = m->hidden, width = m->heads * m->size, f = (size_t)from->glu;
    layer *l = m->layers + m->count++;
    enum precision p[4];
    for (int i = 0; i < 4; i++) p[i] = (enum precision)from->precision[i];
    l->attention_norm = copy_norm(m, &from->attention_norm, &from->attention_norm_bias);
    l->mlp_norm = copy_norm(m, &from->mlp_norm, &from->mlp_norm_bias);
    l->window = from->window < 0 ? (size_t)1 << 30 : (size_t)from->window;
    float theta = (float)from->theta;
    l->table = m->theta[0] != 0 && m->theta[0] != theta;
    m->theta[l->table] = theta;
#ifdef STEP_BF16
    m->attention = p[0] == FLOAT32 ? FLOAT32 : BFLOAT16;
#endif
    size_t most = larger(3 * width, larger(2 * m->glu, m->width));
    int32_t *rows = buffer(4 * most), *columns = buffer(4 * most);
    int failed = !rows || !columns;
    for (size_t i = 0; !failed && i < 3 * width; i++) rows[i] = qkv_row(m, i);
    failed = failed || pack(&l->qkv, &from->qkv, &from->qkv_bias, d, rows, 3 * width, NULL, m->width, p[0]);
    for (size_t i = 0; !failed && i < most; i++) rows[i] = i < d ? (int32_t)i : -1;
    for (size_t i = 0; !failed && i < width; i++)
        columns[i] = i % m->size < m->head_dim ? (int32_t)(i / m->size * m->head_dim + i % m->size) : -1;
    failed = failed || pack(&l->out, &from->out, &from->out_bias, d, rows, m->width, columns, width, p[1]) ||
             pack(&l->down, &from->down, &from->down_bias, f, rows, m->width, NULL, m->glu, p[3]);
    // A panel of Wi has W rows of the activated half and the W rows of the other that they gate.
    for (size_t i = 0; !failed && i < 2 * m->glu; i++) {
        size_t at = i / NR * W + i % W;
        rows[i] = at < f ? (int32_t)(at + i / W % 2 * f) : -1;
    }
    failed = failed || pack(&l->in, &from->in, &from->in_bias, d, rows, 2 * m->glu, NULL, m->width, p[2]);
    release(rows), release(columns);
    return failed ? -1 : 0;
}

#endif
