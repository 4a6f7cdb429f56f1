// Compares a variant of the engine with a plain forward pass in double precision: random batches,
// sizes, precisions and numbers of threads. It needs no Python, so that it runs under sanitizers, with
// pages that must not be touched behind every argument, and on an emulated CPU.
//
//     selftest VARIANT [SEED] [ROUNDS]      exit code 0: equal; 77: the CPU cannot run the variant
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine.h"

const mb_variant *mb_find(const char *name);

static uint64_t state = 1;
static uint32_t draw(uint32_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}
static float normal(void) {
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += (float)draw(1 << 24) / (1 << 24);
    return sum - 6;
}

// Memory that ends where a page begins that must not be touched.
typedef struct {
    char *start;
    size_t size;
} mapped;
static mapped maps[256];
static int count;
static void *guarded(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (bytes + page - 1) / page * page + page;
    char *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || mprotect(start + size - page, page, PROT_NONE)) exit(2);
    maps[count++] = (mapped){start, size};
    return start + size - page - bytes;
}
static void forget(void) {
    while (count) count--, munmap(maps[count].start, maps[count].size);
}

static mb_tensor values(size_t n, float scale, float offset) {
    float *x = guarded(4 * n);
    for (size_t i = 0; i < n; i++) x[i] = offset + scale * normal();
    return (mb_tensor){x, MB_FLOAT32};
}
static mb_tensor maybe(int yes, size_t n) { return yes ? values(n, 0.1f, 0) : (mb_tensor){NULL, 0}; }
static double at(mb_tensor t, size_t i) { return t.data ? (double)((const float *)t.data)[i] : 0; }

#define V 50
typedef struct {
    int d, f, layers, heads;
    mb_config config;
    mb_layer layer[3];
} geometry;

static void normalize(double *x, int d, mb_tensor w, mb_tensor b, double epsilon) {
    double mean = 0, variance = 0;
    for (int i = 0; i < d; i++) mean += x[i] / d;
    for (int i = 0; i < d; i++) variance += (x[i] - mean) * (x[i] - mean) / d;
    for (int i = 0; i < d; i++) x[i] = (x[i] - mean) / sqrt(variance + epsilon) * at(w, i) + at(b, i);
}

static void multiply(const double *x, int k, mb_tensor w, mb_tensor b, int n, double *y) {
    for (int i = 0; i < n; i++) {
        y[i] = at(b, i);
        for (int j = 0; j < k; j++) y[i] += x[j] * at(w, (size_t)i * k + j);
    }
}

// The vectors of one document, (length, d).
static void reference(const geometry *g, const int32_t *ids, int length, double *x) {
    int d = g->d, h = d / g->heads, half = h / 2;
    double *qkv = malloc(sizeof *qkv * length * 3 * d), *y = malloc(sizeof *y * (3 * d + 2 * g->f)), *in = malloc(sizeof *in * d);
    double *weight = malloc(sizeof *weight * length), *all = malloc(sizeof *all * length * d);
    for (int t = 0; t < length; t++) {
        for (int i = 0; i < d; i++) x[t * d + i] = at(g->config.embedding, (size_t)ids[t] * d + i);
        normalize(x + t * d, d, g->config.norm, g->config.norm_bias, g->config.epsilon);
    }
    for (int n = 0; n < g->layers; n++) {
        const mb_layer *l = g->layer + n;
        for (int t = 0; t < length; t++) {
            double *row = qkv + (size_t)t * 3 * d;
            memcpy(in, x + t * d, sizeof *in * d);
            if (l->attention_norm.data) normalize(in, d, l->attention_norm, l->attention_norm_bias, g->config.epsilon);
            multiply(in, d, l->qkv, l->qkv_bias, 3 * d, row);
            for (int head = 0; head < 2 * g->heads; head++)
                for (int k = 0; k < half; k++) {
                    double angle = t / pow(l->theta, 2.0 * k / h), *p = row + head * h + k, a = p[0], b = p[half];
                    p[0] = a * cos(angle) - b * sin(angle), p[half] = b * cos(angle) + a * sin(angle);
                }
        }
        for (int t = 0; t < length; t++)
            for (int head = 0; head < g->heads; head++) {
                double sum = 0, *out = all + t * d + head * h;
                for (int s = 0; s < length; s++) {
                    double score = 0;
                    for (int k = 0; k < h; k++) score += qkv[(size_t)t * 3 * d + head * h + k] * qkv[(size_t)s * 3 * d + d + head * h + k];
                    sum += weight[s] = l->window >= 0 && abs(s - t) > l->window ? 0 : exp(score / sqrt(h));
                }
                for (int k = 0; k < h; k++) out[k] = 0;
                for (int s = 0; s < length; s++)
                    for (int k = 0; k < h; k++) out[k] += weight[s] / sum * qkv[(size_t)s * 3 * d + 2 * d + head * h + k];
            }
        for (int t = 0; t < length; t++) {
            multiply(all + t * d, d, l->out, l->out_bias, d, y);
            for (int i = 0; i < d; i++) x[t * d + i] += y[i];
            memcpy(in, x + t * d, sizeof *in * d);
            normalize(in, d, l->mlp_norm, l->mlp_norm_bias, g->config.epsilon);
            multiply(in, d, l->in, l->in_bias, 2 * g->f, y);
            for (int i = 0; i < g->f; i++) y[i] = y[i] * 0.5 * (1 + erf(y[i] / sqrt(2))) * y[g->f + i];
            double *down = y + 2 * g->f;
            multiply(y, g->f, l->down, l->down_bias, d, down);
            for (int i = 0; i < d; i++) x[t * d + i] += down[i];
        }
    }
    for (int t = 0; t < length; t++) normalize(x + t * d, d, g->config.final_norm, g->config.final_norm_bias, g->config.epsilon);
    free(qkv), free(y), free(in), free(weight), free(all);
}

