/* Shared by the sources of the core, not by its users. */
#ifndef SMIDGEN_INTERNAL_H
#define SMIDGEN_INTERNAL_H

#include "../smidgen.h"

/* Of the larger trellis, that of rule SMIDGEN_TRELLIS_64: Ungerboeck's code with the polynomials 103 and 24 (octal). */
enum { SMIDGEN_STATES = 64, SMIDGEN_ODD_GRID = 0103 >> 1, SMIDGEN_ODD_SYMBOL = 024 >> 1 };

/* SMIDGEN_AVX512_VNNI, and bits of numbers are counted and bytes looked up in 512 bits: what some kernels of it are for. */
enum { SMIDGEN_AVX512_COUNTS = 4 };

/* Whether the processor, and the operating system, have what one of SMIDGEN_PORTABLE and the ways after it needs. */
int smidgen_processor_can(int way);

/* Around functions for whose instructions the processor is asked first. */
#if defined(__clang__)
#define SMIDGEN_PRAGMA(words) _Pragma(#words)
#define SMIDGEN_FOR(target_names)                                                                                      \
    SMIDGEN_PRAGMA(clang attribute push(__attribute__((target(target_names))), apply_to = function))
#define SMIDGEN_FOR_ALL _Pragma("clang attribute pop")
#elif defined(__GNUC__)
#define SMIDGEN_PRAGMA(words) _Pragma(#words)
#define SMIDGEN_FOR(target_names) _Pragma("GCC push_options") SMIDGEN_PRAGMA(GCC target(target_names))
#define SMIDGEN_FOR_ALL _Pragma("GCC pop_options")
#endif

/* What mixed.h and lines.h do, by AVX2. They return 0 if they were not built. */
int smidgen_mixed_encode_avx2(void *model_and_columns, const smidgen_plane *plane, uint8_t *symbols, int32_t spread,
                              uint32_t states);
int smidgen_mixed_decode_avx2(void *model_and_columns, const smidgen_plane *plane, uint8_t *symbols, int32_t spread,
                              uint32_t states);
int smidgen_lines_encode_avx2(void *memory, size_t count, uint8_t *bytes);
int smidgen_lines_decode_avx2(void *memory, size_t count, uint8_t *bytes);

extern const uint8_t smidgen_next_of_8[8][2];
extern const uint16_t smidgen_rate[257];
extern const uint16_t smidgen_logistic[33];
extern const uint16_t smidgen_tail[129];
extern const uint16_t smidgen_step[129];
extern const uint16_t smidgen_sigmoid[33];

/* Symbols of a plane; smidgen_encode and smidgen_decode have checked that the product fits. */
static inline size_t smidgen_count(const smidgen_plane *plane) {
    return (size_t)plane->rows * plane->columns * plane->inner;
}

/* The state of a trellis of 8 or 64 states after a symbol of this parity. */
static inline uint32_t smidgen_next_state(uint32_t states, uint32_t state, uint32_t parity) {
    if (states == 8)
        return smidgen_next_of_8[state][parity];
    return state >> 1 ^ (state & 1 ? SMIDGEN_ODD_GRID : 0) ^ (parity ? SMIDGEN_ODD_SYMBOL : 0);
}

/* How many bits a number needs; 0 for 0. */
static inline uint32_t smidgen_length(uint32_t x) {
#if defined(__GNUC__)
    return x ? 32 - (uint32_t)__builtin_clz(x) : 0;
#else
    uint32_t n = 0;
    for (; x; x >>= 1)
        n++;
    return n;
#endif
}

/* Bits from the lowest of each byte upwards. A writer whose buffer is full counts on and fails at the end. */
typedef struct {
    uint8_t *out;
    const uint8_t *in;
    size_t position, size;
    uint64_t bits;
    uint32_t count;
    int failed;
} smidgen_bits;

static inline void smidgen_put(smidgen_bits *b, uint32_t value, uint32_t count) {
    b->bits |= (uint64_t)value << b->count;
    b->count += count;
    while (b->count >= 8) {
        if (b->position < b->size)
            b->out[b->position++] = (uint8_t)b->bits;
        else
            b->failed = 1;
        b->bits >>= 8;
        b->count -= 8;
    }
}

/* Fills the last byte with zeros. Returns the size, or SMIDGEN_SPACE. */
static inline int64_t smidgen_put_end(smidgen_bits *b) {
    if (b->count)
        smidgen_put(b, 0, 8 - b->count);
    return b->failed ? SMIDGEN_SPACE : (int64_t)b->position;
}

/* Makes at least `count` <= 32 bits present in `bits`, with zeros past the end. */
static inline void smidgen_fill(smidgen_bits *b, uint32_t count) {
    while (b->count < count) {
        uint64_t byte = 0;
        if (b->position < b->size)
            byte = b->in[b->position];
        else
            b->failed = 1;
        b->position++;
        b->bits |= byte << b->count;
        b->count += 8;
    }
}

static inline void smidgen_drop(smidgen_bits *b, uint32_t count) {
    b->bits >>= count;
    b->count -= count;
}

static inline uint32_t smidgen_get(smidgen_bits *b, uint32_t count) {
    uint32_t value;
    smidgen_fill(b, count);
    value = (uint32_t)(b->bits & (((uint64_t)1 << count) - 1));
    smidgen_drop(b, count);
    return value;
}

/* True where all bytes were used, none was invented, and the padding is zero. */
static inline int smidgen_get_done(const smidgen_bits *b) {
    size_t used = b->position - b->count / 8;
    uint64_t padding = b->bits & (((uint64_t)1 << (b->count % 8)) - 1);
    return used == b->size && padding == 0;
}

/* The codecs, one file each; smidgen_encode and smidgen_decode have checked the plane and the levels. */
#define SMIDGEN_CODEC(name)                                                                                            \
    int64_t smidgen_##name##_encode(const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity, \
                                    void *scratch);                                                                    \
    int smidgen_##name##_decode(const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t *symbols,        \
                                void *scratch)

SMIDGEN_CODEC(raw);
SMIDGEN_CODEC(bitpack);
SMIDGEN_CODEC(huffman);
SMIDGEN_CODEC(relative);
SMIDGEN_CODEC(rans);
SMIDGEN_CODEC(adaptive);
SMIDGEN_CODEC(text);
SMIDGEN_CODEC(mixed);
SMIDGEN_CODEC(mixed64);
SMIDGEN_CODEC(lines);

#endif
