/* Shared by the parts of the engine: a program as it is read, and as it is ready to run. */
#ifndef SMIDGEN_ENGINE_H
#define SMIDGEN_ENGINE_H

#include "internal.h"

enum { SMIDGEN_BLOCK = 16, SMIDGEN_STEP = 4 };

/* How the 4 x 16 weights of a step lie. */
enum {
    SMIDGEN_BY_OUTPUT = 0, /* the 4 of an output side by side */
    SMIDGEN_BY_INPUT = 1,
    SMIDGEN_PAIRS = 2 /* numbers of 16 bits: of 4 outputs each the inputs 0 and 2, then 1 and 3 */
};

typedef struct {
    uint32_t type, border, zero;
    uint32_t offset, height, width, channels, pitch;
    float scale;
    uint32_t row;         /* bytes from a row to the next */
    uint32_t first, last; /* all its bytes in the arena, border included: first <= byte < last */
    uint32_t written;
} smidgen_value;

enum {
    SMIDGEN_CONVOLUTION = 0,
    SMIDGEN_MAXIMUM = 1,
    SMIDGEN_AVERAGE = 2,
    SMIDGEN_MEAN = 3,
    SMIDGEN_JOIN = 4,
    SMIDGEN_SUM = 5,
    SMIDGEN_PRODUCT = 6,
    SMIDGEN_LOOKUP = 7,
    SMIDGEN_MOVE = 8,
    SMIDGEN_RESIZE = 9,
    SMIDGEN_SIGNS = 10,
    SMIDGEN_SIGNS_CONVOLUTION = 11
};

enum { SMIDGEN_SIGNS_BLOCK = 64, SMIDGEN_NO_WEIGHT = 0x80, SMIDGEN_MORE = 8, SMIDGEN_PACKED_LEAST = 4 };

/* Up to 16 outputs of a convolution. A step multiplies 4 neighbouring inputs with 64 weights; a run is a number of steps
 * whose sums stay in 16 bits whatever the inputs are. */
typedef struct {
    const int8_t *weights;   /* of each step, in the order that the kernels want */
    const uint32_t *offsets; /* of each step's inputs, from the kernel's first pixel */
    const uint16_t *runs;
    uint32_t steps, run_count;
    uint32_t first, outputs; /* channels that it writes */
    int32_t bias[SMIDGEN_BLOCK];
    float factor[SMIDGEN_BLOCK];
} smidgen_block_of_outputs;

/* A depthwise convolution: one weight for each place of the kernel and channel, channels padded to a multiple of 16. */
typedef struct {
    const int16_t *weights; /* places x channels */
    const uint32_t *places; /* offsets from the kernel's first pixel */
    const int32_t *bias;
    const float *factor;
} smidgen_depthwise;

/* Up to 64 outputs of a convolution of signs: for each place of the kernel and 4 inputs, the signs of the weights of
 * these 4 in one byte for each output, or SMIDGEN_NO_WEIGHT; or packed, those of 8 times 4 in 4 bytes for each output. */
typedef struct {
    const uint8_t *weights; /* places x fours of inputs x width; packed, of each row eights of fours x width x 4 */
    uint32_t first, outputs;
    int32_t bias[SMIDGEN_SIGNS_BLOCK];
    float factor[SMIDGEN_SIGNS_BLOCK];
} smidgen_block_of_signs;

/* How a block is computed: as one of 32 or 64 outputs, or packed of a multiple of 16; where few outputs do not fill 32, as
 * one whose pixels are two neighbours, `pixels` = 2, under a kernel with so many columns, of which `beside` are fetched at
 * once. */
typedef struct {
    uint32_t width, pixels, columns, beside, packed;
} smidgen_signs_shape;

typedef struct {
    uint8_t kind, kernel_height, kernel_width, stride_height, stride_width, dilation_height, dilation_width, top, left;
    uint8_t low, high, padded;
    uint16_t groups, input, other, output, weight, bias, more, channels;
    uint32_t units; /* into how many parts the work can be cut */
    float factors[2];
    const uint8_t *body; /* the rest of its bytes, of kinds that have more: parts, entries, axes, places */
    smidgen_block_of_outputs *blocks;
    smidgen_block_of_signs *sign_blocks;
    uint32_t block_count;
    smidgen_depthwise depthwise;
} smidgen_operation;

