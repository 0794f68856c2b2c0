/* The way in: checks what all codecs rely on, then hands over to the one that was asked for. */
#include "internal.h"

#define MAX_COUNT ((uint64_t)1 << 31)

static int plane_is_valid(const smidgen_plane *plane) {
    uint64_t rows_columns = (uint64_t)plane->rows * plane->columns;
    if (plane->levels < 1 || plane->levels > 256)
        return 0;
    if (rows_columns == 0 || plane->inner == 0)
        return 1;
    return rows_columns <= MAX_COUNT && plane->inner <= MAX_COUNT && rows_columns * plane->inner <= MAX_COUNT;
}

size_t smidgen_scratch(int codec, const smidgen_plane *plane) {
    switch (codec) {
    case SMIDGEN_HUFFMAN:
    case SMIDGEN_RELATIVE:
        return 256 * 1024;
    case SMIDGEN_RANS:
        return 24 * 1024;
    case SMIDGEN_ADAPTIVE:
        if ((uint64_t)plane->columns * plane->inner > SIZE_MAX / 4)
            return SIZE_MAX; /* more than this machine can address */
        return 64 * 1024 + sizeof(uint16_t) * ((size_t)plane->columns * plane->inner + 4);
    case SMIDGEN_TEXT:
    case SMIDGEN_LINES:
        return (size_t)3 * 1024 * 1024;
    case SMIDGEN_MIXED:
    case SMIDGEN_MIXED64: { /* columns beyond the 65536th share what is known of them */
        uint64_t columns = (uint64_t)plane->columns * plane->inner;
        return 8 * 1024 + 20 * (size_t)(columns < 65536 ? columns : 65536);
    }
    default:
        return 8;
    }
}

size_t smidgen_bound(int codec, const smidgen_plane *plane) {
    size_t count = smidgen_count(plane);
    /* Deep Compression's form may write a gap and a filler for every symbol; the others stay near two bytes. */
    return codec == SMIDGEN_RAW ? count : 4 * count + 2048;
}

int64_t smidgen_encode(int codec, const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity,
                       void *scratch) {
    if (!plane_is_valid(plane))
        return SMIDGEN_USAGE;
    for (size_t i = 0, n = smidgen_count(plane); i < n; i++)
        if (symbols[i] >= plane->levels)
            return SMIDGEN_USAGE;
    /* A plane of one level holds no information: no codec writes a byte for it. */
    if (plane->levels == 1 || smidgen_count(plane) == 0)
        return 0;
    switch (codec) {
    case SMIDGEN_RAW:
        return smidgen_raw_encode(plane, symbols, out, capacity, scratch);
    case SMIDGEN_BITPACK:
        return smidgen_bitpack_encode(plane, symbols, out, capacity, scratch);
    case SMIDGEN_HUFFMAN:
        return smidgen_huffman_encode(plane, symbols, out, capacity, scratch);
    case SMIDGEN_RELATIVE:
        return smidgen_relative_encode(plane, symbols, out, capacity, scratch);
    case SMIDGEN_RANS:
        return smidgen_rans_encode(plane, symbols, out, capacity, scratch);
    case SMIDGEN_ADAPTIVE:
        return smidgen_adaptive_encode(plane, symbols, out, capacity, scratch);
    case SMIDGEN_TEXT:
        return smidgen_text_encode(plane, symbols, out, capacity, scratch);
    case SMIDGEN_MIXED:
        return smidgen_mixed_encode(plane, symbols, out, capacity, scratch);
    case SMIDGEN_MIXED64:
        return smidgen_mixed64_encode(plane, symbols, out, capacity, scratch);
    case SMIDGEN_LINES:
        return smidgen_lines_encode(plane, symbols, out, capacity, scratch);
    default:
        return SMIDGEN_USAGE;
    }
}

int smidgen_decode(int codec, const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t *symbols,
                   void *scratch) {
    if (!plane_is_valid(plane))
        return SMIDGEN_USAGE;
    if (plane->levels == 1 || smidgen_count(plane) == 0) {
        for (size_t i = 0, n = smidgen_count(plane); i < n; i++)
            symbols[i] = 0;
        return size == 0 ? 0 : SMIDGEN_CORRUPT;
    }
    switch (codec) {
    case SMIDGEN_RAW:
        return smidgen_raw_decode(plane, data, size, symbols, scratch);
    case SMIDGEN_BITPACK:
        return smidgen_bitpack_decode(plane, data, size, symbols, scratch);
    case SMIDGEN_HUFFMAN:
        return smidgen_huffman_decode(plane, data, size, symbols, scratch);
    case SMIDGEN_RELATIVE:
        return smidgen_relative_decode(plane, data, size, symbols, scratch);
    case SMIDGEN_RANS:
        return smidgen_rans_decode(plane, data, size, symbols, scratch);
    case SMIDGEN_ADAPTIVE:
        return smidgen_adaptive_decode(plane, data, size, symbols, scratch);
    case SMIDGEN_TEXT:
        return smidgen_text_decode(plane, data, size, symbols, scratch);
    case SMIDGEN_MIXED:
        return smidgen_mixed_decode(plane, data, size, symbols, scratch);
    case SMIDGEN_MIXED64:
        return smidgen_mixed64_decode(plane, data, size, symbols, scratch);
    case SMIDGEN_LINES:
        return smidgen_lines_decode(plane, data, size, symbols, scratch);
    default:
        return SMIDGEN_USAGE;
    }
}
