/* avx512: 64 products of 8 bits, added to 16 sums of 32 bits in one instruction (VNNI). */
#include "engine.h"

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#include <immintrin.h>

SMIDGEN_FOR("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")

#define OWN_CHUNK
typedef __m128i chunk;

static inline chunk greater(chunk a, chunk b) {
    return _mm_max_epu8(a, b);
}

#define OWN_FINISH
static inline void finish_chunk(uint8_t made[16], const float x[16], const smidgen_finish *f) {
    const __m512 above = _mm512_max_ps(_mm512_loadu_ps(x), _mm512_set1_ps(f->low));
    const __m512i all = _mm512_cvtps_epi32(_mm512_min_ps(above, _mm512_set1_ps(f->high)));
    _mm_storeu_si128((__m128i *)made, _mm512_cvtepi32_epi8(_mm512_add_epi32(all, _mm512_set1_epi32(f->zero))));
}

#define OWN_DIFFERENCES
static void differences(uint16_t (*sums)[SMIDGEN_SIGNS_BLOCK], const uint8_t *weights, const uint8_t *input,
                        size_t step, uint32_t fours, uint32_t pixels);

#include "kernels.h"

enum { TILE = 12 }; /* pixels: the sum of a pixel waits for the one before, and so many others fill that time */

/* Keeps GCC from loading what all pixels need first. */
#define IN_REGISTER(sum) __asm__ volatile("" : "+v"(sum))

static inline __m512i inputs(const uint8_t *x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}

static inline __attribute__((always_inline)) void tile(const smidgen_block_of_outputs *block, const uint8_t *input,
                                                       size_t step, int32_t (*sums)[CHUNK], const int pixels) {
    const __m512i *w = (const __m512i *)block->weights;
    __m512i sum[TILE];
    for (int p = 0; p < pixels; p++)
        sum[p] = _mm512_loadu_si512(block->bias);
    for (uint32_t s = 0; s < block->steps; s++) {
        const uint8_t *x = input + block->offsets[s];
        const __m512i weights = _mm512_load_si512(w + s);
        for (int p = 0; p < pixels; p++)
            sum[p] = _mm512_dpbusd_epi32(sum[p], inputs(x + (size_t)p * step), weights);
    }
    for (int p = 0; p < pixels; p++)
        _mm512_storeu_si512(sums[p], sum[p]);
}

#define OF(pixels)                                                                                                     \
    case pixels:                                                                                                       \
        tile(block, input, step, sums, pixels);                                                                        \
        break

static void convolve(const smidgen_block_of_outputs *block, const uint8_t *input, size_t step, uint8_t *output,
                     size_t pitch, uint32_t count, const smidgen_finish *finish, int numbers) {
    int32_t sums[TILE][CHUNK];
    uint32_t tiles = (count + TILE - 1) / TILE, pixels;
    for (; tiles; tiles--, count -= pixels, input += pixels * step, output += pixels * pitch) {
        pixels = (count + tiles - 1) / tiles;
        switch (pixels) {
            OF(12);
            OF(11);
            OF(10);
            OF(9);
            OF(8);
            OF(7);
            OF(6);
            OF(5);
            OF(4);
            OF(3);
            OF(2);
        default:
            tile(block, input, step, sums, 1);
        }
        store_tile(block, sums, output, pitch, pixels, finish, numbers);
    }
}

/* A table of 16 counts, which the inputs choose, is looked up at the weights of 64 outputs in one instruction. */
static inline __attribute__((always_inline)) void some_differences(uint16_t (*sums)[SMIDGEN_SIGNS_BLOCK],
                                                                   const uint8_t *weights, const uint8_t *input,
                                                                   size_t step, uint32_t fours, const int pixels) {
    enum { MOST = 63 }; /* counts of at most 4 that a byte holds the sum of */
    while (fours) {
        uint32_t some = fours < MOST ? fours : MOST;
        __m512i sum[SMIDGEN_SIGNS_TILE];
        fours -= some;
        for (int p = 0; p < pixels; p++)
            sum[p] = _mm512_setzero_si512();
        for (; some; some--, input++, weights += SMIDGEN_SIGNS_BLOCK) {
            const __m512i w = _mm512_load_si512(weights);
            for (int p = 0; p < pixels; p++) {
                const __m512i counts = _mm512_broadcast_i32x4(
                    _mm_loadu_si128((const __m128i *)(smidgen_sign_differences + (input[(size_t)p * step] & 0xf0))));
                sum[p] = _mm512_add_epi8(sum[p], _mm512_shuffle_epi8(counts, w));
                IN_REGISTER(sum[p]);
            }
        }
        for (int p = 0; p < pixels; p++)
            for (int half = 0; half < 2; half++) {
                const __m256i few = half ? _mm512_extracti64x4_epi64(sum[p], 1) : _mm512_castsi512_si256(sum[p]);
                uint16_t *all = sums[p] + 32 * half;
                _mm512_storeu_si512(all, _mm512_add_epi16(_mm512_loadu_si512(all), _mm512_cvtepu8_epi16(few)));
            }
    }
}

static void differences(uint16_t (*sums)[SMIDGEN_SIGNS_BLOCK], const uint8_t *weights, const uint8_t *input,
                        size_t step, uint32_t fours, uint32_t pixels) {
    if (pixels == SMIDGEN_SIGNS_TILE) {
        some_differences(sums, weights, input, step, fours, SMIDGEN_SIGNS_TILE);
        return;
    }
    for (; pixels >= 4; pixels -= 4, sums += 4, input += 4 * step)
        some_differences(sums, weights, input, step, fours, 4);
    for (; pixels; pixels--, sums++, input += step)
        some_differences(sums, weights, input, step, fours, 1);
}

int smidgen_avx512_vnni_kernels(smidgen_kernels *kernels) {
    set_kernels(kernels, 0, SMIDGEN_BY_OUTPUT);
    return 1;
}
SMIDGEN_FOR_ALL
#else
int smidgen_avx512_vnni_kernels(smidgen_kernels *kernels) {
    (void)kernels;
    return 0;
}
#endif
