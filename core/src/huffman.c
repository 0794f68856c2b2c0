/* huffman: canonical Huffman codes of at most 15 bits (Huffman 1952). The lengths come first, 4 bits a level.
 *
 * relative: what Deep Compression (arXiv 1510.00149, section 2) stores of a pruned layer: only the symbols that are
 * not zero, each after the number of zeros skipped; where a run is too long for the index, a filler zero is stored.
 * Gaps and symbols have a Huffman code each. It is here for comparison: entropy coding the zeros themselves is
 * smaller. */
#include "internal.h"

enum { LONGEST = 15, SLOTS = 1 << LONGEST };

typedef struct {
    uint32_t count[256], weight[512];
    uint16_t parent[512], code[256];
    uint8_t length[256];
} coder;

typedef struct {
    uint16_t entry[SLOTS]; /* symbol, length << 8; by the next 15 bits */
} decoder;

/* Lengths of an optimal prefix code for the counts; false where one of them would exceed 15 bits. */
static int measure(coder *c, uint32_t levels) {
    uint32_t nodes = 0, leaf[256];
    for (uint32_t s = 0; s < levels; s++) {
        c->length[s] = 0;
        if (c->count[s]) {
            leaf[nodes] = s;
            c->weight[nodes++] = c->count[s];
        }
    }
    if (nodes == 1)
        c->length[leaf[0]] = 1;
    if (nodes < 2)
        return 1;
    for (uint32_t i = 0; i < 512; i++)
        c->parent[i] = 0;
    for (uint32_t next = nodes; next < 2 * nodes - 1; next++) {
        uint32_t sum = 0;
        for (int pick = 0; pick < 2; pick++) {
            uint32_t least = next;
            for (uint32_t i = 0; i < next; i++)
                if (!c->parent[i] && (least == next || c->weight[i] < c->weight[least]))
                    least = i;
            c->parent[least] = (uint16_t)next;
            sum += c->weight[least];
        }
        c->weight[next] = sum;
    }
    for (uint32_t i = 0; i < nodes; i++) {
        uint32_t length = 0;
        for (uint32_t node = i; c->parent[node]; node = c->parent[node])
            length++;
        if (length > LONGEST)
            return 0;
        c->length[leaf[i]] = (uint8_t)length;
    }
    return 1;
}

/* Codes in canonical order, by length and then by symbol, turned round since bits go out lowest first. Returns the
 * share of the 2^15 slots that they fill. */
static uint32_t assign(const uint8_t *length, uint16_t *code, uint32_t levels) {
    uint32_t next = 0;
    for (uint32_t bits = 1; bits <= LONGEST; bits++)
        for (uint32_t s = 0; s < levels; s++)
            if (length[s] == bits) {
                uint32_t turned = 0;
                for (uint32_t i = 0; i < bits; i++)
                    turned |= (next >> (LONGEST - 1 - i) & 1) << i;
                code[s] = (uint16_t)turned;
                next += SLOTS >> bits;
                if (next > SLOTS)
                    return next;
            }
    return next;
}

static void put_code(coder *c, smidgen_bits *bits, uint32_t levels) {
    while (!measure(c, levels))
        for (uint32_t s = 0; s < levels; s++)
            c->count[s] = (c->count[s] + 1) / 2;
    assign(c->length, c->code, levels);
    for (uint32_t s = 0; s < levels; s++)
        smidgen_put(bits, c->length[s], 4);
}

/* A code that leaves slots unused is valid only as the one bit of a single symbol. */
static int get_code(smidgen_bits *bits, decoder *d, uint32_t levels) {
    uint8_t length[256];
    uint16_t code[256];
    uint32_t used = 0, filled;
    for (uint32_t s = 0; s < levels; s++) {
        length[s] = (uint8_t)smidgen_get(bits, 4);
        used += length[s] > 0;
    }
    filled = assign(length, code, levels);
    if (bits->failed || filled > SLOTS || (filled < SLOTS && !(used == 1 && filled == SLOTS / 2)))
        return SMIDGEN_CORRUPT;
    if (used == 1)
        for (uint32_t i = 1; i < SLOTS; i += 2)
            d->entry[i] = 0;
    for (uint32_t s = 0; s < levels; s++)
        if (length[s])
            for (uint32_t i = code[s]; i < SLOTS; i += 1u << length[s])
                d->entry[i] = (uint16_t)(s | (uint32_t)length[s] << 8);
    return 0;
}

/* The next symbol, or 256 where no code matches. */
static inline uint32_t get_symbol(smidgen_bits *bits, const decoder *d) {
    uint32_t entry;
    if (bits->position > bits->size + 8) /* looking ahead takes three bytes at most; here there is nothing but zeros */
        return 256;
    smidgen_fill(bits, LONGEST);
    entry = d->entry[bits->bits & (SLOTS - 1)];
    smidgen_drop(bits, entry >> 8);
    return entry >> 8 ? entry & 255 : 256;
}