/* Signs that were fetched for some pixels, `step` bytes apart: of each 4 x fours inputs in each of some rows, `row` bytes
 * apart. Bytes have signs in their upper bits and zeros in the lower, or are SMIDGEN_OUTSIDE, at the ends of all rows alike.
 * A kernel may change them, and read SMIDGEN_MORE bytes beyond. */
typedef struct {
    uint8_t *first;
    size_t step, row;
    uint32_t rows, fours, pixels;
} smidgen_fetched;

/* Where results go, and how sums become integers: clamp(sum * factor, low..high), nearest, + zero. */
typedef struct {
    float low, high;
    int32_t zero;
} smidgen_finish;

typedef struct {
    uint32_t lanes; /* sums of 16 bits that an output has in a run; 0 where sums have 32 */
    uint32_t order; /* how a step's weights lie */
    int32_t most;   /* weights are cut into parts of -most - 1..most */
    int32_t raised; /* is added to each of them; where it is not 0, inputs are multiplied less 128, as biases expect */
    /* one row of outputs of a block: `count` pixels, `step` bytes apart where they are read, `pitch` where written */
    void (*convolve)(const smidgen_block_of_outputs *block, const uint8_t *input, size_t step, uint8_t *output,
                     size_t pitch, uint32_t count, const smidgen_finish *finish, int numbers);
    /* the same for all channels of a depthwise convolution */
    void (*depthwise)(const smidgen_depthwise *weights, uint32_t places, const uint8_t *input, size_t step,
                      uint8_t *output, size_t pitch, uint32_t count, uint32_t channels, const smidgen_finish *finish);
    /* of one output pixel's window */
    void (*maximum)(uint8_t *output, const uint8_t *input, size_t row, size_t pitch, uint32_t height, uint32_t width,
                    uint32_t channels);
    void (*average)(uint8_t *output, const uint8_t *input, size_t row, size_t pitch, uint32_t height, uint32_t width,
                    uint32_t channels, int32_t zeros, float factor, const smidgen_finish *finish, int numbers);
    /* of `count` channels, which may be those of several pixels */
    void (*sum)(uint8_t *output, const uint8_t *one, const uint8_t *other, uint32_t count, const int32_t zeros[2],
                const float factors[2], const smidgen_finish *finish);
    void (*product)(uint8_t *output, const uint8_t *one, const uint8_t *other, uint32_t count,
                    const int32_t zeros[2], float factor, const smidgen_finish *finish);
    void (*signs)(uint8_t *output, const uint8_t *input, uint32_t count, uint32_t zero);
    void (*lookup)(uint8_t *output, const uint8_t *input, uint32_t count, const uint8_t table[256]);
    /* adds for each pixel and of 32 or 64 outputs in how many inputs signs differ */
    void (*differences)(uint16_t *sums, const uint8_t *weights, const smidgen_fetched *x, uint32_t width);
    /* the same for packed weights of a multiple of 16 outputs and at least SMIDGEN_PACKED_LEAST fours, an even number of bytes
     * from a pixel to the next; NULL where that is no faster */
    void (*packed_differences)(uint16_t *sums, const uint8_t *weights, const smidgen_fetched *x, uint32_t width);
    /* the integers of some pixels, of which each has `width` sums: of bias + all - 2 * sum */
    void (*store_signs)(uint8_t *output, size_t pitch, const uint16_t *sums, const int32_t *all, uint32_t pixels, uint32_t width,
                        const smidgen_block_of_signs *block, const smidgen_finish *finish);
    /* numbers of one row of the input to integers `pitch` bytes apart */
    void (*quantize)(uint8_t *output, const float *input, size_t pitch, uint32_t count, float factor,
                     const smidgen_finish *finish);
} smidgen_kernels;

/* The kernels of a way to compute. Returns 0 if they were not built. */
int smidgen_kernels_of(int way, smidgen_kernels *kernels);
int smidgen_portable_kernels(smidgen_kernels *kernels);
int smidgen_vector_kernels(smidgen_kernels *kernels);
int smidgen_avx2_kernels(smidgen_kernels *kernels);
int smidgen_avx512_vnni_kernels(smidgen_kernels *kernels);

