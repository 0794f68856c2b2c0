/* avx2: 32 products of 8 bits in one instruction, their sums in 16 bits for as long as the weights allow.
 *
 * A step multiplies 4 inputs of a pixel, the same for all, with the weights of 8 outputs in each of two vectors; pairs of
 * products are summed at once, so that an output has two sums of 16 bits. At the end of a run these become one of 32. */
#include "engine.h"

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#include <immintrin.h>

SMIDGEN_FOR("avx2")

#define OWN_CHUNK
typedef __m256i chunk;

static inline chunk greater(chunk a, chunk b) {
    return _mm256_max_epu8(a, b);
}

#define OWN_FINISH
static inline void finish_chunk(uint8_t made[16], const float x[16], const smidgen_finish *f) {
    const __m256 low = _mm256_set1_ps(f->low), high = _mm256_set1_ps(f->high);
    const __m256i zero = _mm256_set1_epi16((int16_t)f->zero);
    const __m256i a = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(_mm256_loadu_ps(x), low), high));
    const __m256i b = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(_mm256_loadu_ps(x + 8), low), high));
    const __m256i words = _mm256_add_epi16(_mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8), zero);
    _mm_storeu_si128((__m128i *)made, _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

#define OWN_NUMBERS
static inline void numbers_of(float x[16], const uint8_t *from, int32_t zero) {
    for (int half = 0; half < 16; half += 8) {
        const __m256i whole = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(from + half)));
        _mm256_storeu_ps(x + half, _mm256_cvtepi32_ps(_mm256_sub_epi32(whole, _mm256_set1_epi32(zero))));
    }
}

static inline void add_window(int32_t sums[16], const uint8_t *from, size_t row, size_t pitch, uint32_t height,
                              uint32_t width) {
    __m256i *all = (__m256i *)sums, low = _mm256_loadu_si256(all), high = _mm256_loadu_si256(all + 1);
    for (uint32_t y = 0; y < height; y++)
        for (uint32_t x = 0; x < width; x++) {
            const uint8_t *pixel = from + y * row + x * pitch;
            low = _mm256_add_epi32(low, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)pixel)));
            high = _mm256_add_epi32(high, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(pixel + 8))));
        }
    _mm256_storeu_si256(all, low);
    _mm256_storeu_si256(all + 1, high);
}

#include "kernels.h"

/* Pixels of a tile: 12 of the 16 registers hold their sums; and steps of a run that are few. */
enum { TILE = 6, WIDE_TILE = 4, SHORT = 3, SMALL = 16 };

/* Adds to a sum in the register that it is in; and as this is volatile, what all pixels need is not loaded first, for
 * which there would be too few registers. Without it GCC moves every sum about. */
#define ADD(size, sum, x) __asm__ volatile("vpadd" size " %0, %1, %0" : "+x"(sum) : "x"(x))

static inline __m256i inputs(const uint8_t *x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    return _mm256_set1_epi32(four);
}

static inline __attribute__((always_inline)) void tile(const smidgen_block_of_outputs *block, const uint8_t *input,
                                                       size_t step, int32_t (*sums)[CHUNK], const int pixels) {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i *w = (const __m256i *)block->weights;
    const uint32_t *offset = block->offsets;
    for (int p = 0; p < pixels; p++)
        for (int half = 0; half < 2; half++)
            _mm256_storeu_si256((__m256i *)sums[p] + half, _mm256_loadu_si256((const __m256i *)block->bias + half));
    for (uint32_t run = 0; run < block->run_count; run++) {
        __m256i sum[TILE][2];
        for (int p = 0; p < pixels; p++)
            sum[p][0] = sum[p][1] = _mm256_setzero_si256();
        for (uint32_t left = block->runs[run]; left; left--, w += 2, offset++) {
            const uint8_t *x = input + *offset, *y = x + 3 * step;
            const __m256i low = _mm256_load_si256(w), high = _mm256_load_si256(w + 1);
            for (int p = 0; p < pixels; p++) {
                const __m256i a = inputs(p < 3 ? x + (size_t)p * step : y + (size_t)(p - 3) * step);
                ADD("w", sum[p][0], _mm256_maddubs_epi16(a, low));
                ADD("w", sum[p][1], _mm256_maddubs_epi16(a, high));
            }
        }
        for (int p = 0; p < pixels; p++)
            for (int half = 0; half < 2; half++) {
                __m256i *all = (__m256i *)sums[p] + half;
                _mm256_storeu_si256(
                    all, _mm256_add_epi32(_mm256_loadu_si256(all), _mm256_madd_epi16(sum[p][half], ones)));
            }
    }
}

