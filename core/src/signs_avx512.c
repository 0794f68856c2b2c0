/* signs_avx512: the kernels of signs, and of tables, for processors that count bits and look up bytes in 512 bits. */
#include "engine.h"

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>

SMIDGEN_FOR("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vpopcntdq,bmi2")

enum { TOGETHER = 8, EIGHTS = 2048 }; /* pixels; and the most times 8 fours: a program's have 4 x fours <= 65535 */

/* (input ^ weight) & mask */
enum { DIFFER_WHERE = 0x28 };

static inline __m512i eight(const uint8_t *fours) {
    int32_t bits;
    __builtin_memcpy(&bits, fours, 4);
    return _mm512_set1_epi32(bits);
}

/* Of each row its signs without gaps, where they were; beyond its end there is what was there. */
static void pack(const smidgen_fetched *x, size_t row) {
    uint8_t *to = x->first;
    for (uint32_t i = 0; i < x->rows; i++, to += x->row)
        for (size_t at = 0; at < row; at += 8) {
            uint64_t fours;
            uint32_t bits;
            __builtin_memcpy(&fours, to + at, 8);
            bits = (uint32_t)_pext_u64(fours, 0xf0f0f0f0f0f0f0f0u);
            __builtin_memcpy(to + at / 2, &bits, 4);
        }
}

/* Those bits of some fours that lie from `from` on and before `end`. */
static void choose(uint32_t masks[EIGHTS], uint32_t fours, size_t from, size_t end) {
    end = end < fours ? end : fours;
    for (size_t at = 0; at < fours; at += 8, masks++) {
        const uint32_t before = from > at ? (from - at < 8 ? (uint32_t)(from - at) : 8) : 0;
        const uint32_t within = end > at ? (end - at < 8 ? (uint32_t)(end - at) : 8) : 0;
        *masks = (uint32_t)((1ull << 4 * within) - 1) & ~(uint32_t)((1ull << 4 * before) - 1);
    }
}

static inline __attribute__((always_inline)) void some_differences(uint16_t *sums, const uint8_t *weights,
                                                                   const smidgen_fetched *x, const uint8_t *input,
                                                                   const uint32_t *masks, uint32_t width,
                                                                   const int pixels) {
    const uint32_t eights = (x->fours + 7) / 8;
    const size_t step = x->step / 2;
    for (uint32_t o = 0; o < width; o += 16) {
        const uint8_t *w = weights + 4 * (size_t)o, *row = input;
        __m512i sum[TOGETHER];
        for (int p = 0; p < pixels; p++)
            sum[p] = _mm512_setzero_si512();
        for (uint32_t i = 0; i < x->rows; i++, row += x->row)
            for (uint32_t j = 0; j < eights; j++, w += 4 * (size_t)width) {
                const __m512i own = _mm512_load_si512(w), mask = _mm512_set1_epi32((int32_t)masks[j]);
                const uint8_t *at = row + 4 * (size_t)j, *other = at + 4 * step;
                for (int p = 0; p < pixels; p++) {
                    const __m512i signs = eight(p < 4 ? at + (size_t)p * step : other + (size_t)(p - 4) * step);
                    const __m512i differ = _mm512_ternarylogic_epi32(signs, own, mask, DIFFER_WHERE);
                    sum[p] = _mm512_add_epi32(sum[p], _mm512_popcnt_epi32(differ));
                }
            }
        for (int p = 0; p < pixels; p++) {
            __m256i *all = (__m256i *)(sums + (size_t)p * width + o);
            _mm256_storeu_si256(all, _mm256_add_epi16(_mm256_loadu_si256(all), _mm512_cvtepi32_epi16(sum[p])));
        }
    }
}

#define OF(pixels)                                                                                                     \
    case pixels:                                                                                                       \
        some_differences(sums, weights, x, input, masks, width, pixels);                                               \
        break

/* Pixels of which nothing lies outside are computed together, the others one by one. */
static void packed_differences(uint16_t *sums, const uint8_t *weights, const smidgen_fetched *x, uint32_t width) {
    const size_t row = (x->pixels - 1) * x->step + x->fours;
    uint32_t masks[EIGHTS], together;
    size_t left = 0, right = row;
    int whole = 0; /* whether the masks are those of pixels of which nothing lies outside */
    while (left < row && x->first[left] == SMIDGEN_OUTSIDE)
        left++;
    while (right > left && x->first[right - 1] == SMIDGEN_OUTSIDE)
        right--;
    pack(x, row);
    for (uint32_t p = 0; p < x->pixels; p += together) {
        const size_t from = p * x->step;
        const uint8_t *input = x->first + from / 2;
        const size_t inside = from >= left && from + x->fours <= right ? (right - from - x->fours) / x->step + 1 : 0;
        const size_t some = inside < x->pixels - p ? inside : x->pixels - p;
        together = some >= 8 ? 8 : some >= 4 ? 4 : some >= 2 ? 2 : 1;
        if (!inside)
            choose(masks, x->fours, left > from ? left - from : 0, right > from ? right - from : 0);
        else if (!whole)
            choose(masks, x->fours, 0, x->fours);
        whole = inside > 0;
        switch (together) {
            OF(8);
            OF(4);
            OF(2);
            OF(1);
        }
        sums += together * width;
    }
}

static void lookup(uint8_t *output, const uint8_t *input, uint32_t count, const uint8_t table[256]) {
    const __m512i *parts = (const __m512i *)table;
    const __m512i first = _mm512_loadu_si512(parts), second = _mm512_loadu_si512(parts + 1);
    const __m512i third = _mm512_loadu_si512(parts + 2), fourth = _mm512_loadu_si512(parts + 3);
    for (; count >= 64; count -= 64, input += 64, output += 64) {
        const __m512i x = _mm512_loadu_si512(input);
        const __m512i low = _mm512_permutex2var_epi8(first, x, second), high = _mm512_permutex2var_epi8(third, x, fourth);
        _mm512_storeu_si512(output, _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(x), high));
    }
    smidgen_lookup(output, input, count, table);
}

void smidgen_avx512_signs(smidgen_kernels *kernels) {
    if (!smidgen_processor_can(SMIDGEN_AVX512_COUNTS))
        return;
    kernels->packed_differences = packed_differences;
    kernels->lookup = lookup;
}
SMIDGEN_FOR_ALL
#else
void smidgen_avx512_signs(smidgen_kernels *kernels) {
    (void)kernels;
}
#endif
