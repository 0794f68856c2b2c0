/* signs_avx2: the kernels of signs, and of tables, for all processors that have AVX2. */
#include "engine.h"

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#include <immintrin.h>

SMIDGEN_FOR("avx2")

enum { SUMS = 12 }; /* registers of 32 sums of 8 bits */

/* Adds to a sum in the register that it is in, where GCC would move every sum about. */
#define ADD(sum, x) __asm__ volatile("vpaddb %1, %0, %0" : "+x"(sum) : "x"(x))

/* Adds 32 sums of 8 bits to as many of 16. */
static inline void widen(uint16_t *sums, __m256i few) {
    __m256i *all = (__m256i *)sums;
    const __m256i low = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(few));
    const __m256i high = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(few, 1));
    _mm256_storeu_si256(all, _mm256_add_epi16(_mm256_loadu_si256(all), low));
    _mm256_storeu_si256(all + 1, _mm256_add_epi16(_mm256_loadu_si256(all + 1), high));
}

/* The sums of a pixel are in one register, or in two where there are 64 outputs. */
static inline __attribute__((always_inline)) void some_differences(uint16_t *sums, const uint8_t *weights,
                                                                   const smidgen_fetched *x, const uint8_t *input,
                                                                   const int registers, const int each) {
    enum { MOST = 63 }; /* counts of at most 4 that a byte holds the sum of */
    const __m256i *w = (const __m256i *)weights;
    const size_t step = x->step;
    __m256i sum[SUMS];
    uint32_t left = x->fours, rows = x->rows, room = MOST;
    for (int r = 0; r < registers; r++)
        sum[r] = _mm256_setzero_si256();
    while (rows) {
        uint32_t some = left < room ? left : room;
        left -= some;
        room -= some;
        for (; some; some--, input++, w += each) {
            const __m256i first = _mm256_load_si256(w), last = _mm256_load_si256(w + each - 1);
            for (int r = 0; r < registers; r += each) {
                const uint8_t *counts = smidgen_sign_differences + input[(size_t)(r / each) * step];
                const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)counts));
                ADD(sum[r], _mm256_shuffle_epi8(table, first));
                if (each == 2)
                    ADD(sum[r + 1], _mm256_shuffle_epi8(table, last));
            }
        }
        if (!left) {
            input += x->row - x->fours;
            left = x->fours;
            rows--;
        }
        if (!room || !rows) {
            room = MOST;
            for (int r = 0; r < registers; r++) {
                widen(sums + 32 * r, sum[r]);
                sum[r] = _mm256_setzero_si256();
            }
        }
    }
}

#define OF(registers, each)                                                                                            \
    case registers + 16 * each:                                                                                        \
        some_differences(sums, weights, x, input, registers, each);                                                    \
        break

static void differences(uint16_t *sums, const uint8_t *weights, const smidgen_fetched *x, uint32_t width) {
    const uint32_t each = width / 32;
    const uint8_t *input = x->first;
    for (uint32_t left = x->pixels * each, registers; left; left -= registers) {
        registers = left >= SUMS ? SUMS : left >= 4 ? 4 : each;
        switch (registers + 16 * each) {
            OF(12, 1);
            OF(4, 1);
            OF(1, 1);
            OF(12, 2);
            OF(4, 2);
            OF(2, 2);
        }
        sums += registers * 32;
        input += registers / each * x->step;
    }
}

static void signs(uint8_t *output, const uint8_t *input, uint32_t count, uint32_t zero) {
    const __m256i least = _mm256_set1_epi8((char)zero), bits = _mm256_set1_epi32((int)0x80402010);
    const __m256i ones = _mm256_set1_epi8(1), pairs = _mm256_set1_epi16(1);
    const __m256i first = _mm256_set1_epi32(0x0c080400); /* of each of 4 sums the lowest byte */
    for (; count >= 32; count -= 32, input += 32, output += 8) {
        const __m256i x = _mm256_loadu_si256((const __m256i *)input);
        const __m256i taken = _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_max_epu8(x, least), x), bits);
        const __m256i fours = _mm256_madd_epi16(_mm256_maddubs_epi16(taken, ones), pairs);
        const __m256i bytes = _mm256_shuffle_epi8(fours, first);
        const __m128i low = _mm256_castsi256_si128(bytes), high = _mm256_extracti128_si256(bytes, 1);
        _mm_storel_epi64((__m128i *)output, _mm_unpacklo_epi32(low, high));
    }
    smidgen_signs(output, input, count, zero);
}

/* 16 tables of 16 entries, of which each holds in what it differs from the one before: so an input of 16 k or more takes
 * tables 0 to k, and all others give zeros, as what is negative does. Inputs from 128 on have eight of their own. */
static void lookup(uint8_t *output, const uint8_t *input, uint32_t count, const uint8_t table[256]) {
    __m256i apart[16];
    for (int i = 0; i < 16; i++) {
        const __m128i own = _mm_loadu_si128((const __m128i *)table + i);
        const __m128i before = i % 8 ? _mm_loadu_si128((const __m128i *)table + i - 1) : _mm_setzero_si128();
        apart[i] = _mm256_broadcastsi128_si256(_mm_xor_si128(own, before));
    }
    for (; count >= 32; count -= 32, input += 32, output += 32) {
        const __m256i x = _mm256_loadu_si256((const __m256i *)input), sixteen = _mm256_set1_epi8(16);
        __m256i low = x, high = _mm256_xor_si256(x, _mm256_set1_epi8((char)0x80));
        __m256i made = _mm256_shuffle_epi8(apart[0], low), other = _mm256_shuffle_epi8(apart[8], high);
        for (int i = 1; i < 8; i++) {
            low = _mm256_subs_epi8(low, sixteen);
            high = _mm256_subs_epi8(high, sixteen);
            made = _mm256_xor_si256(made, _mm256_shuffle_epi8(apart[i], low));
            other = _mm256_xor_si256(other, _mm256_shuffle_epi8(apart[8 + i], high));
        }
        _mm256_storeu_si256((__m256i *)output, _mm256_or_si256(made, other));
    }
    smidgen_lookup(output, input, count, table);
}

void smidgen_avx2_signs(smidgen_kernels *kernels) {
    kernels->differences = differences;
    kernels->signs = signs;
    kernels->lookup = lookup;
}
SMIDGEN_FOR_ALL
#endif
