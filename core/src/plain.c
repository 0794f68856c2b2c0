/* raw: a byte a symbol. bitpack: as few bits a symbol as `levels` needs, from the lowest bit of each byte upwards. */
#include "internal.h"

int64_t smidgen_raw_encode(const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity,
                           void *scratch) {
    size_t count = smidgen_count(plane);
    (void)scratch;
    if (capacity < count)
        return SMIDGEN_SPACE;
    for (size_t i = 0; i < count; i++)
        out[i] = symbols[i];
    return (int64_t)count;
}

int smidgen_raw_decode(const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t *symbols, void *scratch) {
    size_t count = smidgen_count(plane);
    (void)scratch;
    if (size != count)
        return SMIDGEN_CORRUPT;
    for (size_t i = 0; i < count; i++) {
        if (data[i] >= plane->levels)
            return SMIDGEN_CORRUPT;
        symbols[i] = data[i];
    }
    return 0;
}

int64_t smidgen_bitpack_encode(const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity,
                               void *scratch) {
    smidgen_bits bits = {.out = out, .size = capacity};
    uint32_t width = smidgen_length(plane->levels - 1);
    (void)scratch;
    for (size_t i = 0, count = smidgen_count(plane); i < count; i++)
        smidgen_put(&bits, symbols[i], width);
    return smidgen_put_end(&bits);
}

int smidgen_bitpack_decode(const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t *symbols,
                           void *scratch) {
    smidgen_bits bits = {.in = data, .size = size};
    uint32_t width = smidgen_length(plane->levels - 1);
    size_t count = smidgen_count(plane);
    (void)scratch;
    if (size != ((uint64_t)count * width + 7) / 8)
        return SMIDGEN_CORRUPT;
    for (size_t i = 0; i < count; i++) {
        uint32_t symbol = smidgen_get(&bits, width);
        if (symbol >= plane->levels)
            return SMIDGEN_CORRUPT;
        symbols[i] = (uint8_t)symbol;
    }
    return smidgen_get_done(&bits) ? 0 : SMIDGEN_CORRUPT;
}
