/* The kernels that need nothing of a processor. A file for each way to compute includes this under its own target, for
 * whose vectors the compiler then lays out these loops; only the convolution is written by hand there.
 *
 * Floats are computed in the order written, one rounding for each operation: no -ffast-math, and no contraction of
 * products and sums into one instruction, which is what makes all ways give the same bits. */
#include "engine.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

enum { CHUNK = SMIDGEN_BLOCK };

/* Some integers, and the greater of each two. A way with instructions for that defines OWN_CHUNK and its own. */
#ifndef OWN_CHUNK
typedef struct {
    uint8_t of[CHUNK];
} chunk;

static inline chunk greater(chunk a, chunk b) {
    for (int i = 0; i < CHUNK; i++)
        a.of[i] = a.of[i] > b.of[i] ? a.of[i] : b.of[i];
    return a;
}

#endif

/* 16 integers less their zero to numbers, and 16 integers of all pixels of a window added to sums;
 * the same with OWN_NUMBERS. */
#ifndef OWN_NUMBERS
static inline void numbers_of(float x[CHUNK], const uint8_t *from, int32_t zero) {
    for (int i = 0; i < CHUNK; i++)
        x[i] = (float)(from[i] - zero);
}

static inline void add_window(int32_t sums[CHUNK], const uint8_t *from, size_t row, size_t pitch, uint32_t height,
                              uint32_t width) {
    for (uint32_t y = 0; y < height; y++)
        for (uint32_t x = 0; x < width; x++)
            for (int i = 0; i < CHUNK; i++)
                sums[i] += from[y * row + x * pitch + i];
}
#endif

/* 16 numbers to integers; the same with OWN_FINISH. */
#ifndef OWN_FINISH
static inline void finish_chunk(uint8_t made[CHUNK], const float x[CHUNK], const smidgen_finish *f) {
    for (int i = 0; i < CHUNK; i++)
        made[i] = (uint8_t)(smidgen_nearest(smidgen_clamp(x[i], f->low, f->high)) + f->zero);
}
#endif

static inline void keep(uint8_t *output, const float x[CHUNK], uint32_t count, const smidgen_finish *f) {
    uint8_t made[CHUNK];
    if (count >= CHUNK) {
        finish_chunk(output, x, f);
        return;
    }
    finish_chunk(made, x, f);
    for (uint32_t i = 0; i < count; i++)
        output[i] = made[i];
}

/* Sums of 16 outputs to integers, of which `outputs` are kept; or to floats. */
static inline void store(uint8_t *output, const int32_t sums[CHUNK], const float factor[CHUNK], uint32_t outputs,
                         const smidgen_finish *f, int numbers) {
    float x[CHUNK];
    for (int i = 0; i < CHUNK; i++)
        x[i] = (float)sums[i] * factor[i];
    if (numbers)
        __builtin_memcpy(output, x, outputs * sizeof(float));
    else
        keep(output, x, outputs, f);
}

static inline void store_tile(const smidgen_block_of_outputs *block, int32_t (*sums)[CHUNK], uint8_t *output,
                              size_t pitch, uint32_t count, const smidgen_finish *f, int numbers) {
    for (uint32_t p = 0; p < count; p++)
        store(output + p * pitch, sums[p], block->factor, block->outputs, f, numbers);
}

static void depthwise(const smidgen_depthwise *w, uint32_t places, const uint8_t *input, size_t step, uint8_t *output,
                      size_t pitch, uint32_t count, uint32_t channels, const smidgen_finish *f) {
    const uint32_t padded = (channels + CHUNK - 1) / CHUNK * CHUNK;
    for (uint32_t c = 0; c < channels; c += CHUNK)
        for (uint32_t p = 0; p < count; p++) {
            int32_t sums[CHUNK];
            for (int i = 0; i < CHUNK; i++)
                sums[i] = w->bias[c + i];
            for (uint32_t k = 0; k < places; k++) {
                const uint8_t *x = input + p * step + w->places[k] + c;
                const int16_t *factors = w->weights + k * padded + c;
                for (int i = 0; i < CHUNK; i++)
                    sums[i] += (int32_t)factors[i] * x[i];
            }
            store(output + p * pitch + c, sums, w->factor + c, channels - c < CHUNK ? channels - c : CHUNK, f, 0);
        }
}

