// The interface between Python (ctypes, library.py) and the compiled engine.
#ifndef MB_ENGINE_H
#define MB_ENGINE_H

#include <stddef.h>
#include <stdint.h>

// A tensor as it is stored; data is NULL where there is none.
enum { MB_FLOAT32, MB_BFLOAT16, MB_FLOAT16 };
typedef struct {
    const void *data;
    int64_t dtype;
} mb_tensor;

// Geometry of an encoder; see core/config.py.
typedef struct {
    int64_t hidden, glu, layers, heads, activation;
    double epsilon;
    mb_tensor embedding;  // it is not copied
    mb_tensor norm, norm_bias, final_norm, final_norm_bias;
} mb_config;

// The weights of a layer, as published. The norm of layer 0 may be missing.
typedef struct {
    mb_tensor attention_norm, attention_norm_bias, qkv, qkv_bias, out, out_bias;
    mb_tensor mlp_norm, mlp_norm_bias, in, in_bias, down, down_bias;
    int64_t precision[4];  // of qkv, out, in, down: 0 float32, 1 bfloat16, 2 int8
    int64_t glu;           // F
    int64_t window;        // tokens that are visible on each side; negative: the whole document
    double theta;
} mb_layer;

enum { MB_TOKENS, MB_MEAN, MB_FIRST };  // outputs: (T, D), or (S, D) by mean or first token

// What the functions for training are about: rows (T, width) in a precision, 0 float32 or 1 bfloat16.
// Outputs in that precision are (padded, width), with zeros after the tokens.
typedef struct {
    int64_t tokens, padded, width, precision, activation;
    double epsilon;
} mb_rows;

// Attention over documents that start at `starts`, which ends with T; `longest` is their greatest
// length. Cosines and sines are (T, size / 2); the window is as in mb_layer.
typedef struct {
    int64_t precision, tokens, padded, documents, longest, heads, size, window;
    const int32_t *starts;
    const float *cosine, *sine;
} mb_attention;

typedef struct mb_model mb_model;
typedef struct mb_batch mb_batch;
typedef struct mb_linear mb_linear;

// One variant of the engine: compiled for one set of instructions.
typedef struct {
    const char *name;
    int64_t has_bf16;

    mb_model *(*create)(const mb_config *);
    int (*add_layer)(mb_model *, const mb_layer *);  // -1 without memory
    void (*destroy)(mb_model *);

    // A batch of documents that start at `starts`, which ends with T. `threads` is how many threads
    // will probably call `work`; each returns when all is computed, whoever else calls it or not, or
    // soon after `stop` is not 0.
    mb_batch *(*begin)(const mb_model *, const int32_t *ids, const int32_t *starts, int64_t documents,
                       int64_t threads, const volatile int32_t *stop);
    void (*work)(mb_batch *);
    void (*finish)(mb_batch *, int64_t output, float *out);  // after `work`; frees the batch

    // y (M, n) = activation(x (M, k) * weight (n, k)^T + bias)
    mb_linear *(*linear)(const mb_tensor *weight, const mb_tensor *bias, int64_t n, int64_t k, int64_t precision);
    int (*apply)(const mb_linear *, const float *x, int64_t rows, int64_t activation, float *y);
    // y (documents, n): of each document, the largest of x * weight^T over its rows. Documents start at
    // `starts`, which ends with M. The bias is added; there is no activation.
    int (*largest)(const mb_linear *, const float *x, const int64_t *starts, int64_t documents, float *y);
    void (*free_linear)(mb_linear *);

    // For training; see training.h. Widths are multiples of 16, head dimensions of 32.
    void (*add_norm)(const mb_rows *, const float *x, const void *y, float *sum, const float *weight,
                     const float *bias, float *stats, void *out);
    void (*norm_backward)(const mb_rows *, const void *dout, const float *x, const float *stats, const float *weight,
                          const float *d, float *dx, void *low, float *dweight, float *dbias);
    void (*gate)(const mb_rows *, const void *in, void *out);
    void (*gate_backward)(const mb_rows *, const void *in, const void *dout, void *din, void *out);
    int (*attention_forward)(const mb_attention *, const void *in, void *out, float *logsum);  // -1 without memory
    int (*attention_backward)(const mb_attention *, const void *in, const void *out, const void *dout,
                              const float *logsum, void *din);
} mb_variant;

#endif
