/* Files that a fuzzer made, repaired as far as it cannot be expected to: for targets that read files. */
#ifndef HOSTILE_FILE_H
#define HOSTILE_FILE_H

#include <stdlib.h>
#include <string.h>

#include "smidgen.h"

static inline int is_file(const uint8_t *data, size_t size) {
    static const uint8_t magic[4] = {0x89, 'S', 'M', 'G'};
    return size >= 4 && memcmp(data, magic, 4) == 0;
}

static inline void put(uint8_t *out, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

static inline void repair_checksum(uint8_t *copy, size_t size) {
    put(copy + 12, smidgen_crc32(smidgen_crc32(0, copy, 12), copy + 16, size - 16), 4);
}

static inline size_t header_of(const uint8_t *data) {
    return data[4] == 2 ? 92 : 72;
}

/* Gives one section what the others leave, if they leave anything. */
static inline void repair_length(uint8_t *copy, size_t size, int section) {
    const int known = copy[4] == 2 ? SMIDGEN_SECTIONS : SMIDGEN_PROGRAM;
    uint64_t rest = size - header_of(copy);
    for (int kind = 0; kind < known; kind++) {
        uint64_t stored = 0;
        if (kind == section)
            continue;
        for (int i = 7; i >= 0; i--)
            stored = stored << 8 | copy[16 + 8 * kind + i];
        if (stored > rest)
            return;
        rest -= stored;
    }
    put(copy + 16 + 8 * section, rest, 8);
    if (section == SMIDGEN_PROGRAM && copy[5 + section] == SMIDGEN_RAW)
        put(copy + 80, rest, 4); /* its size once decoded is the same */
}

/* Opens the file as it is. A fuzzer cannot guess a CRC, so where that is wrong it is repaired; and since fuzzers live on
 * inserting and erasing bytes, a file refused for its length is given another length of `section` first. */
static inline int open_repaired(uint8_t *copy, size_t size, int section, smidgen_file *file) {
    int status = smidgen_open(copy, size, file);
    if (status == 0 || size < 5 || size < header_of(copy))
        return status;
    if (status == SMIDGEN_BAD_LENGTH)
        repair_length(copy, size, section);
    repair_checksum(copy, size);
    return smidgen_open(copy, size, file);
}

#endif
