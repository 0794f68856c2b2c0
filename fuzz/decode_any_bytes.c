/* Any bytes may be given to the decoders: they answer with symbols or with an error, within their buffers and without
 * undefined behaviour. A target for libFuzzer, and with replay.c a program of its own.
 *
 * An input that begins with the magic of a file is read as one, with checksum and length repaired (hostile_file.h).
 *
 * Any other input is one plane: a byte of codec, six of shape and alphabet, and the encoded bytes.
 *
 * Every buffer is allocated with the exact size that the header of the core asks for, so that AddressSanitizer sees a
 * step too far. Decoding is done twice, over scratch memory with different rubbish in it: a result that depends on
 * what lay there is a fault too. Only the models of codecs text and lines are too large for that: it would be all that
 * the fuzzer does. */
#include "hostile_file.h"

/* A plane of more symbols is legal but slow: the fuzzer has better things to do. */
#define MOST_SYMBOLS ((uint64_t)1 << 18)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void *allocate(size_t size, int filler) {
    void *memory = malloc(size);
    if (!memory)
        abort();
    return memset(memory, filler, size);
}

/* Decodes, twice where that is cheap, and compares. Returns the status, and the symbols to be freed. */
static int decode(int codec, const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t **symbols) {
    size_t count = (size_t)plane->rows * plane->columns * plane->inner, scratch = smidgen_scratch(codec, plane);
    uint8_t *exact = allocate(size, 0), *again = allocate(count, 0x55);
    const int times = codec == SMIDGEN_TEXT || codec == SMIDGEN_LINES ? 1 : 2;
    int status = 0;
    if (size)
        memcpy(exact, data, size);
    *symbols = allocate(count, 0x55);
    for (int i = 0; i < times; i++) {
        void *memory = allocate(scratch, i ? 0xff : 0);
        int result = smidgen_decode(codec, plane, exact, size, i ? again : *symbols, memory);
        if (result > 0 || (i && (result != status || memcmp(*symbols, again, count) != 0)))
            abort();
        status = result;
        free(memory);
    }
    for (size_t i = 0; i < count && status == 0; i++)
        if ((*symbols)[i] >= plane->levels)
            abort();
    free(exact);
    free(again);
    return status;
}

static void walk(const uint8_t *data, size_t size, const smidgen_file *file, const uint8_t *index, size_t index_size) {
    const smidgen_section *payload = &file->sections[SMIDGEN_PAYLOAD];
    size_t position = 0;
    uint64_t used = 0, elements = 0;
    smidgen_tensor tensor;
    while (smidgen_next(index, index_size, &position, &used, &elements, smidgen_limit(size), &tensor) > 0) {
        if (position > index_size || elements > smidgen_limit(size) || tensor.blocks > 16 || tensor.rank > 8 ||
            (uint64_t)tensor.name + tensor.name_size > index_size)
            abort();
        for (uint32_t i = 0; i < tensor.blocks; i++) {
            smidgen_plane plane = smidgen_block(&tensor, i);
            uint64_t count = (uint64_t)plane.rows * plane.columns * plane.inner;
            uint8_t *symbols;
            int whole = tensor.rule == SMIDGEN_ARRAY || i == 0;
            if (count != (whole ? tensor.elements : (uint64_t)tensor.rows * tensor.columns))
                abort();
            /* the reader in Python checks the sum at the end of the index; here the walk decodes as it goes */
            if (tensor.stored[i] > payload->stored || tensor.offset[i] > payload->stored - tensor.stored[i])
                return;
            if (count > MOST_SYMBOLS)
                continue;
            decode((int)tensor.codec[i], &plane, data + payload->offset + tensor.offset[i], (size_t)tensor.stored[i],
                   &symbols);
            free(symbols);
        }
    }
}

static void read_file(const uint8_t *data, size_t size, const smidgen_file *file) {
    for (int kind = 0; kind < SMIDGEN_SECTIONS; kind++) {
        const smidgen_section *s = &file->sections[kind];
        smidgen_plane plane = {1, (uint32_t)s->size, 1, 256, 256};
        uint8_t *text;
        if (kind == SMIDGEN_PAYLOAD || s->size > MOST_SYMBOLS)
            continue;
        if (decode((int)s->codec, &plane, data + s->offset, (size_t)s->stored, &text) == 0 && kind == SMIDGEN_INDEX)
            walk(data, size, file, text, (size_t)s->size);
        free(text);
    }
}

static void decode_file(const uint8_t *data, size_t size) {
    smidgen_file file;
    uint8_t *copy = allocate(size, 0);
    memcpy(copy, data, size);
    if (open_repaired(copy, size, SMIDGEN_PAYLOAD, &file) == 0)
        read_file(copy, size, &file);
    free(copy);
}

/* One plane. Mostly of a few symbols; bit 7 of the codec makes one of many rows, where rans runs in eight lanes. */
static void decode_plane(const uint8_t *data, size_t size) {
    smidgen_plane plane;
    uint8_t *symbols;
    if (size < 7)
        return;
    plane.rows = (data[1] & 31u) * (data[0] & 128 ? 64 : 1);
    plane.columns = data[2] & 31;
    plane.inner = data[3] & (data[0] & 128 ? 3u : 31u);
    plane.levels = data[4] + 1u;
    plane.zero = data[5] | (data[6] & 1u) << 8;
    decode((data[0] & 127) % 11, &plane, data + 7, size - 7, &symbols); /* 10 is no codec */
    free(symbols);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (is_file(data, size))
        decode_file(data, size);
    else
        decode_plane(data, size);
    return 0;
}
