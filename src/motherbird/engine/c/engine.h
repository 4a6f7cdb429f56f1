// The interface between Python (ctypes) and the compiled engine.
#ifndef MB_ENGINE_H
#define MB_ENGINE_H

#include <stddef.h>
#include <stdint.h>

// Geometry and arithmetic of an encoder; see core/config.py.
typedef struct {
    int64_t hidden, glu, layers, heads, vocabulary;
    int64_t precision;  // 0 float32, 1 bfloat16, 2 int8
    float epsilon;
} mb_config;

// The float32 weights of a layer, as published; biases may be NULL, and the norm of layer 0 too.
typedef struct {
    const float *attention_norm, *attention_norm_bias, *qkv, *qkv_bias, *out, *out_bias;
    const float *mlp_norm, *mlp_norm_bias, *in, *in_bias, *down, *down_bias;
    int64_t window;  // tokens that are seen on each side; negative for the whole document
    float theta;
} mb_layer;

typedef struct mb_model mb_model;

// One variant of the engine: compiled for one set of instructions.
typedef struct {
    const char *name;
    int32_t has_bf16, has_int8;
    mb_model *(*create)(const mb_config *, const float *embedding, const float *norm, const float *norm_bias,
                        const float *final_norm, const float *final_norm_bias);
    int (*add_layer)(mb_model *, const mb_layer *);
    // Token vectors (T, D) of documents that start at `starts`, which ends with T.
    int (*run)(const mb_model *, const int32_t *ids, const int32_t *starts, int64_t documents, float *states);
    void (*destroy)(mb_model *);
} mb_variant;

#endif
