/* relaxed: "relaxed SIMD", which multiplies a signed byte by one of 0..127, and sums four such products in one
 * instruction. Weights are told in -64..63 and raised by 64, inputs lowered by 128:
 *
 *     sum of x w = sum of (x - 128) (w + 64) + 128 sum of w - 64 sum of (x - 128)
 *
 * What the weights make of it is in the bias; what the inputs do is summed beside. In this range every machine gives the
 * same, however relaxed it is beyond. */
#include "vectors.h"

/* Bytes of `a` times those of `b`, 0..127, four of which are added to each number of `c`. It is
 * i32x4.relaxed_dot_i8x16_i7x16_add_s, which clang has from version 16 on. Like all that is volatile, it stays where it is
 * written: if weights were loaded ahead, they would drive sums out of the registers. */
static inline v128_t dot(v128_t a, v128_t b, v128_t c) {
    v128_t made;
    __asm__ volatile("local.get %1\n"
                     "local.get %2\n"
                     "local.get %3\n"
                     ".byte 0xfd, 0x93, 0x02\n"
                     "local.set %0"
                     : "=r"(made)
                     : "r"(a), "r"(b), "r"(c));
    return made;
}

/* 64 and 128, sixteen times each; read, since V8 makes what it knows to be constant anew each time. */
static const volatile v128_t raised = {0x40404040, 0x40404040, 0x40404040, 0x40404040};
static const volatile v128_t top = {INT32_MIN + 0x808080, INT32_MIN + 0x808080, INT32_MIN + 0x808080,
                                    INT32_MIN + 0x808080};

static inline void tile(const smidgen_block_of_outputs *block, const uint8_t *input, size_t step,
                        int32_t (*sums)[CHUNK], const int pixels) {
    const volatile v128_t *w = (const volatile v128_t *)block->weights;
    const uint32_t *offset = block->offsets, *end = offset + block->steps;
    const v128_t lowered = top;
    v128_t sum[TILE][4], beside[TILE];
    ALL for (int p = 0; p < pixels; p++) {
        beside[p] = wasm_i32x4_const_splat(0);
        ALL for (int four = 0; four < 4; four++)
            sum[p][four] = wasm_v128_load(block->bias + 4 * four);
    }
    for (; offset < end; offset++, w += 4) {
        const uint8_t *from = input + *offset;
        const v128_t all = raised;
        v128_t x[TILE];
        ALL for (int p = 0; p < pixels; p++) {
            x[p] = wasm_v128_xor(inputs(from + (size_t)p * step), lowered);
            beside[p] = dot(x[p], all, beside[p]);
        }
        ALL for (int four = 0; four < 4; four++) {
            const v128_t weights = w[four];
            ALL for (int p = 0; p < pixels; p++)
                sum[p][four] = dot(x[p], weights, sum[p][four]);
        }
    }
    ALL for (int p = 0; p < pixels; p++)
        ALL for (int four = 0; four < 4; four++)
            wasm_v128_store(sums[p] + 4 * four, wasm_i32x4_sub(sum[p][four], beside[p]));
}

int smidgen_vector_kernels(smidgen_kernels *kernels) {
    set_kernels(kernels, 0, SMIDGEN_BY_OUTPUT);
    kernels->most = 63;
    kernels->raised = 64;
    return 1;
}
