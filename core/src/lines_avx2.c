/* lines with vectors of AVX2: its eight models at once. */
#include "internal.h"

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>

SMIDGEN_FOR("avx2")

#define OWN_BIT
#include "lines.h"

/* Bits 16 to 47 of the products of 32 bits. */
static inline __m256i product_16(__m256i a, __m256i b) {
    const __m256i even = _mm256_mul_epi32(a, b);
    const __m256i odd = _mm256_mul_epi32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32));
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 16), _mm256_slli_epi64(odd, 16), 0xaa);
}

static inline __m256i moved(__m256i weights, __m256i by) {
    const __m256i most = _mm256_set1_epi32(MOST_WEIGHT), least = _mm256_set1_epi32(-MOST_WEIGHT);
    return _mm256_max_epi32(_mm256_min_epi32(_mm256_add_epi32(weights, by), most), least);
}

static inline int32_t sum_of(__m256i x) {
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    return _mm_cvtsi128_si32(sum);
}

/* A table of 16 bits at eight places, with what follows each of them in the upper halves. */
static inline __m256i pairs_of(const void *table, __m256i place) {
    return _mm256_i32gather_epi32((const int *)table, place, 2);
}

/* Of each model, where the slot for the bits known lies. */
static inline __m256i slots_of(const uint32_t *context, uint32_t node) {
    const __m256i own = _mm256_setr_epi32(0, 1 << SLOT_BITS, 2 << SLOT_BITS, 3 << SLOT_BITS, 4 << SLOT_BITS,
                                          5 << SLOT_BITS, 6 << SLOT_BITS, 7 << SLOT_BITS);
    const __m256i keys = _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)context),
                                          _mm256_set1_epi32((int32_t)(node * 0x9e3779b1u)));
    const __m256i hash = _mm256_mullo_epi32(keys, _mm256_set1_epi32((int32_t)0x85ebca6bu));
    return _mm256_add_epi32(_mm256_srli_epi32(hash, 32 - SLOT_BITS), own);
}

static inline void fetch(const smidgen_bit *all, __m256i where) {
    uint32_t at[MODELS];
    _mm256_storeu_si256((__m256i *)at, where);
    for (int i = 1; i < MODELS; i++) /* the first model knows nothing, and its few slots are at hand */
        __builtin_prefetch(all + at[i]);
}

static inline int lines_bit(lines *m, const uint32_t *context, uint32_t place, uint32_t node, int bit,
                            const int encode) {
    const __m256i own = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    smidgen_bit *all = (smidgen_bit *)m->slots; /* one model's after the other's */
    int32_t *by_count = (int32_t *)m->by_count, *by_place = m->by_place[place], *by_node = m->by_node[node];
    uint32_t slot_at[MODELS], count_at[MODELS], slots[MODELS], p;
    int32_t counts[MODELS], error;
    /* which slot, what it says, and how often it has seen a bit: the exponent of that as a float */
    const __m256i where = slots_of(context, node);
    const __m256i slot = _mm256_i32gather_epi32((const int *)all, where, 4);
    const __m256i times = _mm256_and_si256(slot, _mm256_set1_epi32(255));
    const __m256i length = _mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(times)), 23),
                                            _mm256_set1_epi32(126));
    const __m256i zero = _mm256_setzero_si256();
    const __m256i seen = _mm256_min_epi32(_mm256_max_epi32(length, zero), _mm256_set1_epi32(COUNTS - 1));
    const __m256i row = _mm256_add_epi32(_mm256_slli_epi32(seen, 3), own);
    const __m256i count = _mm256_i32gather_epi32(by_count, row, 4);
    const __m256i places = _mm256_loadu_si256((const __m256i *)by_place);
    const __m256i nodes = _mm256_loadu_si256((const __m256i *)by_node);
    const __m256i stretched = pairs_of(m->stretch, _mm256_srli_epi32(slot, 20));
    const __m256i input = _mm256_srai_epi32(_mm256_slli_epi32(stretched, 16), 16);
    const __m256i weight = _mm256_add_epi32(_mm256_add_epi32(count, places), nodes);
    if (node < 128) { /* the next bit's, whatever this one is, so that it need not wait for memory */
        fetch(all, slots_of(context, 2 * node));
        fetch(all, slots_of(context, 2 * node + 1));
    }
    p = (uint32_t)squash(sum_of(product_16(input, weight)));
    bit = smidgen_range_code(&m->range, bit, p << 4, encode);
    error = (bit ? 4095 : 0) - (int32_t)p;
    /* inputs and the error have 16 bits, and the upper halves of the error are 0 */
    const __m256i product = _mm256_madd_epi16(input, _mm256_set1_epi32(error & 0xffff));
    const __m256i by = _mm256_srai_epi32(_mm256_add_epi32(product, _mm256_set1_epi32(1024)), 11);
    _mm256_storeu_si256((__m256i *)by_place, moved(places, by));
    _mm256_storeu_si256((__m256i *)by_node, moved(nodes, by));
    /* as smidgen_bit_update */
    const __m256i target = _mm256_set1_epi32(bit ? 0xffffff : 0), before = _mm256_srli_epi32(slot, 8);
    const __m256i rates = _mm256_and_si256(pairs_of(smidgen_rate, times), _mm256_set1_epi32(0xffff));
    const __m256i after = _mm256_add_epi32(before, product_16(_mm256_sub_epi32(target, before), rates));
    const __m256i more = _mm256_sub_epi32(times, _mm256_cmpgt_epi32(_mm256_set1_epi32(255), times));
    _mm256_storeu_si256((__m256i *)slots, _mm256_or_si256(_mm256_slli_epi32(after, 8), more));
    _mm256_storeu_si256((__m256i *)counts, moved(count, by));
    _mm256_storeu_si256((__m256i *)slot_at, where);
    _mm256_storeu_si256((__m256i *)count_at, row);
    for (int i = 0; i < MODELS; i++) {
        all[slot_at[i]] = slots[i];
        by_count[count_at[i]] = counts[i];
    }
    return bit;
}

int smidgen_lines_encode_avx2(void *memory, size_t count, uint8_t *bytes) {
    code_lines(memory, count, bytes, 1);
    return 1;
}

int smidgen_lines_decode_avx2(void *memory, size_t count, uint8_t *bytes) {
    code_lines(memory, count, bytes, 0);
    return 1;
}

SMIDGEN_FOR_ALL
#else
int smidgen_lines_encode_avx2(void *memory, size_t count, uint8_t *bytes) {
    (void)memory, (void)count, (void)bytes;
    return 0;
}

int smidgen_lines_decode_avx2(void *memory, size_t count, uint8_t *bytes) {
    return smidgen_lines_encode_avx2(memory, count, bytes);
}
#endif
