/* text: for names, labels and graphs. Every byte is eight binary decisions; the probability of each is mixed from
 * six models, which know the last 0, 1, 2, 3, 4 and 6 bytes (logistic mixing: Mattoni, Mahoney et al., "Adaptive
 * weighing of context models", 2005). Integers only; docs/format.md gives it step by step. */
#include "lines.h"

enum { ORDERS = 6 };

typedef struct {
    smidgen_bit slots[ORDERS][SLOTS];
    int32_t weights[256][ORDERS]; /* 16 fractional bits; by the bits of this byte already known */
    int16_t stretch[SHRINK];      /* inverse of squash */
    smidgen_range range;
} model;

static void start(model *m) {
    for (uint32_t order = 0; order < ORDERS; order++)
        for (uint32_t i = 0; i < SLOTS; i++)
            m->slots[order][i] = SMIDGEN_EVEN;
    for (uint32_t i = 0; i < 256; i++)
        for (uint32_t order = 0; order < ORDERS; order++)
            m->weights[i][order] = 65536 / 3;
    invert_squash(m->stretch);
}

/* One bit; `node` is a leading one followed by the bits of this byte already known. */
static inline int code_bit(model *m, const uint32_t *context, uint32_t node, int bit, const int encode) {
    smidgen_bit *slot[ORDERS];
    int32_t input[ORDERS], *weight = m->weights[node], sum = 0, p, error;
    for (uint32_t order = 0; order < ORDERS; order++) {
        uint32_t hash = (context[order] + node * 0x9e3779b1u) * 0x85ebca6bu;
        slot[order] = &m->slots[order][hash >> (32 - SLOT_BITS)];
        input[order] = m->stretch[*slot[order] >> 20];
        sum += (int32_t)(((int64_t)input[order] * weight[order]) >> 16);
    }
    p = squash(sum);
    bit = smidgen_range_code(&m->range, bit, (uint32_t)p << 4, encode);
    error = (bit ? 4095 : 0) - p;
    for (uint32_t order = 0; order < ORDERS; order++) {
        weight[order] += (input[order] * error + 512) >> 10;
        *slot[order] = smidgen_bit_update(*slot[order], bit);
    }
    return bit;
}

static inline void code_text(model *m, size_t count, uint8_t *bytes, const int encode) {
    uint64_t history = 0; /* the last eight bytes, the newest lowest */
    start(m);
    for (size_t i = 0; i < count; i++) {
        static const uint32_t known[ORDERS] = {0, 1, 2, 3, 4, 6};
        uint32_t context[ORDERS], node = 1, byte = encode ? bytes[i] : 0;
        for (uint32_t order = 0; order < ORDERS; order++) {
            uint64_t tail = history & (((uint64_t)1 << (8 * known[order])) - 1);
            context[order] = (uint32_t)((tail * 0x9e3779b97f4a7c15u) >> 32);
        }
        for (int j = 7; j >= 0; j--)
            node = node << 1 | (uint32_t)code_bit(m, context, node, byte >> j & 1, encode);
        if (!encode)
            bytes[i] = (uint8_t)node;
        history = history << 8 | (node & 255);
    }
}

int64_t smidgen_text_encode(const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity,
                            void *scratch) {
    model *m = scratch;
    smidgen_range_start(&m->range, out, capacity, 1);
    code_text(m, smidgen_count(plane), (uint8_t *)(uintptr_t)symbols, 1);
    return smidgen_range_end(&m->range);
}

int smidgen_text_decode(const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t *symbols,
                        void *scratch) {
    model *m = scratch;
    size_t count = smidgen_count(plane);
    smidgen_range_start(&m->range, (uint8_t *)(uintptr_t)data, size, 0);
    code_text(m, count, symbols, 0);
    for (size_t i = 0; i < count; i++)
        if (symbols[i] >= plane->levels)
            return SMIDGEN_CORRUPT;
    return smidgen_range_check(&m->range);
}

/* Both directions, as quickly as the processor can. They are apart, so that a program that only decodes has no more. */
static inline void code(lines *m, size_t count, uint8_t *bytes, const int encode) {
    const int quick = smidgen_processor_can(SMIDGEN_AVX2);
    if (!quick || !(encode ? smidgen_lines_encode_avx2 : smidgen_lines_decode_avx2)(m, count, bytes))
        code_lines(m, count, bytes, encode);
}

int64_t smidgen_lines_encode(const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity,
                             void *scratch) {
    lines *m = scratch;
    smidgen_range_start(&m->range, out, capacity, 1);
    code(m, smidgen_count(plane), (uint8_t *)(uintptr_t)symbols, 1);
    return smidgen_range_end(&m->range);
}

int smidgen_lines_decode(const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t *symbols,
                         void *scratch) {
    lines *m = scratch;
    size_t count = smidgen_count(plane);
    smidgen_range_start(&m->range, (uint8_t *)(uintptr_t)data, size, 0);
    code(m, count, symbols, 0);
    for (size_t i = 0; i < count; i++)
        if (symbols[i] >= plane->levels)
            return SMIDGEN_CORRUPT;
    return smidgen_range_check(&m->range);
}