struct smidgen_network {
    smidgen_value *values;
    smidgen_operation *operations;
    uint8_t *arena;
    smidgen_kernels kernels;
    uint32_t value_count, operation_count, arena_size, output, finish, way;
    uint32_t picture, blue_first, bicubic;
    float mean[3], std[3], input_factor;
    uint8_t pixels[3][256]; /* what the integers of the input are for each channel of a picture */
    uint64_t memory, work;
};

/* The first channel of a pixel. */
static inline uint8_t *smidgen_pixel(const smidgen_network *n, const smidgen_value *v, uint32_t y, uint32_t x) {
    return n->arena + v->offset + (size_t)y * v->row + (size_t)x * v->pitch;
}

/* How many bits two numbers of 4 bits differ in: 16 counts for each of 16 numbers, which signs hold times 16. From 255 on
 * there are 16 zeros. */
enum { SMIDGEN_OUTSIDE = 255 };
extern const uint8_t smidgen_sign_differences[SMIDGEN_OUTSIDE + 16];

/* Memory of the caller, taken piece by piece. */
typedef struct {
    uint8_t *start;
    size_t used, size, most;
    int failed;
} smidgen_space;

static inline void smidgen_copy(void *to, const void *from, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)to)[i] = ((const uint8_t *)from)[i];
}

/* A place for so many bytes, or 0 where they are not left. 64 bits, so that sizes do not wrap where size_t has 32. */
void *smidgen_take(smidgen_space *space, uint64_t bytes, size_t alignment);

/* Reads and checks a program: fills the network's facts and arrays, taken from `memory`. Returns 0 or a negative code. */
int smidgen_read_program(const uint8_t *program, size_t size, smidgen_network *network, smidgen_space *memory);

/* The nearest whole number, the even one of two; x is within -2^22..2^22. Beyond 2^23 a float has no fraction. */
static inline int32_t smidgen_nearest(float x) {
    return (int32_t)(x + 12582912.0f - 12582912.0f);
}

/* What is no number becomes `low`. */
static inline float smidgen_clamp(float x, float low, float high) {
    x = x > low ? x : low;
    return x < high ? x : high;
}

static inline smidgen_finish smidgen_finish_of(const smidgen_value *output, uint32_t low, uint32_t high) {
    const float zero = (float)output->zero;
    const smidgen_finish finish = {(float)low - zero, (float)high - zero, (int32_t)output->zero};
    return finish;
}

/* One part of `parts` of an operation's work. */
void smidgen_run_operation(smidgen_network *network, const smidgen_operation *operation, uint32_t part, uint32_t parts);

/* The units `from` <= unit < `end` of a convolution of signs; and how its block is computed. */
void smidgen_signs_convolution(const smidgen_network *n, const smidgen_operation *o, uint32_t from, uint32_t end);
smidgen_signs_shape smidgen_shape_of_signs(const smidgen_kernels *k, const smidgen_operation *o, uint32_t fours,
                                           uint32_t outputs);

/* The kernels of signs, and of tables, in plain C; and those for processors with AVX2, and with more. */
void smidgen_signs(uint8_t *output, const uint8_t *input, uint32_t count, uint32_t zero);
void smidgen_lookup(uint8_t *output, const uint8_t *input, uint32_t count, const uint8_t table[256]);
void smidgen_differences(uint16_t *sums, const uint8_t *weights, const smidgen_fetched *x, uint32_t width);
void smidgen_avx2_signs(smidgen_kernels *kernels);
void smidgen_avx512_signs(smidgen_kernels *kernels);

/* Rows and columns of what smidgen_map gives, or 0. */
void smidgen_map_size(const smidgen_network *network, uint32_t *height, uint32_t *width);

/* What each thread of a team does with what all are given; `number` is 0 in the caller's thread. */
typedef void smidgen_task(smidgen_team *team, void *given, uint32_t number);

/* Has a team do a task, and returns when all its threads have; without a team (NULL) the caller's thread does it alone,
 * and locks nothing. */
void smidgen_team_do(smidgen_team *team, smidgen_task *task, void *given);
void smidgen_team_lock(smidgen_team *team);
void smidgen_team_unlock(smidgen_team *team);

/* The whole team runs a network, one operation after the other; smidgen_run calls it. */
void smidgen_team_run(smidgen_team *team, smidgen_network *network);

#endif
