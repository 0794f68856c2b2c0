#include "internal.h"

/* Four bytes a step, by tables that are made on the way in: a thousand entries take less time than a file of 100 KB. */
uint32_t smidgen_crc32(uint32_t crc, const uint8_t *data, size_t size) {
    uint32_t table[4][256];
    for (uint32_t i = 0; i < 256; i++) {
        table[0][i] = i;
        for (int bit = 0; bit < 8; bit++)
            table[0][i] = table[0][i] >> 1 ^ (table[0][i] & 1 ? 0xedb88320u : 0);
    }
    for (uint32_t i = 0; i < 256; i++) /* the same with a zero byte more after it, and so on */
        for (int more = 1; more < 4; more++)
            table[more][i] = table[more - 1][i] >> 8 ^ table[0][table[more - 1][i] & 255];
    crc = ~crc;
    for (; size >= 4; size -= 4, data += 4) {
        crc ^= (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
        crc = table[3][crc & 255] ^ table[2][crc >> 8 & 255] ^ table[1][crc >> 16 & 255] ^ table[0][crc >> 24];
    }
    for (; size; size--, data++)
        crc = crc >> 8 ^ table[0][(crc ^ *data) & 255];
    return ~crc;
}
