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

// Numbers in a precision, and as doubles.
typedef struct {
    void *data;
    double *exact;
} numbers;

static double read_number(const void *data, size_t i, int precision) {
    if (!precision) return ((const float *)data)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)data)[i] << 16;
    float x;
    return memcpy(&x, &bits, 4), x;
}

static numbers some(size_t n, int precision) {
    numbers out = {guarded((precision ? 2 : 4) * n), guarded(8 * n)};
    for (size_t i = 0; i < n; i++) {
        float x = normal();
        uint32_t bits;
        memcpy(&bits, &x, 4);
        if (precision) ((uint16_t *)out.data)[i] = (uint16_t)(bits >> 16);
        else ((float *)out.data)[i] = x;
        out.exact[i] = read_number(out.data, i, precision);
    }
    return out;
}

// The difference of rows of results from what is expected, divided by the size of that; rows after
// them have to be 0.
static double difference(const void *got, const double *expected, size_t rows, size_t padded, size_t width, int precision) {
    double error = 0, square = 1e-30;
    for (size_t i = 0; i < rows * width; i++) {
        double d = read_number(got, i, precision) - expected[i];
        error += d * d, square += expected[i] * expected[i];
    }
    for (size_t i = rows * width; i < padded * width; i++)
        if (read_number(got, i, precision) != 0) return 1;
    return sqrt(error / square);
}

static void turn(double *x, size_t half, const float *cosine, const float *sine, double sign) {
    for (size_t i = 0; i < half; i++) {
        double a = x[i], b = x[half + i];
        x[i] = a * cosine[i] - sign * b * sine[i], x[half + i] = b * cosine[i] + sign * a * sine[i];
    }
}

// Attention of random documents and its gradients, against the definition.
static double attention_round(int precision) {
    size_t heads = 1 + draw(3), size = 32 * (1 + draw(2)), width = heads * size, documents = 1 + draw(4), tokens = 0;
    int32_t *starts = guarded(4 * (documents + 1));
    size_t longest = 0;
    for (size_t i = 0; i < documents; i++) {
        size_t length = 1 + draw(draw(3) ? 30 : 150);
        starts[i] = (int32_t)tokens, tokens += length;
        if (length > longest) longest = length;
    }
    starts[documents] = (int32_t)tokens;
    size_t padded = (tokens + 15) / 16 * 16, bytes = precision ? 2 : 4;
    int64_t window = draw(2) ? (int64_t)draw(40) : -1;
    float *cosine = guarded(4 * tokens * size / 2), *sine = guarded(4 * tokens * size / 2);
    for (size_t i = 0; i < tokens * size / 2; i++) cosine[i] = (float)cos(i * 0.1), sine[i] = (float)sin(i * 0.1);
    mb_attention a = {precision, (int64_t)tokens, (int64_t)padded, (int64_t)documents, (int64_t)longest, (int64_t)heads,
                      (int64_t)size, window, starts, cosine, sine};
    numbers in = some(tokens * 3 * width, precision), dout = some(tokens * width, precision);
    void *out = guarded(bytes * padded * width), *din = guarded(bytes * padded * 3 * width);
    float *logsum = guarded(4 * heads * tokens);
    if (variant->attention_forward(&a, in.data, out, logsum)) exit(2);
    if (variant->attention_backward(&a, in.data, out, dout.data, logsum, din)) exit(2);
    double *y = guarded(8 * tokens * width), *d = guarded(8 * tokens * 3 * width), *p = guarded(8 * longest), *dp = guarded(8 * longest);
    memset(y, 0, 8 * tokens * width), memset(d, 0, 8 * tokens * 3 * width);
    for (size_t t = 0; t < tokens; t++)
        for (size_t h = 0; h < 2 * heads; h++) turn(in.exact + t * 3 * width + h * size, size / 2, cosine + t * size / 2, sine + t * size / 2, 1);
    for (size_t n = 0; n < documents; n++)
        for (int t = starts[n]; t < starts[n + 1]; t++)
            for (size_t h = 0; h < heads; h++) {
                const double *q = in.exact + t * 3 * width + h * size, *g = dout.exact + t * width + h * size;
                double sum = 0, mean = 0, scale = 1 / sqrt((double)size);
                for (int s = starts[n]; s < starts[n + 1]; s++) {
                    const double *k = in.exact + s * 3 * width + width + h * size, *v = k + width;
                    double score = 0, product = 0;
                    for (size_t i = 0; i < size; i++) score += q[i] * k[i], product += g[i] * v[i];
                    int at = s - starts[n];
                    p[at] = window >= 0 && llabs(s - t) > window ? 0 : exp(score * scale);
                    dp[at] = product, sum += p[at], mean += p[at] * product;
                }
                for (int s = starts[n]; s < starts[n + 1]; s++) {
                    size_t key = s * 3 * width + width + h * size, query = t * 3 * width + h * size;
                    double weight = p[s - starts[n]] / sum, ds = weight * (dp[s - starts[n]] - mean / sum) * scale;
                    for (size_t i = 0; i < size; i++) {
                        y[t * width + h * size + i] += weight * in.exact[key + width + i];
                        d[query + i] += ds * in.exact[key + i], d[key + i] += ds * q[i];
                        d[key + width + i] += weight * g[i];
                    }
                }
            }
    for (size_t t = 0; t < tokens; t++)
        for (size_t h = 0; h < 2 * heads; h++) turn(d + t * 3 * width + h * size, size / 2, cosine + t * size / 2, sine + t * size / 2, -1);
    double worst = difference(out, y, tokens, padded, width, precision);
    worst = fmax(worst, difference(din, d, tokens, padded, 3 * width, precision));
    forget();
    return worst;
}

