/* mixed with vectors of AVX2: eight features of a regression at once; and with all points of the curves in memory. */
#include "internal.h"

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>

SMIDGEN_FOR("avx2")

#define OWN_REGRESSION
typedef struct {
    __m256i eight;
    int32_t ninth;
} features;

#define OWN_CURVES
typedef struct {
    uint16_t tail[2048], step[2048], sigmoid[4096];
} curves;

static inline void draw(curves *c);
static inline int32_t tail_at(const curves *c, int32_t x);
static inline int32_t step_at(const curves *c, int32_t x);
static inline int32_t sigmoid_at(const curves *c, uint32_t x);
static inline features gather(const int32_t last[4], int32_t a, int32_t b, int32_t c, int32_t d, int32_t e);
static inline int64_t predict(const int32_t *weights, const features *x);
static inline void correct(int32_t *weights, const features *x, int64_t rate);

#include "mixed.h"

static inline void draw(curves *c) {
    for (int32_t x = 0; x < 2048; x++) {
        c->tail[x] = (uint16_t)between(smidgen_tail, x);
        c->step[x] = (uint16_t)between(smidgen_step, x);
    }
    for (uint32_t x = 0; x < 4096; x++)
        c->sigmoid[x] = (uint16_t)between_far(smidgen_sigmoid, x);
}

static inline int32_t tail_at(const curves *c, int32_t x) {
    return c->tail[x < 2047 ? x : 2047];
}

static inline int32_t step_at(const curves *c, int32_t x) {
    return c->step[x < 2047 ? x : 2047];
}

static inline int32_t sigmoid_at(const curves *c, uint32_t x) {
    return c->sigmoid[x];
}

static inline features gather(const int32_t last[4], int32_t a, int32_t b, int32_t c, int32_t d, int32_t e) {
    /* from registers: what was just written in parts would have to reach memory before it can be read as a whole */
    return (features){_mm256_setr_epi32(last[0], last[1], last[2], last[3], a, b, c, d), e};
}

static inline int64_t predict(const int32_t *weights, const features *x) {
    const __m256i w = _mm256_loadu_si256((const __m256i *)weights);
    const __m256i even = _mm256_mul_epi32(x->eight, w);
    const __m256i odd = _mm256_mul_epi32(_mm256_srli_epi64(x->eight, 32), _mm256_srli_epi64(w, 32));
    const __m256i four = _mm256_add_epi64(even, odd);
    const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
    return _mm_cvtsi128_si64(two) + _mm_extract_epi64(two, 1) + (int64_t)x->ninth * weights[8];
}

/* Only the 32 bits of a product that begin at the 24th are wanted, and a shift without sign leaves those right. */
static inline void correct(int32_t *weights, const features *x, int64_t rate) {
    const __m256i w = _mm256_loadu_si256((const __m256i *)weights), most = _mm256_set1_epi32(MOST_WEIGHT);
    const __m256i rates = _mm256_set1_epi64x(rate), half = _mm256_set1_epi64x(1 << 23);
    const __m256i even = _mm256_add_epi64(_mm256_mul_epi32(x->eight, rates), half);
    const __m256i odd = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(x->eight, 32), rates), half);
    const __m256i sum = _mm256_add_epi32(
        w, _mm256_blend_epi32(_mm256_srli_epi64(even, 24), _mm256_slli_epi64(odd, 8), 0xaa));
    const __m256i kept = _mm256_max_epi32(_mm256_min_epi32(sum, most), _mm256_sub_epi32(_mm256_setzero_si256(), most));
    _mm256_storeu_si256((__m256i *)weights, kept);
    weights[8] = clamp(weights[8] + ((x->ninth * rate + (1 << 23)) >> 24), MOST_WEIGHT);
}

int smidgen_mixed_encode_avx2(void *model_and_columns, const smidgen_plane *plane, uint8_t *symbols, int32_t spread,
                              uint32_t states) {
    code_plane(model_and_columns, plane, symbols, spread, states, 1);
    return 1;
}

int smidgen_mixed_decode_avx2(void *model_and_columns, const smidgen_plane *plane, uint8_t *symbols, int32_t spread,
                              uint32_t states) {
    code_plane(model_and_columns, plane, symbols, spread, states, 0);
    return 1;
}

SMIDGEN_FOR_ALL
#else
int smidgen_mixed_encode_avx2(void *model_and_columns, const smidgen_plane *plane, uint8_t *symbols, int32_t spread,
                              uint32_t states) {
    (void)model_and_columns, (void)plane, (void)symbols, (void)spread, (void)states;
    return 0;
}

int smidgen_mixed_decode_avx2(void *model_and_columns, const smidgen_plane *plane, uint8_t *symbols, int32_t spread,
                              uint32_t states) {
    return smidgen_mixed_encode_avx2(model_and_columns, plane, symbols, spread, states);
}
#endif
