/* Feeds files to a fuzz target where there is no libFuzzer: any compiler with sanitizers will do.
 *
 *     decode_any_bytes-replay FILE...
 *     decode_any_bytes-replay --mutate 1000 0 FILE...    also 1000 mutations of each file, from seed 0
 *
 * The same seed and files give the same mutations everywhere. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROOM = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    uint8_t *bytes;
    size_t size;
} input;

static uint64_t state;

/* splitmix64, by Sebastiano Vigna (public domain) */
static uint64_t random_number(void) {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t below(size_t limit) {
    return limit ? (size_t)(random_number() % limit) : 0;
}

static void *allocate(size_t size) {
    void *memory = malloc(size ? size : 1);
    if (!memory) {
        fputs("out of memory\n", stderr);
        exit(2);
    }
    return memory;
}

/* A number at the edge of something: zero, all ones, a sign bit, or one beside the number that was there. */
static void tweak(uint8_t *at, size_t bytes) {
    static const uint64_t edges[] = {0, 1, 127, 128, 255, 256, 32767, 32768, 65535, 0x7fffffff, 0x80000000, 0xffffffff};
    uint64_t value = 0;
    for (size_t i = bytes; i-- > 0;)
        value = value << 8 | at[i];
    switch (below(4)) {
    case 0:
        value += 1;
        break;
    case 1:
        value -= 1;
        break;
    case 2:
        value = edges[below(sizeof(edges) / sizeof(edges[0]))];
        break;
    default:
        value = ~(uint64_t)0 - edges[below(sizeof(edges) / sizeof(edges[0]))];
    }
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static void tweak_somewhere(uint8_t *bytes, size_t size) {
    size_t width = (size_t)1 << below(4);
    if (size >= width)
        tweak(bytes + below(size - width + 1), width);
}

/* One of the fields that docs/format.md puts into the header: version, codecs, reserved bytes, lengths, numbers. */
static void tweak_header(uint8_t *bytes, size_t size) {
    const size_t sections = size > 4 && bytes[4] == 2 ? 6 : 5, numbers = sections == 6 ? 7 : 4;
    size_t field = below(8 + sections + numbers);
    if (size < 16 + 8 * sections + 4 * numbers)
        return;
    if (field < 8)
        tweak(bytes + 4 + field, 1);
    else if (field < 8 + sections)
        tweak(bytes + 16 + 8 * (field - 8), 8);
    else
        tweak(bytes + 16 + 8 * sections + 4 * (field - 8 - sections), 4);
}

/* A field of the program, where that lies open at the end of a file: numbers of tensors and operations are small, so
 * another one from the same program is as likely to be right as a random one is to be wrong. */
static void tweak_program(uint8_t *bytes, size_t size) {
    size_t length = 0, width = (size_t)1 << below(3), at, from;
    if (size < 92 || bytes[4] != 2 || bytes[10] != 0)
        return;
    for (size_t i = 8; i-- > 0;)
        length = length << 8 | bytes[56 + i];
    if (length > size - 92 || length < width)
        return;
    at = size - length + below(length - width + 1);
    from = size - length + below(length - width + 1);
    if (below(2))
        memmove(bytes + at, bytes + from, width);
    else
        tweak(bytes + at, width);
}

/* Changes the bytes, which have room for ROOM more; returns their new number. */
static size_t mutate(uint8_t *bytes, size_t size, const input *other) {
    size_t at = below(size), length = 1 + below(ROOM / 4), from;
    if (size == 0)
        return 0;
    switch (below(11)) {
    case 0:
        bytes[at] ^= (uint8_t)(1u << below(8));
        break;
    case 1:
        bytes[at] = (uint8_t)random_number();
        break;
    case 2:
        return at;
    case 3: /* splice: a run of another file, or of this one */
        from = below(other->size);
        if (length > size - at)
            length = size - at;
        if (length > other->size - from)
            length = other->size - from;
        memcpy(bytes + at, other->bytes + from, length);
        break;
    case 4:
        memmove(bytes + at + length, bytes + at, size - at);
        for (size_t i = 0; i < length; i++)
            bytes[at + i] = (uint8_t)(length % 3 ? random_number() : 0);
        return size + length;
    case 5:
        if (length > size - at)
            length = size - at;
        memmove(bytes + at, bytes + at + length, size - at - length);
        return size - length;
    case 6:
        tweak_header(bytes, size);
        break;
    case 7:
        for (size_t i = at; i < size && i < at + length; i++)
            bytes[i] = (uint8_t)random_number();
        break;
    case 8:
    case 9:
        tweak_program(bytes, size);
        break;
    default:
        tweak_somewhere(bytes, size);
    }
    return size;
}

static input read_input(const char *name) {
    FILE *stream = fopen(name, "rb");
    input file = {0};
    long size;
    if (!stream || fseek(stream, 0, SEEK_END) || (size = ftell(stream)) < 0) {
        fprintf(stderr, "%s: cannot be read\n", name);
        exit(2);
    }
    rewind(stream);
    file.size = (size_t)size;
    file.bytes = allocate(file.size);
    if (fread(file.bytes, 1, file.size, stream) != file.size) {
        fprintf(stderr, "%s: cannot be read\n", name);
        exit(2);
    }
    fclose(stream);
    return file;
}

/* The target gets a buffer of its own of the exact size. */
static void give(const uint8_t *bytes, size_t size) {
    uint8_t *exact = allocate(size);
    memcpy(exact, bytes, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

int main(int argc, char **argv) {
    unsigned long count = 0, given = 0;
    int first = 1, files;
    input *inputs;
    if (argc > 3 && strcmp(argv[1], "--mutate") == 0) {
        count = strtoul(argv[2], NULL, 10);
        state = strtoul(argv[3], NULL, 10);
        first = 4;
    }
    files = argc - first;
    if (files < 1) {
        fprintf(stderr, "usage: %s [--mutate COUNT SEED] FILE...\n", argv[0]);
        return 2;
    }
    inputs = allocate((size_t)files * sizeof(input));
    for (int i = 0; i < files; i++)
        inputs[i] = read_input(argv[first + i]);
    for (int i = 0; i < files; i++) {
        const input *file = &inputs[i];
        uint8_t *bytes = allocate(file->size + 4 * ROOM);
        give(file->bytes, file->size);
        for (unsigned long n = 0; n < count; n++, given++) {
            size_t size = file->size, changes = 1 + below(4);
            memcpy(bytes, file->bytes, size);
            while (changes-- > 0)
                size = mutate(bytes, size, &inputs[below((size_t)files)]);
            give(bytes, size);
        }
        free(bytes);
    }
    for (int i = 0; i < files; i++)
        free(inputs[i].bytes);
    free(inputs);
    printf("%d files and %lu mutations: no fault\n", files, given);
    return 0;
}
