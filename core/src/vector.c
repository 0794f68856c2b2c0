/* vector: vectors of 128 bits, written in the compiler's own terms, so that they become NEON, WebAssembly SIMD or SSE2.
 *
 * 8 outputs have a sum of 16 bits each; a step adds 4 products to it, of the same 4 inputs. */
#include "engine.h"

#if defined(__GNUC__) && (defined(__SSE2__) || defined(__ARM_NEON) || defined(__wasm_simd128__))

typedef float floats __attribute__((vector_size(16)));
typedef int32_t four_ints __attribute__((vector_size(16)));

#define OWN_FINISH
static inline void finish_chunk(uint8_t made[16], const float numbers[16], const smidgen_finish *f) {
    for (int i = 0; i < 16; i += 4) {
        const floats magic = {12582912.0f, 12582912.0f, 12582912.0f, 12582912.0f};
        const floats low = {f->low, f->low, f->low, f->low}, high = {f->high, f->high, f->high, f->high};
        floats x;
        four_ints taken, whole;
        __builtin_memcpy(&x, numbers + i, sizeof x);
        taken = x > low;
        x = (floats)(((four_ints)x & taken) | ((four_ints)low & ~taken));
        taken = x < high;
        x = (floats)(((four_ints)x & taken) | ((four_ints)high & ~taken));
        whole = __builtin_convertvector(x + magic - magic, four_ints) + f->zero;
        for (int j = 0; j < 4; j++)
            made[i + j] = (uint8_t)whole[j];
    }
}

#include "kernels.h"

typedef int8_t bytes __attribute__((vector_size(8)));
typedef uint8_t positive_bytes __attribute__((vector_size(8)));
typedef int16_t shorts __attribute__((vector_size(16)));
typedef int32_t ints __attribute__((vector_size(32)));

enum { TILE = 4 };

static inline shorts weights_of(const int8_t *at) {
    bytes eight;
    __builtin_memcpy(&eight, at, 8);
    return __builtin_convertvector(eight, shorts);
}

/* 4 inputs, twice. */
static inline shorts inputs_of(const uint8_t *at) {
    uint32_t four;
    positive_bytes eight;
    __builtin_memcpy(&four, at, 4);
    __builtin_memcpy(&eight, &(uint64_t){four | (uint64_t)four << 32}, 8);
    return __builtin_convertvector(eight, shorts);
}

#define ALL_OF(x, i) __builtin_shufflevector(x, x, i, i, i, i, i, i, i, i)

/* What input i adds to the sums of all pixels. */
#define ADD(i)                                                                                                         \
    do {                                                                                                               \
        const shorts low = weights_of(w + (i) * CHUNK), high = weights_of(w + (i) * CHUNK + 8);                        \
        for (int p = 0; p < pixels; p++) {                                                                             \
            const shorts one = ALL_OF(x[p], i);                                                                        \
            sum[p][0] += low * one;                                                                                    \
            sum[p][1] += high * one;                                                                                   \
        }                                                                                                              \
    } while (0)

static inline __attribute__((always_inline)) void tile(const smidgen_block_of_outputs *block, const uint8_t *input,
                                                       size_t step, int32_t (*sums)[CHUNK], const int pixels) {
    const int8_t *w = block->weights;
    const uint32_t *offset = block->offsets;
    for (int p = 0; p < pixels; p++)
        __builtin_memcpy(sums[p], block->bias, sizeof block->bias);
    for (uint32_t run = 0; run < block->run_count; run++) {
        shorts sum[TILE][2], x[TILE];
        for (int p = 0; p < pixels; p++)
            sum[p][0] = sum[p][1] = (shorts){0};
        for (uint32_t left = block->runs[run]; left; left--, offset++, w += SMIDGEN_STEP * CHUNK) {
            for (int p = 0; p < pixels; p++)
                x[p] = inputs_of(input + *offset + (size_t)p * step);
            ADD(0);
            ADD(1);
            ADD(2);
            ADD(3);
        }
        for (int p = 0; p < pixels; p++)
            for (int half = 0; half < 2; half++) {
                ints all;
                __builtin_memcpy(&all, sums[p] + 8 * half, sizeof all);
                all += __builtin_convertvector(sum[p][half], ints);
                __builtin_memcpy(sums[p] + 8 * half, &all, sizeof all);
            }
    }
}

static void convolve(const smidgen_block_of_outputs *block, const uint8_t *input, size_t step, uint8_t *output,
                     size_t pitch, uint32_t count, const smidgen_finish *finish, int numbers) {
    int32_t sums[TILE][CHUNK];
    uint32_t tiles = (count + TILE - 1) / TILE, pixels;
    for (; tiles; tiles--, count -= pixels, input += pixels * step, output += pixels * pitch) {
        pixels = (count + tiles - 1) / tiles;
        switch (pixels) {
        case 4:
            tile(block, input, step, sums, 4);
            break;
        case 3:
            tile(block, input, step, sums, 3);
            break;
        case 2:
            tile(block, input, step, sums, 2);
            break;
        default:
            tile(block, input, step, sums, 1);
        }
        store_tile(block, sums, output, pitch, pixels, finish, numbers);
    }
}

int smidgen_vector_kernels(smidgen_kernels *kernels) {
    set_kernels(kernels, 1, SMIDGEN_BY_INPUT);
    return 1;
}
#else
int smidgen_vector_kernels(smidgen_kernels *kernels) {
    (void)kernels;
    return 0;
}
#endif
