/* simd: what every browser has. Products of 16 bits, two of which are summed in 32 at once. */
#include "vectors.h"

static inline void tile(const smidgen_block_of_outputs *block, const uint8_t *input, size_t step,
                        int32_t (*sums)[CHUNK], const int pixels) {
    const v128_t *w = (const v128_t *)block->weights;
    const v128_t even = wasm_i16x8_const_splat(255);
    v128_t sum[TILE][4];
    ALL for (int p = 0; p < pixels; p++)
        ALL for (int four = 0; four < 4; four++)
            sum[p][four] = wasm_v128_load(block->bias + 4 * four);
    for (uint32_t s = 0; s < block->steps; s++, w += 8) {
        const uint8_t *from = input + block->offsets[s];
        v128_t x[TILE][2];
        ALL for (int p = 0; p < pixels; p++) {
            const v128_t four = inputs(from + (size_t)p * step);
            x[p][0] = wasm_v128_and(four, even); /* inputs 0 and 2, for each of 4 outputs */
            x[p][1] = wasm_u16x8_shr(four, 8);   /* 1 and 3 */
        }
        ALL for (int half = 0; half < 2; half++)
            ALL for (int four = 0; four < 4; four++)
                ALL for (int p = 0; p < pixels; p++)
                    sum[p][four] = wasm_i32x4_add(sum[p][four], wasm_i32x4_dot_i16x8(w[2 * four + half], x[p][half]));
    }
    ALL for (int p = 0; p < pixels; p++)
        ALL for (int four = 0; four < 4; four++)
            wasm_v128_store(sums[p] + 4 * four, sum[p][four]);
}

int smidgen_vector_kernels(smidgen_kernels *kernels) {
    set_kernels(kernels, 0, SMIDGEN_PAIRS);
    kernels->most = 32767;
    return 1;
}
