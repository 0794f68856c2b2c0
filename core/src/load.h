/* Shared by the parts that make a network ready: load.c, weights.c, pack.c. */
#ifndef SMIDGEN_LOAD_H
#define SMIDGEN_LOAD_H

#include "engine.h"

enum { NO_RECORD = 65535 };

/* While a file is loaded. */
typedef struct {
    const uint8_t *payload;
    smidgen_network *network;
    smidgen_tensor *records;
    uint32_t record_count;
    smidgen_team *team; /* whose threads load; its lock guards the memory, which they take from together */
    smidgen_space *memory, work;
} loader;

/* A convolution's weights: `row` integers for each output, in the order inputs, kernel; and what goes with each output. */
typedef struct {
    int16_t *integers;
    float *scales; /* of the integers, and in the end the factors of the sums */
    int32_t *bias;
    uint32_t row, inputs, height, width; /* inputs of a group, kernel */
} kernel;

static inline int is_finite(float x) {
    return x - x == 0;
}

/* weights.c: decodes a convolution's records: its weights as integers, its biases too, with what the input's zero adds to
 * each sum, and the factors of the sums. All of it lies in the loader's work. Returns 0 or a negative code. */
int smidgen_decode_kernel(loader *l, const smidgen_operation *o, kernel *k);

/* pack.c: a kernel's weights in the order in which they are read. Returns 0 or a negative code. */
int smidgen_pack(loader *l, smidgen_operation *o, const kernel *k);

#endif
