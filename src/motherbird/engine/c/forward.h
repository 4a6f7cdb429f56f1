// The computation of a batch, in phases of independent tasks. Any number of threads take tasks, each
// the next that nobody has taken, so that results do not depend on how many there are.
#ifndef MB_FORWARD_H
#define MB_FORWARD_H

#include <float.h>
#include <stdatomic.h>
#ifdef _WIN32
int __stdcall SwitchToThread(void);
#define yield_thread() SwitchToThread()
#else
#include <sched.h>
#define yield_thread() sched_yield()
#endif

#include "model.h"

#define BLOCK (8 * MR)  // tokens that go through the products of a layer at once, at most
#define SPLITS 2        // parts of a product for each thread, in a batch of one block

enum { QKV, ATTEND, OUT, IN, DOWN, PHASES };  // of a layer

typedef struct {
    atomic_size_t taken, done;
} progress;

// Memory of one thread.
typedef struct {
    activations a;  // (BLOCK, the widest input)
    size_t has;     // where products are split: the phase whose input it has, from 1 over all layers
    float *row;     // (D)
    float *wide;    // (BLOCK, F)
    attention_memory attention;
} scratch;

struct mb_batch {
    const mb_model *model;
    const int32_t *starts;
    const volatile int32_t *stop;
    size_t documents, tokens, longest, blocks, splits;
    int32_t *positions;  // (T), in the document
    float *x;            // (T, D)
    float *wide;         // (T, F), where products are split
    qkv qkv;
    float *cosine[THETAS], *sine[THETAS];  // (longest, size / 2)
    progress *progress;                    // of each phase
    scratch own;                           // of the thread that begins
    atomic_int own_taken;
};

static void free_scratch(scratch *s) {
    release(s->a.rows), release(s->a.scale), release(s->row), release(s->wide);
    attention_free(&s->attention);
}

static int allocate_scratch(const mb_batch *b, scratch *s) {
    const mb_model *m = b->model;
    size_t widest = larger(m->width, larger(m->glu, m->heads * m->size));
    s->a.rows = buffer(4 * (BLOCK + MR) * widest), s->a.scale = buffer(4 * BLOCK);
    s->row = buffer(4 * widest), s->wide = buffer(4 * BLOCK * m->glu);
    return attention_allocate(&s->attention, &b->qkv, b->longest) || !s->a.rows || !s->a.scale || !s->row || !s->wide ? -1 : 0;
}

// LayerNorm of a row; what is padded with 0 stays 0.
INLINE void normalize(const mb_model *m, const norm *n, const float *x, float *y) {
    vf sum = splat(0), squares = splat(0);
    for (size_t i = 0; i < m->width; i += W) sum += load(x + i);
    float mean = sum_v(sum) / (float)m->hidden;
    for (size_t i = 0; i < m->width; i += W) {
        vf d = load(x + i) - mean;
        squares += d * d;
    }
    float variance = (sum_v(squares) - (float)(m->width - m->hidden) * mean * mean) / (float)m->hidden;
    float scale = 1.0f / sqrtf(variance + m->epsilon);
    for (size_t i = 0; i < m->width; i += W) {
        vf v = (load(x + i) - mean) * scale * load(n->weight + i);
        store(y + i, n->bias ? v + load(n->bias + i) : v);
    }
}

// Convert rows, after a norm or not.
static void input(const mb_batch *b, scratch *s, const norm *n, const float *x, size_t stride, size_t count, const packed *w) {
    for (size_t i = 0; i < count; i++, x += stride) {
        if (n && n->weight) normalize(b->model, n, x, s->row);
        convert(&s->a, i, n && n->weight ? s->row : x, w->k, w->precision);
    }
}

typedef struct {
    const mb_batch *batch;
    size_t first;  // token
    int table;
} qkv_target;

