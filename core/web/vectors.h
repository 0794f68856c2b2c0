/* What both ways to compute in a browser share. They stand in the place of core/src/vector.c, and a file for each defines
 * tile(): the sums of 16 outputs for one pixel or two. V8 has 15 registers for vectors on x86; two pixels take 8. */
#include "../src/engine.h"

#include <wasm_simd128.h>

#define OWN_CHUNK
typedef v128_t chunk;

static inline chunk greater(chunk a, chunk b) {
    return wasm_u8x16_max(a, b);
}

/* Four numbers, as 12582912 + x in 32 bits: that is how the nearest whole number is found, too. */
static inline v128_t finish_four(const float *x, const smidgen_finish *f) {
    const v128_t high = wasm_f32x4_splat(f->high), least = wasm_f32x4_pmax(wasm_f32x4_splat(f->low), wasm_v128_load(x));
    const v128_t bits = wasm_f32x4_add(wasm_f32x4_pmin(high, least), wasm_f32x4_const_splat(12582912.0f));
    return wasm_i32x4_add(bits, wasm_i32x4_splat(f->zero - 0x4b400000));
}

#define OWN_FINISH
static inline void finish_chunk(uint8_t made[16], const float x[16], const smidgen_finish *f) {
    const v128_t low = wasm_i16x8_narrow_i32x4(finish_four(x, f), finish_four(x + 4, f));
    const v128_t high = wasm_i16x8_narrow_i32x4(finish_four(x + 8, f), finish_four(x + 12, f));
    wasm_v128_store(made, wasm_u8x16_narrow_i16x8(low, high));
}

#include "../src/kernels.h"

enum { TILE = 2 };

/* 4 inputs, four times. What is done to them is done to all: clang would rather do it to one, and then copy it. */
static inline v128_t inputs(const uint8_t *at) {
    v128_t x = wasm_v128_load32_splat(at);
    __asm__("" : "+r"(x));
    return x;
}

/* Before a loop over sums: only unrolled early do they all stay in registers. */
#define ALL _Pragma("clang loop unroll(full)")

static inline __attribute__((always_inline)) void tile(const smidgen_block_of_outputs *block, const uint8_t *input,
                                                       size_t step, int32_t (*sums)[CHUNK], const int pixels);

static void convolve(const smidgen_block_of_outputs *block, const uint8_t *input, size_t step, uint8_t *output,
                     size_t pitch, uint32_t count, const smidgen_finish *finish, int numbers) {
    int32_t sums[TILE][CHUNK];
    for (; count >= TILE; count -= TILE, input += TILE * step, output += TILE * pitch) {
        tile(block, input, step, sums, TILE);
        store_tile(block, sums, output, pitch, TILE, finish, numbers);
    }
    if (count) {
        tile(block, input, step, sums, 1);
        store_tile(block, sums, output, pitch, 1, finish, numbers);
    }
}

int smidgen_portable_kernels(smidgen_kernels *kernels) {
    (void)kernels;
    return 0;
}
