/* mixed: from planes to the codec's bytes and back; mixed.h has what goes on between. */
#include "mixed.h"

/* The first byte: the mean of |v| on a scale of eight an octave, plus 128 for a trellis; or PLAIN before the symbols as
 * they are, so that no plane grows by more than that. */
enum { SCALES = 120, PLAIN = 255, SPARE = 16 };

static int32_t mean_of(uint32_t scale) {
    return (int32_t)((8 + scale % 8) << (scale / 8));
}

enum { LARGE = 4096 }; /* symbols from which it pays to ask the processor what it can: virtual machines take 20 us */

/* Both directions, as quickly as the processor can. They are apart, so that a program that only decodes has no more. */
static inline void code(model *m, const smidgen_plane *plane, uint8_t *symbols, int32_t spread, uint32_t states,
                        const int encode) {
    const int large = smidgen_count(plane) >= LARGE && smidgen_processor_can(SMIDGEN_AVX2);
    if (!large || !(encode ? smidgen_mixed_encode_avx2 : smidgen_mixed_decode_avx2)(m, plane, symbols, spread, states))
        code_plane(m, plane, symbols, spread, states, encode);
}

static int64_t encode_as(const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity, model *m,
                         uint32_t scale, uint32_t states) {
    int64_t size;
    out[0] = (uint8_t)(scale + (states ? 128 : 0));
    smidgen_range_start(&m->range, out + 1, capacity - 1, 1);
    /* the encoder only reads the symbols; one body for both directions wants a plain pointer */
    code(m, plane, (uint8_t *)(uintptr_t)symbols, mean_of(scale), states, 1);
    size = smidgen_range_end(&m->range);
    return size < 0 ? (int64_t)capacity : size + 1;
}

static int64_t encode(const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity, void *scratch,
                      uint32_t states) {
    const size_t count = smidgen_count(plane);
    const int zero = zero_of(plane);
    uint64_t sum = 0;
    uint32_t scale = 0;
    int64_t plain, trellis;
    if (capacity < count + SPARE)
        return SMIDGEN_SPACE;
    for (size_t i = 0; i < count; i++)
        sum += (uint64_t)absolute((int)symbols[i] - zero);
    while (scale < SCALES - 1 && (uint64_t)mean_of(scale + 1) * count <= sum * 512)
        scale++;
    trellis = encode_as(plane, symbols, out, count + SPARE, scratch, scale, states);
    plain = encode_as(plane, symbols, out, count + SPARE, scratch, scale, 0);
    if (trellis < plain)
        plain = encode_as(plane, symbols, out, count + SPARE, scratch, scale, states);
    if (plain <= (int64_t)count)
        return plain;
    out[0] = PLAIN;
    for (size_t i = 0; i < count; i++)
        out[i + 1] = symbols[i];
    return (int64_t)count + 1;
}

static int decode(const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t *symbols, void *scratch,
                  uint32_t states) {
    const size_t count = smidgen_count(plane);
    model *m = scratch;
    if (size == 0)
        return SMIDGEN_CORRUPT;
    if (data[0] == PLAIN) {
        if (size - 1 != count)
            return SMIDGEN_CORRUPT;
        for (size_t i = 0; i < count; i++) {
            symbols[i] = data[i + 1];
            if (symbols[i] >= plane->levels)
                return SMIDGEN_CORRUPT;
        }
        return 0;
    }
    if (data[0] % 128 >= SCALES)
        return SMIDGEN_CORRUPT;
    smidgen_range_start(&m->range, (uint8_t *)(uintptr_t)data + 1, size - 1, 0);
    code(m, plane, symbols, mean_of(data[0] % 128u), data[0] / 128 ? states : 0, 0);
    return smidgen_range_check(&m->range);
}

int64_t smidgen_mixed_encode(const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity,
                             void *scratch) {
    return encode(plane, symbols, out, capacity, scratch, 8);
}

int smidgen_mixed_decode(const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t *symbols,
                         void *scratch) {
    return decode(plane, data, size, symbols, scratch, 8);
}

int64_t smidgen_mixed64_encode(const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity,
                               void *scratch) {
    return encode(plane, symbols, out, capacity, scratch, 64);
}

int smidgen_mixed64_decode(const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t *symbols,
                           void *scratch) {
    return decode(plane, data, size, symbols, scratch, 64);
}
