/* Binary range coder with adaptive probabilities: 64-bit interval, renormalised 32 bits at a time.
 *
 * One body serves both directions: `encode` is a constant at every call, so the compiler makes two lean loops of it
 * and the model cannot differ between them.
 *
 * Encoder: the interval is [low, low + range). A one takes its lower part. A carry out of `low` is added to the bytes
 * already written. The end is the shortest string that lies in the interval, without trailing zeros.
 * Decoder: `low` holds (code - low); bytes past the end read as zero.
 *
 * Invariant after every step: range >= 2^32. */
#ifndef SMIDGEN_RANGE_H
#define SMIDGEN_RANGE_H

#include "internal.h"

typedef struct {
    uint64_t low, range;
    uint8_t *data; /* written to by the encoder only */
    size_t position, size;
    int failed;
} smidgen_range;

/* A probability: 24 bits that the next bit is 1, then 8 bits that count how often it was updated. */
typedef uint32_t smidgen_bit;
#define SMIDGEN_EVEN ((smidgen_bit)0x80000000u)

static inline void smidgen_range_start(smidgen_range *r, uint8_t *data, size_t size, const int encode) {
    r->low = 0;
    r->range = UINT64_MAX;
    r->data = data;
    r->position = 0;
    r->size = size;
    r->failed = 0;
    if (!encode)
        for (int i = 0; i < 8; i++) {
            r->low = r->low << 8 | (r->position < size ? data[r->position] : 0);
            r->position++;
        }
}

static inline void smidgen_range_carry(smidgen_range *r) {
    size_t i = r->position;
    while (i > 0 && ++r->data[--i] == 0) {
    }
}

static inline void smidgen_range_shift(smidgen_range *r, const int encode) {
    if (encode) {
        if (r->size - r->position < 4)
            r->failed = 1;
        else
            for (int i = 0; i < 4; i++)
                r->data[r->position++] = (uint8_t)(r->low >> (56 - 8 * i));
        r->low <<= 32;
    } else {
        uint32_t word = 0;
        if (r->size >= 4 && r->position <= r->size - 4) {
            const uint8_t *p = r->data + r->position;
            word = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        } else {
            for (size_t i = 0; i < 4; i++)
                word = word << 8 | (r->position + i < r->size ? r->data[r->position + i] : 0);
        }
        r->position += 4;
        r->low = r->low << 32 | word;
    }
    r->range <<= 32;
}

/* Codes one bit that is 1 with probability p / 65536, 0 < p < 65536. */
static inline int smidgen_range_code(smidgen_range *r, int bit, uint32_t p, const int encode) {
    uint64_t bound = (r->range >> 16) * p;
    if (!encode)
        bit = r->low < bound;
    if (bit) {
        r->range = bound;
    } else {
        if (encode) {
            r->low += bound;
            if (r->low < bound)
                smidgen_range_carry(r);
        } else {
            r->low -= bound;
        }
        r->range -= bound;
    }
    if (r->range >> 32 == 0)
        smidgen_range_shift(r, encode);
    return bit;
}

/* The probability moves towards the bit by 1 / (count + 1.5), and by 1 / 256 in the long run. */
static inline smidgen_bit smidgen_bit_update(smidgen_bit state, int bit) {
    uint32_t count = state & 255;
    int32_t p = (int32_t)(state >> 8);
    int32_t target = bit ? 0xffffff : 0;
    p += (int32_t)(((int64_t)(target - p) * smidgen_rate[count]) >> 16);
    return (uint32_t)p << 8 | (count + (count < 255));
}

static inline int smidgen_bit_code(smidgen_range *r, smidgen_bit *state, int bit, const int encode) {
    bit = smidgen_range_code(r, bit, *state >> 16 | 1, encode);
    *state = smidgen_bit_update(*state, bit);
    return bit;
}

/* Ends an encoded string. Returns its size, or SMIDGEN_SPACE. */
static inline int64_t smidgen_range_end(smidgen_range *r) {
    uint64_t value = r->low;
    for (int zeros = 63; zeros > 0; zeros--) {
        uint64_t mask = ((uint64_t)1 << zeros) - 1;
        uint64_t candidate = (r->low + mask) & ~mask;
        if (candidate - r->low < r->range) {
            value = candidate;
            break;
        }
    }
    if (r->failed || r->size - r->position < 8)
        return SMIDGEN_SPACE;
    if (value < r->low)
        smidgen_range_carry(r);
    for (int i = 0; i < 8; i++)
        r->data[r->position++] = (uint8_t)(value >> (56 - 8 * i));
    while (r->position > 0 && r->data[r->position - 1] == 0)
        r->position--;
    return (int64_t)r->position;
}

/* A string that has a trailing zero, or more bytes than were read, is not what an encoder wrote. */
static inline int smidgen_range_check(const smidgen_range *r) {
    if (r->size > r->position || (r->size > 0 && r->data[r->size - 1] == 0))
        return SMIDGEN_CORRUPT;
    return 0;
}

#endif
