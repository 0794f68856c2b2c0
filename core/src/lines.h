/* lines: as text.c, for words in lines that are alike, as lists of labels are. Of its eight models five know the last 0,
 * 1, 2, 3 and 6 bytes, two know words, and one knows the line above, which tells much of numbers that rise. What a model
 * says weighs by how often it has seen such a bit, by the place in the line, and by the bits known.
 *
 * A file for each way to compute includes this under its own target; all of them give the same bits. */
#ifndef SMIDGEN_LINES_H
#define SMIDGEN_LINES_H

#include "range.h"

enum { SLOT_BITS = 16, SLOTS = 1 << SLOT_BITS, SHRINK = 4096 };

/* 4096 / (1 + exp(-x / 256)), between the points of a table 128 apart. */
static inline int32_t squash(int32_t x) {
    if (x > 2047)
        x = 2047;
    if (x < -2047)
        x = -2047;
    uint32_t shifted = (uint32_t)(x + 2048);
    int32_t low = smidgen_logistic[shifted >> 7], high = smidgen_logistic[(shifted >> 7) + 1];
    return low + (((high - low) * (int32_t)(shifted & 127) + 64) >> 7);
}

static inline void invert_squash(int16_t *stretch) {
    int32_t p = 0;
    for (int32_t x = -2047; x <= 2047; x++)
        while (p <= squash(x))
            stretch[p++] = (int16_t)x;
    while (p < SHRINK)
        stretch[p++] = 2047;
}

enum { MODELS = 8, COUNTS = 8, PLACES = 32, MOST_WEIGHT = 1 << 20 };

typedef struct {
    smidgen_bit slots[MODELS][SLOTS];
    int32_t by_count[COUNTS][MODELS], by_place[PLACES][MODELS], by_node[256][MODELS]; /* 16 fractional bits */
    int16_t stretch[SHRINK];
    smidgen_range range;
} lines;

/* What was read so far. A word is a hash of its letters, 0 between words. */
typedef struct {
    uint64_t history; /* the last eight bytes, the newest lowest */
    size_t line, above, length; /* where this line and the one above begin, and how long that one is */
    uint32_t word, word_before, alike; /* alike: this line begins as the one above */
} reader;

static inline void lines_start(lines *m) {
    for (uint32_t i = 0; i < MODELS; i++) {
        for (uint32_t j = 0; j < SLOTS; j++)
            m->slots[i][j] = SMIDGEN_EVEN;
        for (int32_t j = 0; j < COUNTS; j++)
            m->by_count[j][i] = 3200 * (j + 1);
        for (uint32_t j = 0; j < PLACES; j++)
            m->by_place[j][i] = 0;
        for (uint32_t j = 0; j < 256; j++)
            m->by_node[j][i] = 0;
    }
    invert_squash(m->stretch);
}

/* One bit. A way to compute with vectors defines OWN_BIT and its own. */
#ifndef OWN_BIT
static inline void move(int32_t *weight, int32_t by) {
    *weight += by;
    if (*weight > MOST_WEIGHT)
        *weight = MOST_WEIGHT;
    if (*weight < -MOST_WEIGHT)
        *weight = -MOST_WEIGHT;
}

static inline int lines_bit(lines *m, const uint32_t *context, uint32_t place, uint32_t node, int bit,
                            const int encode) {
    smidgen_bit *slot[MODELS];
    int32_t input[MODELS], *by_count[MODELS], *by_place = m->by_place[place], *by_node = m->by_node[node];
    int32_t sum = 0, p, error;
    for (uint32_t i = 0; i < MODELS; i++) {
        uint32_t hash = (context[i] + node * 0x9e3779b1u) * 0x85ebca6bu, seen;
        slot[i] = &m->slots[i][hash >> (32 - SLOT_BITS)];
        seen = smidgen_length(*slot[i] & 255);
        by_count[i] = &m->by_count[seen < COUNTS ? seen : COUNTS - 1][i];
        input[i] = m->stretch[*slot[i] >> 20];
        sum += (int32_t)(((int64_t)input[i] * (*by_count[i] + by_place[i] + by_node[i])) >> 16);
    }
    p = squash(sum);
    bit = smidgen_range_code(&m->range, bit, (uint32_t)p << 4, encode);
    error = (bit ? 4095 : 0) - p;
    for (uint32_t i = 0; i < MODELS; i++) {
        const int32_t by = (input[i] * error + 1024) >> 11;
        move(by_count[i], by);
        move(&by_place[i], by);
        move(&by_node[i], by);
        *slot[i] = smidgen_bit_update(*slot[i], bit);
    }
    return bit;
}
#else
static inline int lines_bit(lines *m, const uint32_t *context, uint32_t place, uint32_t node, int bit,
                            const int encode);
#endif

static inline uint32_t hashed(uint64_t x) {
    return (uint32_t)((x * 0x9e3779b97f4a7c15u) >> 32);
}

static inline void lines_read(reader *r, size_t i, uint32_t byte, uint32_t above) {
    const uint32_t lower = byte | 32;
    r->history = r->history << 8 | byte;
    if ((lower >= 'a' && lower <= 'z') || byte >= 128) {
        r->word = (r->word + lower + 1) * 0x2f0b4c47u;
    } else if (r->word) {
        r->word_before = r->word;
        r->word = 0;
    }
    r->alike &= byte == above;
    if (byte == '\n') {
        r->above = r->line;
        r->length = i + 1 - r->line;
        r->line = i + 1;
        r->word = r->word_before = 0;
        r->alike = 1;
    }
}

static inline void code_lines(lines *m, size_t count, uint8_t *bytes, const int encode) {
    reader r = {0, 0, 0, 0, 0, 0, 0};
    lines_start(m);
    for (size_t i = 0; i < count; i++) {
        const size_t column = i - r.line;
        const uint32_t above = column < r.length ? bytes[r.above + column] : 0;
        const uint32_t place = 2 * (uint32_t)(column < 15 ? column : 15) + r.alike;
        const uint32_t context[MODELS] = {0,
                                          hashed(r.history & 0xff),
                                          hashed(r.history & 0xffff),
                                          hashed(r.history & 0xffffff),
                                          hashed(r.history & 0xffffffffffff),
                                          hashed(r.word),
                                          hashed((uint64_t)r.word << 32 | r.word_before),
                                          hashed((uint64_t)above << 8 | place)};
        uint32_t node = 1, byte = encode ? bytes[i] : 0;
        for (int j = 7; j >= 0; j--)
            node = node << 1 | (uint32_t)lines_bit(m, context, place, node, byte >> j & 1, encode);
        byte = node & 255;
        if (!encode)
            bytes[i] = (uint8_t)byte;
        lines_read(&r, i, byte, above);
    }
}

#endif
