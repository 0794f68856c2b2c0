/* rans: range asymmetric numeral systems (Duda, arXiv 1311.2540) with one static table, interleaved for speed.
 *
 *   frequencies   bits, each symbol's f in 0..4095, all of them summing to 4096
 *   states        one 32-bit number a lane, little endian
 *   words         16 bits each, little endian, in the order in which the decoder reads them
 *
 * Symbol i belongs to lane i mod lanes. Decoding a symbol s with frequency f and first slot b from a state x:
 *   slot = x mod 4096;  x = f * (x / 4096) + slot - b;  if x < 65536: x = x * 65536 + next word
 * The states start, for the encoder, at 65536, and end there for the decoder: a check for free. */
#include "internal.h"

enum { PRECISION = 12, TOTAL = 1 << PRECISION, LANES = 8, FEW = 4096 };
#define LOWER 65536u

typedef struct {
    uint32_t count[256], frequency[256], start[256];
    uint32_t table[TOTAL]; /* symbol, frequency << 8, slot - start << 20 */
} workspace;

/* Small planes use one lane: seven more states would cost them more than they gain. */
static uint32_t lanes_of(size_t count) {
    return count < FEW ? 1 : LANES;
}

/* Rounds the counts to frequencies, then moves single slots where that costs least: a slot more or less of f is
 * worth about count / f bits, compared crosswise to stay with integers. */
static void normalise(workspace *w, size_t total, uint32_t levels) {
    uint32_t sum = 0;
    for (uint32_t s = 0; s < levels; s++) {
        uint64_t scaled = ((uint64_t)w->count[s] * TOTAL + total / 2) / total;
        uint32_t f = scaled < 1 ? 1 : scaled > TOTAL - 1 ? TOTAL - 1 : (uint32_t)scaled;
        w->frequency[s] = w->count[s] ? f : 0;
        sum += w->frequency[s];
    }
    while (sum != TOTAL) {
        uint32_t best = levels;
        for (uint32_t s = 0; s < levels; s++) {
            uint64_t f = w->frequency[s], g = best < levels ? w->frequency[best] : 0;
            if (sum > TOTAL ? f < 2 : f == 0 || f == TOTAL - 1)
                continue;
            if (best == levels || (sum > TOTAL ? w->count[s] * (2 * g - 1) < w->count[best] * (2 * f - 1)
                                               : w->count[s] * (2 * g + 1) > w->count[best] * (2 * f + 1)))
                best = s;
        }
        if (best == levels) /* one symbol alone: it cannot have all 4096 slots */
            best = w->frequency[0] ? 1 : 0;
        w->frequency[best] = sum > TOTAL ? w->frequency[best] - 1 : w->frequency[best] + 1;
        sum = sum > TOTAL ? sum - 1 : sum + 1;
    }
}

/* A frequency is told by its number of bits, as a difference to the one before (zigzag, then Elias gamma), and by
 * its bits below the leading one. */
static void put_frequencies(smidgen_bits *bits, const uint32_t *frequency, uint32_t levels) {
    uint32_t before = 0;
    for (uint32_t s = 0; s < levels; s++) {
        uint32_t length = smidgen_length(frequency[s]);
        uint32_t zigzag = length >= before ? 2 * (length - before) : 2 * (before - length) - 1;
        uint32_t prefix = smidgen_length(zigzag + 1) - 1;
        smidgen_put(bits, 0, prefix);
        smidgen_put(bits, 1, 1);
        smidgen_put(bits, (zigzag + 1) & ((1u << prefix) - 1), prefix);
        if (length > 1)
            smidgen_put(bits, frequency[s] & ((1u << (length - 1)) - 1), length - 1);
        before = length;
    }
}

static int get_frequencies(smidgen_bits *bits, uint32_t *frequency, uint32_t levels) {
    uint32_t before = 0, sum = 0;
    for (uint32_t s = 0; s < levels; s++) {
        uint32_t prefix = 0, zigzag, length;
        while (prefix < 5 && !smidgen_get(bits, 1))
            prefix++;
        if (prefix == 5)
            return SMIDGEN_CORRUPT;
        zigzag = (1u << prefix) - 1 + smidgen_get(bits, prefix);
        length = zigzag & 1 ? before - (zigzag + 1) / 2 : before + zigzag / 2;
        if (length > PRECISION) /* also where it fell below zero */
            return SMIDGEN_CORRUPT;
        frequency[s] = length > 1 ? 1u << (length - 1) | smidgen_get(bits, length - 1) : length;
        sum += frequency[s];
        before = length;
    }
    return sum == TOTAL && !bits->failed ? 0 : SMIDGEN_CORRUPT;
}

static void put_state(uint8_t *out, uint32_t x) {
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(x >> (8 * i));
}