INLINE void write_qkv(const qkv_target *t, size_t row, size_t n, const vf *x) {
    const mb_model *m = t->batch->model;
    const qkv *q = &t->batch->qkv;
    size_t token = t->first + row, width = m->heads * m->size, at_head = n % m->size;
    vf a = x[0], b = x[1];
    if (n < 2 * width) {
        size_t at = (size_t)t->batch->positions[token] * (m->size / 2) + at_head / 2;
        vf c = load(t->batch->cosine[t->table] + at), s = load(t->batch->sine[t->table] + at);
        if (n < width) {
            vf scale = splat(1.44269504f / sqrtf((float)m->head_dim));
            a *= scale, b *= scale;
        }
        vf turned = a * c - b * s;
        b = b * c + a * s, a = turned;
    }
    int32_t *to = row_of(q, 0, n / m->size, token) + groups_of(q->precision, at_head);
    if (q->precision == FLOAT32) {
        store_i(to, (vi)a), store_i(to + W, (vi)b);
    } else if (n < 2 * width) {
        store_i(to, pair_bf16(a, b));
    } else {
        vh_any *halves = (vh_any *)to;
        halves[0] = halves_bf16(a), halves[1] = halves_bf16(b);
    }
}

typedef struct {
    float *y;
    size_t stride;
    enum activation activation;
} rows_target;

INLINE void write_sum(const rows_target *t, size_t row, size_t n, const vf *x) {
    float *y = t->y + row * t->stride + n;
    store(y, load(y) + x[0]), store(y + W, load(y + W) + x[1]);
}

INLINE void write_gated(const rows_target *t, size_t row, size_t n, const vf *x) {
    store(t->y + row * t->stride + n / 2, activate(x[0], t->activation) * x[1]);
}

PRODUCT(qkv_product, qkv_target, write_qkv)
PRODUCT(sum_product, rows_target, write_sum)
PRODUCT(gated_product, rows_target, write_gated)

static size_t tasks(const mb_batch *b, int phase) {
    if (phase == ATTEND) return b->documents * b->model->heads;
    if (b->splits > 1) return b->splits;
    return phase == QKV || phase == OUT ? b->blocks : 0;  // OUT does the rest of the layer
}

static void task(const mb_batch *b, size_t of_all, size_t number, scratch *s) {
    const mb_model *m = b->model;
    const layer *l = m->layers + of_all / PHASES;
    int phase = of_all % PHASES, has = s->has == of_all + 1;
    if (b->splits > 1) s->has = of_all + 1;
    if (phase == ATTEND) {
        size_t document = number / m->heads, start = b->starts[document];
        attend(&b->qkv, start, b->starts[document + 1] - start, number % m->heads, l->window, l->qkv.precision == INT8, &s->attention, NULL);
        return;
    }
    size_t block = b->splits > 1 ? 0 : number, part = b->splits > 1 ? number : 0;
    size_t first = b->tokens * block / b->blocks, count = b->tokens * (block + 1) / b->blocks - first;
    float *x = b->x + first * m->width, *wide = b->splits > 1 ? b->wide : s->wide;
    const packed *w[PHASES] = {[QKV] = &l->qkv, [OUT] = &l->out, [IN] = &l->in, [DOWN] = &l->down};
    for (; phase < PHASES; phase++) {
        size_t panels = w[phase]->n / NR, from = panels * part / b->splits, to = panels * (part + 1) / b->splits;
        rows_target sum = {x, m->width, NO_ACTIVATION}, gated = {wide, m->glu, m->activation};
        if (phase == QKV) {
            qkv_target target = {b, first, l->table};
            if (!has) input(b, s, &l->attention_norm, x, m->width, count, w[phase]);
            qkv_product(&s->a, count, w[phase], from, to, &target);
        } else if (phase == OUT) {
            for (size_t i = 0; i < count && !has; i++) {
                results_of(&b->qkv, first + i, s->row);
                convert(&s->a, i, s->row, w[phase]->k, w[phase]->precision);
            }
            sum_product(&s->a, count, w[phase], from, to, &sum);
        } else if (phase == IN) {
            if (!has) input(b, s, &l->mlp_norm, x, m->width, count, w[phase]);
            gated_product(&s->a, count, w[phase], from, to, &gated);
        } else {
            if (!has) input(b, s, NULL, wide, m->glu, count, w[phase]);
            sum_product(&s->a, count, w[phase], from, to, &sum);
        }
        if (b->splits > 1 || phase == QKV) return;
    }
}

