/* avx512: 64 products of 8 bits, added to 16 sums of 32 bits in one instruction (VNNI). */
#include "engine.h"

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#include <immintrin.h>

SMIDGEN_FOR("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")

#define OWN_CHUNK
typedef __m256i chunk;

static inline chunk greater(chunk a, chunk b) {
    return _mm256_max_epu8(a, b);
}

#define OWN_FINISH
static inline void finish_chunk(uint8_t made[16], const float x[16], const smidgen_finish *f) {
    const __m512 above = _mm512_max_ps(_mm512_loadu_ps(x), _mm512_set1_ps(f->low));
    const __m512i all = _mm512_cvtps_epi32(_mm512_min_ps(above, _mm512_set1_ps(f->high)));
    _mm_storeu_si128((__m128i *)made, _mm512_cvtepi32_epi8(_mm512_add_epi32(all, _mm512_set1_epi32(f->zero))));
}

#define OWN_NUMBERS
static inline void numbers_of(float x[16], const uint8_t *from, int32_t zero) {
    const __m512i whole = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
    _mm512_storeu_ps(x, _mm512_cvtepi32_ps(_mm512_sub_epi32(whole, _mm512_set1_epi32(zero))));
}

static inline void add_window(int32_t sums[16], const uint8_t *from, size_t row, size_t pitch, uint32_t height,
                              uint32_t width) {
    __m512i all = _mm512_loadu_si512(sums);
    for (uint32_t y = 0; y < height; y++)
        for (uint32_t x = 0; x < width; x++) {
            const __m128i pixel = _mm_loadu_si128((const __m128i *)(from + y * row + x * pitch));
            all = _mm512_add_epi32(all, _mm512_cvtepu8_epi32(pixel));
        }
    _mm512_storeu_si512(sums, all);
}

#include "kernels.h"

enum { TILE = 12 }; /* pixels: the sum of a pixel waits for the one before, and so many others fill that time */

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

int smidgen_avx512_vnni_kernels(smidgen_kernels *kernels) {
    set_kernels(kernels, 0, SMIDGEN_BY_OUTPUT);
    smidgen_avx2_signs(kernels);
    smidgen_avx512_signs(kernels);
    return 1;
}
SMIDGEN_FOR_ALL
#else
int smidgen_avx512_vnni_kernels(smidgen_kernels *kernels) {
    (void)kernels;
    return 0;
}
#endif