int64_t smidgen_rans_encode(const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity,
                            void *scratch) {
    workspace *w = scratch;
    smidgen_bits bits = {.out = out, .size = capacity};
    size_t count = smidgen_count(plane), words = capacity;
    uint32_t lanes = lanes_of(count), state[LANES], start = 0;
    int64_t header;
    for (uint32_t s = 0; s < 256; s++)
        w->count[s] = 0;
    for (size_t i = 0; i < count; i++)
        w->count[symbols[i]]++;
    normalise(w, count, plane->levels);
    put_frequencies(&bits, w->frequency, plane->levels);
    header = smidgen_put_end(&bits);
    if (header < 0 || capacity - (size_t)header < 4 * (size_t)lanes)
        return SMIDGEN_SPACE;
    header += 4 * lanes;
    for (uint32_t s = 0; s < plane->levels; s++) {
        w->start[s] = start;
        start += w->frequency[s];
    }
    for (uint32_t lane = 0; lane < lanes; lane++)
        state[lane] = LOWER;
    /* backwards, filling the buffer from its end, since the decoder unwinds what was done last */
    for (size_t i = count; i-- > 0;) {
        uint32_t f = w->frequency[symbols[i]], *x = &state[i % lanes];
        if (*x >= (uint64_t)f << (32 - PRECISION)) {
            if (words - (size_t)header < 2)
                return SMIDGEN_SPACE;
            words -= 2;
            out[words] = (uint8_t)*x;
            out[words + 1] = (uint8_t)(*x >> 8);
            *x >>= 16;
        }
        *x = (*x / f << PRECISION) + *x % f + w->start[symbols[i]];
    }
    for (uint32_t lane = 0; lane < lanes; lane++)
        put_state(out + header - 4 * (lanes - lane), state[lane]);
    for (size_t i = words; i < capacity; i++)
        out[(size_t)header + i - words] = out[i];
    return header + (int64_t)(capacity - words);
}

static void build_table(workspace *w, uint32_t levels) {
    uint32_t slot = 0;
    for (uint32_t s = 0; s < levels; s++)
        for (uint32_t i = 0; i < w->frequency[s]; i++)
            w->table[slot++] = s | w->frequency[s] << 8 | i << 20;
}

/* One step of one lane without a branch; the caller has made sure that a word can be read. */
#define STEP(lane)                                                                                                     \
    do {                                                                                                               \
        uint32_t entry = table[x##lane & (TOTAL - 1)], next, few;                                                      \
        symbols[i + lane] = (uint8_t)entry;                                                                            \
        x##lane = (entry >> 8 & 0xfff) * (x##lane >> PRECISION) + (entry >> 20);                                       \
        next = x##lane << 16 | (uint32_t)p[0] | (uint32_t)p[1] << 8;                                                   \
        few = x##lane < LOWER;                                                                                         \
        x##lane = few ? next : x##lane;                                                                                \
        p += 2 * few;                                                                                                  \
    } while (0)

int smidgen_rans_decode(const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t *symbols,
                        void *scratch) {
    workspace *w = scratch;
    smidgen_bits bits = {.in = data, .size = size};
    const size_t count = smidgen_count(plane);
    const uint32_t lanes = lanes_of(count), *table = w->table;
    const uint8_t *p, *end = data + size;
    uint32_t state[LANES] = {0};
    size_t i = 0;
    if (get_frequencies(&bits, w->frequency, plane->levels))
        return SMIDGEN_CORRUPT;
    build_table(w, plane->levels);
    p = data + (bits.position - bits.count / 8);
    if ((bits.bits & ((1u << (bits.count % 8)) - 1)) || (size_t)(end - p) < 4 * (size_t)lanes)
        return SMIDGEN_CORRUPT;
    for (uint32_t lane = 0; lane < lanes; lane++, p += 4) {
        state[lane] = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        if (state[lane] < LOWER)
            return SMIDGEN_CORRUPT;
    }
    if (lanes == LANES) {
        uint32_t x0 = state[0], x1 = state[1], x2 = state[2], x3 = state[3];
        uint32_t x4 = state[4], x5 = state[5], x6 = state[6], x7 = state[7];
        for (; i + LANES <= count && end - p >= 2 * LANES; i += LANES) {
            STEP(0);
            STEP(1);
            STEP(2);
            STEP(3);
            STEP(4);
            STEP(5);
            STEP(6);
            STEP(7);
        }
        state[0] = x0, state[1] = x1, state[2] = x2, state[3] = x3;
        state[4] = x4, state[5] = x5, state[6] = x6, state[7] = x7;
    }
    for (; i < count; i++) {
        uint32_t *x = &state[i % lanes], entry = table[*x & (TOTAL - 1)];
        symbols[i] = (uint8_t)entry;
        *x = (entry >> 8 & 0xfff) * (*x >> PRECISION) + (entry >> 20);
        if (*x < LOWER) {
            if (end - p < 2)
                return SMIDGEN_CORRUPT;
            *x = *x << 16 | (uint32_t)p[0] | (uint32_t)p[1] << 8;
            p += 2;
        }
    }
    for (uint32_t lane = 0; lane < lanes; lane++)
        if (state[lane] != LOWER)
            return SMIDGEN_CORRUPT;
    return p == end ? 0 : SMIDGEN_CORRUPT;
}