INLINE void pause_thread(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(mb_batch *b) {
    scratch mine = {0}, *s = &mine;
    if (!atomic_exchange(&b->own_taken, 1)) s = &b->own;
    else if (allocate_scratch(b, s)) return free_scratch(s);  // the others do it
    const mb_model *m = b->model;
    begin_tiles();
    for (size_t i = 0; i < m->count * PHASES && !*b->stop; i++) {
        progress *p = b->progress + i;
        size_t all = tasks(b, i % PHASES), number;
        while (!*b->stop && (number = atomic_fetch_add(&p->taken, 1)) < all) {
            task(b, i, number, s);
            atomic_fetch_add(&p->done, 1);
        }
        for (unsigned spins = 0; atomic_load(&p->done) < all && !*b->stop; spins++)
            spins % 4096 == 4095 ? yield_thread() : pause_thread();
    }
    end_tiles();
    if (s == &mine) free_scratch(s);
}

static void free_batch(mb_batch *b) {
    release(b->positions), release(b->x), release(b->wide), release(b->qkv.words), release(b->progress);
    for (int i = 0; i < THETAS; i++) release(b->cosine[i]), release(b->sine[i]);
    free_scratch(&b->own), release(b);
}

static int make_tables(mb_batch *b) {
    const mb_model *m = b->model;
    size_t half = m->size / 2;
    for (int i = 0; i < THETAS; i++) {
        if (m->theta[i] == 0) continue;
        b->cosine[i] = buffer(4 * b->longest * half), b->sine[i] = buffer(4 * b->longest * half);
        if (!b->cosine[i] || !b->sine[i]) return -1;
        for (size_t k = 0; k < half; k++) {
            float frequency = 1.0f / powf(m->theta[i], (float)(2 * k) / (float)m->head_dim);
            for (size_t t = 0; t < b->longest; t++) {
                b->cosine[i][t * half + k] = cosf((float)t * frequency);
                b->sine[i][t * half + k] = sinf((float)t * frequency);
            }
        }
    }
    return 0;
}

static mb_batch *begin(const mb_model *m, const int32_t *ids, const int32_t *starts, int64_t documents, int64_t threads,
                       const volatile int32_t *stop) {
    mb_batch *b = zeros(sizeof *b);
    if (!b) return NULL;
    size_t tokens = starts[documents];
    b->model = m, b->starts = starts, b->stop = stop, b->documents = documents, b->tokens = tokens;
    size_t rounds = (tokens + threads * BLOCK - 1) / (threads * BLOCK);
    b->splits = threads > 1 && tokens <= BLOCK ? SPLITS * threads : 1;
    b->blocks = b->splits > 1 ? 1 : smaller(tokens, rounds * threads);
    for (int64_t i = 0; i < documents; i++) b->longest = larger(b->longest, starts[i + 1] - starts[i]);
    b->qkv = (qkv){m->attention, m->heads, tokens, m->size, groups_of(m->attention, m->size), NULL};
    b->qkv.words = buffer(4 * (tokens + MR) * 3 * m->heads * b->qkv.groups);
    b->positions = buffer(4 * tokens), b->x = buffer(4 * tokens * m->width);
    b->progress = zeros(m->count * PHASES * sizeof *b->progress);
    if (b->splits > 1) b->wide = buffer(4 * tokens * m->glu);
    if (!b->qkv.words || !b->positions || !b->x || !b->progress || (b->splits > 1 && !b->wide) ||
        allocate_scratch(b, &b->own) || make_tables(b))
        return free_batch(b), NULL;
    for (size_t i = 0; i < b->documents; i++)
        for (int32_t t = starts[i]; t < starts[i + 1]; t++) b->positions[t] = t - starts[i];
    memset(b->own.row, 0, 4 * m->width);
    for (size_t t = 0; t < tokens; t++) {
        read_row(&m->embedding, (size_t)ids[t], m->hidden, b->own.row);
        normalize(m, &m->embedding_norm, b->own.row, b->x + t * m->width);
    }
    return b;
}

static void finish(mb_batch *b, int64_t output, float *out) {
    const mb_model *m = b->model;
    float *row = b->own.row;
    for (size_t i = 0; i < b->documents; i++) {
        size_t first = b->starts[i], end = output == MB_FIRST ? first + 1 : (size_t)b->starts[i + 1];
        float *sum = b->x + first * m->width;
        for (size_t t = first; t < end; t++) {
            normalize(m, &m->final_norm, b->x + t * m->width, row);
            if (output != MB_MEAN) memcpy(out + (output == MB_TOKENS ? t : i) * m->hidden, row, 4 * m->hidden);
            else if (t == first) memcpy(sum, row, 4 * m->width);
            else for (size_t n = 0; n < m->width; n += W) store(sum + n, load(sum + n) + load(row + n));
        }
        for (size_t n = 0; output == MB_MEAN && n < m->hidden; n++) out[i * m->hidden + n] = sum[n] / (float)(end - first);
    }
    free_batch(b);
}

struct mb_linear {
    packed weight;
    size_t n, k;
};

typedef struct {
    float *y;
    size_t n;
    enum activation activation;
} linear_target;

INLINE void write_linear(const linear_target *t, size_t row, size_t n, const vf *x) {
    for (size_t j = 0; j < NV; j++) {
        vf v = activate(x[j], t->activation);
        size_t at = n + j * W, count = at < t->n ? smaller(W, t->n - at) : 0;
        if (count == W) store(t->y + row * t->n + at, v);
        else for (size_t i = 0; i < count; i++) t->y[row * t->n + at + i] = v[i];
    }
}

PRODUCT(linear_product, linear_target, write_linear)

static void free_linear(mb_linear *l) { free_packed(&l->weight), release(l); }

static mb_linear *linear(const mb_tensor *weight, const mb_tensor *bias, int64_t n, int64_t k, int64_t precision) {
    mb_linear *l = zeros(sizeof *l);
    size_t all = round_up(n, NR);
    int32_t *rows = buffer(4 * all);
    if (!l || !rows) return release(l), release(rows), NULL;
    l->n = n, l->k = k;
    for (size_t i = 0; i < all; i++) rows[i] = i < l->n ? (int32_t)i : -1;
    int failed = pack(&l->weight, weight, bias, k, rows, all, NULL, round_up(k, NR), (enum precision)precision);
    release(rows);
    if (failed) return free_linear(l), NULL;
    return l;
}

// Rows of a linear layer's input, and memory to convert them.
typedef struct {
    activations a;  // (BLOCK, k)
    float *row;     // (k)
} linear_input;

static int allocate_input(const mb_linear *l, linear_input *in) {
    size_t k = l->weight.k;
    *in = (linear_input){{0, buffer(4 * (BLOCK + MR) * k), buffer(4 * BLOCK)}, zeros(4 * k)};
    return in->a.rows && in->a.scale && in->row ? 0 : -1;
}

static void free_input(linear_input *in) { release(in->a.rows), release(in->a.scale), release(in->row); }

static void convert_input(const mb_linear *l, linear_input *in, const float *x, size_t count) {
    for (size_t i = 0; i < count; i++) {
        memcpy(in->row, x + i * l->k, 4 * l->k);
        convert(&in->a, i, in->row, l->weight.k, l->weight.precision);
    }
}

static int apply(const mb_linear *l, const float *x, int64_t rows, int64_t activation, float *y) {
    linear_input in;
    int failed = allocate_input(l, &in);
    begin_tiles();
    for (size_t first = 0; !failed && first < (size_t)rows; first += BLOCK) {
        size_t count = smaller(BLOCK, rows - first);
        linear_target target = {y + first * l->n, l->n, (enum activation)activation};
        convert_input(l, &in, x + first * l->k, count);
        linear_product(&in.a, count, &l->weight, 0, l->weight.n / NR, &target);
    }
    end_tiles();
    free_input(&in);
    return failed;
}

typedef struct {
    float *best;  // (n), of a document
} largest_target;

INLINE void write_largest(const largest_target *t, size_t row, size_t n, const vf *x) {
    (void)row;
    float *best = t->best + n;
    store(best, max_v(load(best), x[0])), store(best + W, max_v(load(best + W), x[1]));
}

PRODUCT(largest_product, largest_target, write_largest)

static int largest(const mb_linear *l, const float *x, const int64_t *starts, int64_t documents, float *y) {
    linear_input in;
    largest_target target = {buffer(4 * l->weight.n)};
    int failed = allocate_input(l, &in) || !target.best ? -1 : 0;
    begin_tiles();
    for (size_t d = 0; !failed && d < (size_t)documents; d++, y += l->n) {
        size_t end = starts[d + 1];
        for (size_t j = 0; j < l->weight.n; j += W) store(target.best + j, splat(-FLT_MAX));
        for (size_t first = starts[d]; first < end; first += BLOCK) {
            size_t count = smaller(BLOCK, end - first);
            convert_input(l, &in, x + first * l->k, count);
            largest_product(&in.a, count, &l->weight, 0, l->weight.n / NR, &target);
        }
        memcpy(y, target.best, 4 * l->n);
    }
    end_tiles();
    free_input(&in), release(target.best);
    return failed;
}

#endif