/* The greatest of a window's pixels, which lie `pitch` bytes apart in rows that are `row` bytes apart. */
static void maximum(uint8_t *output, const uint8_t *input, size_t row, size_t pitch, uint32_t height, uint32_t width,
                    uint32_t channels) {
    for (uint32_t c = 0; c < channels; c += (uint32_t)sizeof(chunk)) {
        chunk most, one;
        __builtin_memcpy(&most, input + c, sizeof most);
        for (uint32_t y = 0; y < height; y++)
            for (uint32_t x = 0; x < width; x++) {
                __builtin_memcpy(&one, input + y * row + x * pitch + c, sizeof one);
                most = greater(most, one);
            }
        if (channels - c >= sizeof most)
            __builtin_memcpy(output + c, &most, sizeof most);
        else
            __builtin_memcpy(output + c, &most, channels - c);
    }
}

/* The mean of a window's pixels: (sum - zeros) * factor, as integers or numbers. */
static void average(uint8_t *output, const uint8_t *input, size_t row, size_t pitch, uint32_t height, uint32_t width,
                    uint32_t channels, int32_t zeros, float factor, const smidgen_finish *f, int numbers) {
    float factors[CHUNK];
    for (int i = 0; i < CHUNK; i++)
        factors[i] = factor;
    for (uint32_t c = 0; c < channels; c += CHUNK) {
        int32_t sums[CHUNK];
        for (int i = 0; i < CHUNK; i++)
            sums[i] = -zeros;
        add_window(sums, input + c, row, pitch, height, width);
        store(output + c * (numbers ? sizeof(float) : 1), sums, factors, channels - c < CHUNK ? channels - c : CHUNK, f,
              numbers);
    }
}

static void sum(uint8_t *output, const uint8_t *one, const uint8_t *other, uint32_t count, const int32_t zeros[2],
                const float factors[2], const smidgen_finish *f) {
    const float first = factors[0], second = factors[1];
    for (uint32_t c = 0; c < count; c += CHUNK) {
        float x[CHUNK], y[CHUNK];
        numbers_of(x, one + c, zeros[0]);
        numbers_of(y, other + c, zeros[1]);
        for (int i = 0; i < CHUNK; i++)
            x[i] = x[i] * first + y[i] * second;
        keep(output + c, x, count - c, f);
    }
}

static void product(uint8_t *output, const uint8_t *one, const uint8_t *other, uint32_t count,
                    const int32_t zeros[2], float factor, const smidgen_finish *f) {
    for (uint32_t c = 0; c < count; c += CHUNK) {
        float x[CHUNK], y[CHUNK];
        numbers_of(x, one + c, zeros[0]);
        numbers_of(y, other + c, zeros[1]);
        for (int i = 0; i < CHUNK; i++)
            x[i] = x[i] * y[i] * factor;
        keep(output + c, x, count - c, f);
    }
}

static void store_signs(uint8_t *output, size_t pitch, const uint16_t *sums, const int32_t *all, uint32_t pixels, uint32_t width,
                        const smidgen_block_of_signs *block, const smidgen_finish *f) {
    for (uint32_t p = 0; p < pixels; p++, output += pitch, sums += width)
        for (uint32_t o = 0; o < block->outputs; o += CHUNK) {
            int32_t whole[CHUNK];
            for (int i = 0; i < CHUNK; i++)
                whole[i] = block->bias[o + i] + all[p] - (int32_t)sums[o + i] - (int32_t)sums[o + i];
            store(output + o, whole, block->factor + o, block->outputs - o < CHUNK ? block->outputs - o : CHUNK, f, 0);
        }
}

/* A row of the input: numbers to integers that lie `pitch` bytes apart. */
static void quantize(uint8_t *output, const float *input, size_t pitch, uint32_t count, float factor,
                     const smidgen_finish *f) {
    for (uint32_t at = 0; at < count; at += CHUNK) {
        const uint32_t some = count - at < CHUNK ? count - at : CHUNK;
        float x[CHUNK] = {0};
        uint8_t made[CHUNK];
        for (uint32_t i = 0; i < some; i++)
            x[i] = input[at + i] * factor;
        finish_chunk(made, x, f);
        for (uint32_t i = 0; i < some; i++)
            output[(at + i) * pitch] = made[i];
    }
}

static void convolve(const smidgen_block_of_outputs *block, const uint8_t *input, size_t step, uint8_t *output,
                     size_t pitch, uint32_t count, const smidgen_finish *finish, int numbers);

static void set_kernels(smidgen_kernels *k, uint32_t lanes, uint32_t order) {
    k->lanes = lanes;
    k->order = order;
    k->most = 127;
    k->raised = 0;
    k->convolve = convolve;
    k->depthwise = depthwise;
    k->maximum = maximum;
    k->average = average;
    k->sum = sum;
    k->product = product;
    k->lookup = smidgen_lookup;
    k->signs = smidgen_signs;
    k->differences = smidgen_differences;
    k->packed_differences = 0;
    k->store_signs = store_signs;
    k->quantize = quantize;
}