static int finish(const smidgen_bits *bits) {
    /* whole bytes that were looked at but not used may lie past the end */
    size_t used = bits->position - bits->count / 8;
    uint64_t padding = bits->bits & (((uint64_t)1 << (bits->count % 8)) - 1);
    return used == bits->size && padding == 0 ? 0 : SMIDGEN_CORRUPT;
}

int64_t smidgen_huffman_encode(const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity,
                               void *scratch) {
    coder *c = scratch;
    smidgen_bits bits = {.out = out, .size = capacity};
    size_t count = smidgen_count(plane);
    for (uint32_t s = 0; s < 256; s++)
        c->count[s] = 0;
    for (size_t i = 0; i < count; i++)
        c->count[symbols[i]]++;
    put_code(c, &bits, plane->levels);
    for (size_t i = 0; i < count; i++)
        smidgen_put(&bits, c->code[symbols[i]], c->length[symbols[i]]);
    return smidgen_put_end(&bits);
}

int smidgen_huffman_decode(const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t *symbols,
                           void *scratch) {
    decoder *d = scratch;
    smidgen_bits bits = {.in = data, .size = size};
    if (get_code(&bits, d, plane->levels))
        return SMIDGEN_CORRUPT;
    for (size_t i = 0, count = smidgen_count(plane); i < count; i++) {
        uint32_t symbol = get_symbol(&bits, d);
        if (symbol > 255)
            return SMIDGEN_CORRUPT;
        symbols[i] = (uint8_t)symbol;
    }
    return finish(&bits);
}

typedef struct {
    coder gaps, values;
    smidgen_bits bits;
} pair;

/* Goes through the entries for an index of `width` bits: counts them, or writes them. Returns how many there are. */
static uint32_t each_entry(const smidgen_plane *plane, const uint8_t *symbols, uint32_t width, pair *p, int write) {
    const uint32_t zero = plane->zero < plane->levels ? plane->zero : 0, longest = (1u << width) - 1;
    uint32_t entries = 0, gap = 0;
    for (size_t i = 0, count = smidgen_count(plane); i < count; i++) {
        if (symbols[i] == zero && gap < longest) {
            gap++;
            continue;
        }
        if (write) {
            smidgen_put(&p->bits, p->gaps.code[gap], p->gaps.length[gap]);
            smidgen_put(&p->bits, p->values.code[symbols[i]], p->values.length[symbols[i]]);
        } else {
            p->gaps.count[gap]++;
            p->values.count[symbols[i]]++;
        }
        entries++;
        gap = 0;
    }
    return entries;
}

static int64_t write_relative(const smidgen_plane *plane, const uint8_t *symbols, uint32_t width, pair *p,
                              uint8_t *out, size_t capacity) {
    smidgen_bits start = {.out = out, .size = capacity};
    uint32_t entries;
    p->bits = start;
    for (uint32_t s = 0; s < 256; s++)
        p->gaps.count[s] = p->values.count[s] = 0;
    entries = each_entry(plane, symbols, width, p, 0);
    smidgen_put(&p->bits, width, 8);
    smidgen_put(&p->bits, entries, 32);
    if (entries) {
        put_code(&p->gaps, &p->bits, 1u << width);
        put_code(&p->values, &p->bits, plane->levels);
        each_entry(plane, symbols, width, p, 1);
    }
    return smidgen_put_end(&p->bits);
}

int64_t smidgen_relative_encode(const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity,
                                void *scratch) {
    uint32_t best = 1;
    int64_t least = INT64_MAX;
    for (uint32_t width = 1; width <= 8; width++) {
        int64_t size = write_relative(plane, symbols, width, scratch, out, capacity);
        if (size >= 0 && size < least) {
            least = size;
            best = width;
        }
    }
    return write_relative(plane, symbols, best, scratch, out, capacity);
}

int smidgen_relative_decode(const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t *symbols,
                            void *scratch) {
    decoder *gaps = scratch, *values = gaps + 1;
    smidgen_bits bits = {.in = data, .size = size};
    const size_t count = smidgen_count(plane);
    const uint32_t width = smidgen_get(&bits, 8), entries = smidgen_get(&bits, 32);
    const uint8_t zero = (uint8_t)(plane->zero < plane->levels ? plane->zero : 0);
    size_t position = 0;
    if (width < 1 || width > 8 || entries > count)
        return SMIDGEN_CORRUPT;
    if (entries && (get_code(&bits, gaps, 1u << width) || get_code(&bits, values, plane->levels)))
        return SMIDGEN_CORRUPT;
    for (size_t i = 0; i < count; i++)
        symbols[i] = zero;
    for (uint32_t i = 0; i < entries; i++) {
        uint32_t gap = get_symbol(&bits, gaps), value = get_symbol(&bits, values);
        if (gap > 255 || value > 255 || gap >= count - position)
            return SMIDGEN_CORRUPT;
        position += gap;
        symbols[position++] = (uint8_t)value;
    }
    return finish(&bits);
}