// A sum, its norm and the gated MLP's gate, and their gradients, against the definitions.
static double rows_round(int precision) {
    size_t width = 16 * (1 + draw(6)), tokens = 1 + draw(40), padded = (tokens + 15) / 16 * 16, bytes = precision ? 2 : 4;
    int biased = (int)draw(2), normed = (int)draw(4) > 0, activation = (int)draw(4);
    mb_rows r = {(int64_t)tokens, (int64_t)padded, (int64_t)width, precision, activation, 1e-5};
    numbers x = some(tokens * width, 0), y = some(tokens * width, precision), g = some(tokens * width, precision), d = some(tokens * width, 0);
    numbers w = some(width, 0), b = some(width, 0);
    float *sum = guarded(4 * tokens * width), *stats = guarded(8 * tokens), *dx = guarded(4 * tokens * width);
    float *dw = guarded(4 * width), *db = guarded(4 * width);
    memset(dw, 0, 4 * width), memset(db, 0, 4 * width);
    void *out = guarded(bytes * padded * width), *low = guarded(bytes * padded * width);
    const float *weight = normed ? w.data : NULL, *bias = normed && biased ? b.data : NULL;
    variant->add_norm(&r, x.data, y.data, sum, weight, bias, stats, out);
    variant->norm_backward(&r, g.data, sum, stats, weight, d.data, dx, low, normed ? dw : NULL, bias ? db : NULL);
    double *total = guarded(8 * tokens * width), *norm = guarded(8 * tokens * width), *grad = guarded(8 * tokens * width);
    double *gw = guarded(8 * width), *gb = guarded(8 * width);
    memset(gw, 0, 8 * width), memset(gb, 0, 8 * width);
    for (size_t t = 0; t < tokens; t++) {
        double mean = 0, variance = 0, a = 0, c = 0;
        for (size_t i = t * width; i < (t + 1) * width; i++) total[i] = x.exact[i] + y.exact[i], mean += total[i] / width;
        for (size_t i = t * width; i < (t + 1) * width; i++) variance += (total[i] - mean) * (total[i] - mean) / width;
        double scale = 1 / sqrt(variance + 1e-5);
        for (size_t i = 0; i < width; i++) {
            double n = (total[t * width + i] - mean) * scale, h = g.exact[t * width + i] * w.exact[i];
            norm[t * width + i] = normed ? n * w.exact[i] + (bias ? b.exact[i] : 0) : total[t * width + i];
            a += h / width, c += h * n / width, gw[i] += g.exact[t * width + i] * n, gb[i] += g.exact[t * width + i];
        }
        for (size_t i = 0; i < width; i++) {
            size_t at = t * width + i;
            double n = (total[at] - mean) * scale;
            grad[at] = d.exact[at] + (normed ? (g.exact[at] * w.exact[i] - a - n * c) * scale : g.exact[at]);
        }
    }
    double worst = fmax(difference(sum, total, tokens, tokens, width, 0), difference(out, norm, tokens, padded, width, precision));
    worst = fmax(worst, fmax(difference(dx, grad, tokens, tokens, width, 0), difference(low, grad, tokens, padded, width, precision)));
    if (normed) worst = fmax(worst, difference(dw, gw, 1, 1, width, 0));
    if (bias) worst = fmax(worst, difference(db, gb, 1, 1, width, 0));

    numbers in = some(tokens * 2 * width, precision);
    void *din = guarded(bytes * padded * 2 * width), *again = guarded(bytes * padded * width);
    variant->gate(&r, in.data, out);
    variant->gate_backward(&r, in.data, g.data, din, again);
    double *gated = guarded(8 * tokens * width), *dgated = guarded(16 * tokens * width);
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = 0; i < width; i++) {
            double v = in.exact[t * 2 * width + i], other = in.exact[t * 2 * width + width + i], value, slope;
            double z = activation == 1 ? 1.5957691216057308 * (v + 0.044715 * v * v * v) : v, s = 1 / (1 + exp(-z));
            double dz = activation == 1 ? 1.5957691216057308 * (1 + 0.134145 * v * v) : 1, below = 0.5 * (1 + erf(v / sqrt(2)));
            if (activation == 0) value = v * below, slope = below + v * exp(-v * v / 2) / sqrt(2 * 3.14159265358979323846);
            else if (activation == 3) value = v > 0 ? v : 0, slope = v > 0;
            else value = v * s, slope = s + v * s * (1 - s) * dz;
            gated[t * width + i] = value * other;
            dgated[t * 2 * width + i] = g.exact[t * width + i] * other * slope;
            dgated[t * 2 * width + width + i] = g.exact[t * width + i] * value;
        }
    worst = fmax(worst, fmax(difference(out, gated, tokens, padded, width, precision), difference(again, gated, tokens, padded, width, precision)));
    worst = fmax(worst, difference(din, dgated, tokens, padded, 2 * width, precision));
    forget();
    return worst;
}

