/* portable: the way that every processor can compute, and that all others are compared with. */
#include "kernels.h"

static void convolve(const smidgen_block_of_outputs *block, const uint8_t *input, size_t step, uint8_t *output,
                     size_t pitch, uint32_t count, const smidgen_finish *finish, int numbers) {
    for (uint32_t p = 0; p < count; p++) {
        int32_t sums[1][CHUNK];
        for (int o = 0; o < CHUNK; o++)
            sums[0][o] = block->bias[o];
        for (uint32_t s = 0; s < block->steps; s++) {
            const uint8_t *x = input + p * step + block->offsets[s];
            const int8_t *w = block->weights + (size_t)s * SMIDGEN_BLOCK * SMIDGEN_STEP;
            for (int o = 0; o < CHUNK; o++)
                for (int i = 0; i < SMIDGEN_STEP; i++)
                    sums[0][o] += w[o * SMIDGEN_STEP + i] * x[i];
        }
        store_tile(block, sums, output + p * pitch, pitch, 1, finish, numbers);
    }
}

int smidgen_portable_kernels(smidgen_kernels *kernels) {
    set_kernels(kernels, 0, SMIDGEN_BY_OUTPUT);
    return 1;
}