static geometry some_geometry(int precision) {
    int biased = (int)draw(2);
    geometry g = {0};
    g.heads = 1 + (int)draw(3), g.d = 2 * (1 + (int)draw(36)) * g.heads, g.f = 1 + (int)draw(100), g.layers = 1 + (int)draw(3);
    int d = g.d, f = g.f;
    g.config = (mb_config){.hidden = d, .glu = f, .layers = g.layers, .heads = g.heads, .epsilon = 1e-5,
                           .embedding = values((size_t)V * d, 1, 0), .norm = values(d, 0.1f, 1), .norm_bias = maybe(biased, d),
                           .final_norm = values(d, 0.1f, 1), .final_norm_bias = maybe(biased, d)};
    for (int n = 0; n < g.layers; n++) {
        mb_layer *l = g.layer + n;
        if (n) l->attention_norm = values(d, 0.1f, 1), l->attention_norm_bias = maybe(biased, d);
        l->mlp_norm = values(d, 0.1f, 1), l->mlp_norm_bias = maybe(biased, d);
        l->qkv = values((size_t)3 * d * d, 0.5f / sqrtf((float)d), 0), l->qkv_bias = maybe(biased, 3 * d);
        l->out = values((size_t)d * d, 0.5f / sqrtf((float)d), 0), l->out_bias = maybe(biased, d);
        l->in = values((size_t)2 * f * d, 0.5f / sqrtf((float)d), 0), l->in_bias = maybe(biased, 2 * f);
        l->down = values((size_t)d * f, 0.5f / sqrtf((float)f), 0), l->down_bias = maybe(biased, d);
        l->window = n % 2 ? (int64_t)draw(40) : -1, l->theta = n % 2 ? 10000 : 160000, l->glu = f;
        for (int i = 0; i < 4; i++) l->precision[i] = precision;
    }
    return g;
}

static const mb_variant *variant;

static void *help(void *batch) {
    variant->work(batch);
    return NULL;
}

// The largest difference from the reference, divided by the size of what is expected.
static double one_round(int precision) {
    geometry g = some_geometry(precision);
    mb_model *m = variant->create(&g.config);
    for (int n = 0; n < g.layers; n++)
        if (variant->add_layer(m, g.layer + n)) exit(2);
    int documents = 1 + (int)draw(5), threads = 1 + (int)draw(4), tokens = 0;
    int32_t *starts = guarded(4 * (documents + 1));
    for (int i = 0; i < documents; i++) starts[i] = tokens, tokens += 1 + (int)draw(draw(4) ? 40 : 300);
    starts[documents] = tokens;
    int32_t *ids = guarded(4 * tokens);
    for (int t = 0; t < tokens; t++) ids[t] = (int32_t)draw(V);
    float *got = guarded(4 * (size_t)tokens * g.d);
    int32_t stop = 0;
    mb_batch *batch = variant->begin(m, ids, starts, documents, threads, &stop);
    pthread_t helper[4];
    for (int i = 1; i < threads; i++) pthread_create(helper + i, NULL, help, batch);
    variant->work(batch);
    for (int i = 1; i < threads; i++) pthread_join(helper[i], NULL);
    variant->finish(batch, MB_TOKENS, got);
    variant->destroy(m);
    double worst = 0, square = 0, error = 0, *x = malloc(sizeof *x * tokens * g.d);
    for (int i = 0; i < documents; i++) reference(&g, ids + starts[i], starts[i + 1] - starts[i], x + (size_t)starts[i] * g.d);
    for (int i = 0; i < tokens * g.d; i++) {
        worst = fmax(worst, fabs(got[i] - x[i]));
        square += x[i] * x[i], error += (got[i] - x[i]) * (got[i] - x[i]);
    }
    free(x), forget();
    return precision ? sqrt(error / square) : worst;
}

int main(int argc, char **argv) {
    static const char *NAMES[] = {"float32", "bfloat16", "int8"};
    static const double BOUND[] = {1e-5, 0.004, 0.012};
    variant = mb_find(argc > 1 ? argv[1] : NULL);
    if (!variant) return 77;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    for (int p = 0, bad = 0; p < 3; p++) {
        double worst = 0;
        for (int i = 0; i < (argc > 3 ? atoi(argv[3]) : 20) && (p != 1 || variant->has_bf16); i++) worst = fmax(worst, one_round(p));
        printf("%s %s %.2g\n", variant->name, NAMES[p], worst);
        bad |= !(worst <= BOUND[p]);
        if (p == 2) return bad;
    }
    return 0;
}