// A linear layer, and its largest outputs over the rows of random documents.
static double linear_round(void) {
    size_t n = 1 + draw(100), k = 1 + draw(100), documents = 1 + draw(4), rows = 0;
    int64_t *starts = guarded(8 * (documents + 1));
    for (size_t i = 0; i < documents; i++) starts[i] = (int64_t)rows, rows += 1 + draw(draw(4) ? 9 : 300);
    starts[documents] = (int64_t)rows;
    mb_tensor weight = values(n * k, 1, 0), bias = maybe((int)draw(2), n);
    numbers x = some(rows * k, 0);
    mb_linear *l = variant->linear(&weight, &bias, (int64_t)n, (int64_t)k, 0);
    float *y = guarded(4 * rows * n), *most = guarded(4 * documents * n);
    if (!l || variant->apply(l, x.data, (int64_t)rows, 4, y)) exit(2);
    if (variant->largest(l, x.data, starts, (int64_t)documents, most)) exit(2);
    variant->free_linear(l);
    double *all = guarded(8 * rows * n), *best = guarded(8 * documents * n);
    for (size_t d = 0; d < documents; d++) {
        for (size_t i = 0; i < n; i++) best[d * n + i] = -1e30;
        for (size_t t = (size_t)starts[d]; t < (size_t)starts[d + 1]; t++) {
            multiply(x.exact + t * k, (int)k, weight, bias, (int)n, all + t * n);
            for (size_t i = 0; i < n; i++) best[d * n + i] = fmax(best[d * n + i], all[t * n + i]);
        }
    }
    double worst = fmax(difference(y, all, rows, rows, n, 0), difference(most, best, documents, documents, n, 0));
    forget();
    return worst;
}

int main(int argc, char **argv) {
    static const char *NAMES[] = {"float32", "bfloat16", "int8"};
    static const double BOUND[] = {1e-5, 0.004, 0.012};
    variant = mb_find(argc > 1 ? argv[1] : NULL);
    if (!variant) return 77;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    int rounds = argc > 3 ? atoi(argv[3]) : 20, bad = 0;
    for (int p = 0; p < 3; p++) {
        double worst = 0;
        for (int i = 0; i < rounds && (p != 1 || variant->has_bf16); i++) worst = fmax(worst, one_round(p));
        printf("%s %s %.2g\n", variant->name, NAMES[p], worst);
        bad |= !(worst <= BOUND[p]);
    }
    for (int p = 0; p < 1 + (variant->has_bf16 != 0); p++) {
        double attention = 0, rows = 0;
        for (int i = 0; i < 2 * rounds; i++) attention = fmax(attention, attention_round(p)), rows = fmax(rows, rows_round(p));
        printf("%s %s, training: %.2g %.2g\n", variant->name, NAMES[p], attention, rows);
        bad |= !(attention <= (p ? 0.02 : 2e-6) && rows <= (p ? 0.01 : 2e-6));
    }
    double linear = 0;
    for (int i = 0; i < 2 * rounds; i++) linear = fmax(linear, linear_round());
    printf("%s, linear: %.2g\n", variant->name, linear);
    return bad | !(linear <= 2e-6);
}