/* The same for weights so large that runs are short: every step's sums go to 32 bits at once. */
static inline __attribute__((always_inline)) void wide_tile(const smidgen_block_of_outputs *block, const uint8_t *input,
                                                            size_t step, int32_t (*sums)[CHUNK], const int pixels) {
    const __m256i ones = _mm256_set1_epi16(1), *w = (const __m256i *)block->weights;
    __m256i sum[WIDE_TILE][2];
    for (int p = 0; p < pixels; p++)
        for (int half = 0; half < 2; half++)
            sum[p][half] = _mm256_loadu_si256((const __m256i *)block->bias + half);
    for (uint32_t s = 0; s < block->steps; s++, w += 2) {
        const uint8_t *x = input + block->offsets[s];
        const __m256i low = _mm256_load_si256(w), high = _mm256_load_si256(w + 1);
        for (int p = 0; p < pixels; p++) {
            const __m256i a = inputs(x + (size_t)p * step);
            ADD("d", sum[p][0], _mm256_madd_epi16(_mm256_maddubs_epi16(a, low), ones));
            ADD("d", sum[p][1], _mm256_madd_epi16(_mm256_maddubs_epi16(a, high), ones));
        }
    }
    for (int p = 0; p < pixels; p++)
        for (int half = 0; half < 2; half++)
            _mm256_storeu_si256((__m256i *)sums[p] + half, sum[p][half]);
}

#define OF(pixels)                                                                                                     \
    case pixels:                                                                                                       \
        tile(block, input, step, sums, pixels);                                                                        \
        break
#define WIDE_OF(pixels)                                                                                                \
    case SMALL + pixels:                                                                                               \
        wide_tile(block, input, step, sums, pixels);                                                                   \
        break

static void convolve(const smidgen_block_of_outputs *block, const uint8_t *input, size_t step, uint8_t *output,
                     size_t pitch, uint32_t count, const smidgen_finish *finish, int numbers) {
    int32_t sums[TILE][CHUNK];
    const uint32_t wide = block->run_count * SHORT > block->steps, most = wide ? WIDE_TILE : TILE;
    uint32_t tiles = (count + most - 1) / most, pixels;
    for (; tiles; tiles--, count -= pixels, input += pixels * step, output += pixels * pitch) {
        pixels = (count + tiles - 1) / tiles; /* rather 7 = 4 + 3 than 6 + 1 */
        switch ((wide ? SMALL : 0) + pixels) {
            OF(1);
            OF(2);
            OF(3);
            OF(4);
            OF(5);
            OF(6);
            WIDE_OF(1);
            WIDE_OF(2);
            WIDE_OF(3);
            WIDE_OF(4);
        }
        store_tile(block, sums, output, pitch, pixels, finish, numbers);
    }
}

int smidgen_avx2_kernels(smidgen_kernels *kernels) {
    set_kernels(kernels, 2, SMIDGEN_BY_OUTPUT);
    smidgen_avx2_signs(kernels);
    return 1;
}
SMIDGEN_FOR_ALL
#else
int smidgen_avx2_kernels(smidgen_kernels *kernels) {
    (void)kernels;
    return 0;
}
#endif
