/* Whatever an encoder writes, its decoder gives back; no plane exceeds its bound; no buffer is overrun, however small.
 * A target for libFuzzer, and with replay.c a program of its own.
 *
 * The input: rows, columns, inner, levels, zero, options, then the symbols, repeated with a drift where they do not
 * suffice. Buffers have exact sizes, so that AddressSanitizer sees a step too far. */
#include <stdlib.h>
#include <string.h>

#include "smidgen.h"

enum { HEADER = 6, TALL = 1, NO_ZERO = 2, WITH_SLOW = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void *allocate(size_t size, int filler) {
    void *memory = malloc(size);
    if (!memory)
        abort();
    return memset(memory, filler, size);
}

static int64_t encode(int codec, const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity,
                      int filler) {
    void *scratch = allocate(smidgen_scratch(codec, plane), filler);
    int64_t size = smidgen_encode(codec, plane, symbols, out, capacity, scratch);
    free(scratch);
    return size;
}

static void check_decoder(int codec, const smidgen_plane *plane, const uint8_t *symbols, size_t count,
                          const uint8_t *data, size_t size) {
    uint8_t *exact = allocate(size, 0), *back = allocate(count, 0x55);
    void *scratch = allocate(smidgen_scratch(codec, plane), 0x55);
    if (size)
        memcpy(exact, data, size);
    if (smidgen_decode(codec, plane, exact, size, back, scratch) != 0 || memcmp(symbols, back, count) != 0)
        abort();
    free(exact);
    free(back);
    free(scratch);
}

/* In a buffer of this capacity the encoder writes the same, or says that it does not fit. */
static void check_capacity(int codec, const smidgen_plane *plane, const uint8_t *symbols, const uint8_t *data,
                           size_t size, size_t capacity) {
    uint8_t *out = allocate(capacity, 0x55);
    int64_t result = encode(codec, plane, symbols, out, capacity, 0xff);
    if (result != SMIDGEN_SPACE && (result != (int64_t)size || memcmp(out, data, size) != 0))
        abort();
    free(out);
}

static void check(int codec, const smidgen_plane *plane, const uint8_t *symbols, size_t count, size_t some) {
    size_t bound = smidgen_bound(codec, plane);
    uint8_t *out = allocate(bound, 0x55);
    int64_t size = encode(codec, plane, symbols, out, bound, 0);
    if (size < 0 || (size_t)size > bound)
        abort();
    check_decoder(codec, plane, symbols, count, out, (size_t)size);
    check_capacity(codec, plane, symbols, out, (size_t)size, bound); /* other rubbish in the scratch memory */
    if (some % 4 == 0)
        check_capacity(codec, plane, symbols, out, (size_t)size, (size_t)size);
    else if (some % 4 == 1 && size > 0)
        check_capacity(codec, plane, symbols, out, (size_t)size, (size_t)size - 1);
    else
        check_capacity(codec, plane, symbols, out, (size_t)size, some % ((size_t)size + 16));
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    smidgen_plane plane;
    uint8_t *symbols;
    size_t count, given;
    if (size <= HEADER)
        return 0;
    plane.rows = (data[0] & 31u) * (data[5] & TALL ? 16 : 1);
    plane.columns = data[1] & 31;
    plane.inner = data[2] & (data[5] & TALL ? 3u : 31u);
    plane.levels = data[3] + 1u;
    plane.zero = data[5] & NO_ZERO ? 256 : data[4];
    count = (size_t)plane.rows * plane.columns * plane.inner;
    given = size - HEADER;
    symbols = allocate(count, 0);
    for (size_t i = 0; i < count; i++)
        symbols[i] = (uint8_t)((data[HEADER + i % given] + i / given * (data[5] >> 3)) % plane.levels);
    for (int codec = SMIDGEN_RAW; codec <= SMIDGEN_LINES; codec++) {
        /* one sets up a model of three megabytes, the other tries eight codes: half of the inputs go without */
        int slow = codec == SMIDGEN_TEXT || codec == SMIDGEN_LINES || codec == SMIDGEN_RELATIVE;
        if (!slow || data[5] & WITH_SLOW)
            check(codec, &plane, symbols, count, (size_t)data[4] * 31 + data[HEADER]);
    }
    free(symbols);
    return 0;
}
