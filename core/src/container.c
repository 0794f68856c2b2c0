/* The file: header, sections, index of tensors. Everything is checked here, with arithmetic that cannot overflow,
 * before a reader allocates anything. docs/format.md has the layout. */
#include "internal.h"

enum { NONE = 255, MAX_RANK = 8, MAX_BLOCKS = 16, TYPES = 12 };
#define MAX_ELEMENTS ((uint64_t)1 << 31)
#define MAX_SYMBOLS ((uint64_t)1 << 32)
#define MAX_TEXT ((uint64_t)16 << 20)
#define MAX_GRAPH ((uint64_t)64 << 20)

static uint64_t little(const uint8_t *p, int bytes) {
    uint64_t value = 0;
    while (bytes-- > 0)
        value = value << 8 | p[bytes];
    return value;
}

static int check_section(const smidgen_section *s, int kind) {
    uint64_t most = kind == SMIDGEN_GRAPH || kind == SMIDGEN_INDEX ? MAX_GRAPH : MAX_TEXT;
    if (kind == SMIDGEN_PAYLOAD)
        return s->codec == SMIDGEN_RAW ? 0 : SMIDGEN_BAD_SECTION;
    if (s->codec != SMIDGEN_RAW && s->codec != SMIDGEN_TEXT && s->codec != SMIDGEN_LINES)
        return SMIDGEN_BAD_SECTION;
    if (s->codec == SMIDGEN_RAW && s->size != s->stored)
        return SMIDGEN_BAD_SECTION;
    return s->size <= most && s->size / 256 <= s->stored ? 0 : SMIDGEN_BAD_LIMIT;
}

/* The sections as the header gives them, which has room for as many as its version knows; the others are empty. */
static int take_sections(const uint8_t *data, size_t size, smidgen_file *file) {
    static const smidgen_section empty;
    const int known = file->version == 1 ? SMIDGEN_PROGRAM : SMIDGEN_SECTIONS;
    const uint8_t *stored = data + 16, *decoded = stored + 8 * known;
    uint64_t offset = file->version == 1 ? 72 : 92;
    if (size < offset)
        return SMIDGEN_BAD_LENGTH;
    for (int kind = 0; kind < SMIDGEN_SECTIONS; kind++) {
        smidgen_section *s = &file->sections[kind];
        *s = empty;
        s->offset = offset;
        if (kind >= known)
            continue;
        s->codec = data[5 + kind];
        s->stored = little(stored + 8 * kind, 8);
        s->size = s->stored;
        if (kind != SMIDGEN_PAYLOAD) {
            s->size = little(decoded, 4);
            decoded += 4;
        }
        if (s->stored > size - offset)
            return SMIDGEN_BAD_LENGTH;
        offset += s->stored;
    }
    file->memory = file->version == 1 ? 0 : (uint32_t)little(data + 84, 4);
    file->work = file->version == 1 ? 0 : (uint32_t)little(data + 88, 4);
    return offset == size ? 0 : SMIDGEN_BAD_LENGTH;
}

int smidgen_open(const uint8_t *data, size_t size, smidgen_file *file) {
    static const uint8_t magic[4] = {0x89, 'S', 'M', 'G'};
    int status;
    for (size_t i = 0; i < 4; i++)
        if (i >= size || data[i] != magic[i])
            return SMIDGEN_BAD_MAGIC;
    if (size == 4)
        return SMIDGEN_BAD_LENGTH;
    file->version = data[4];
    if (file->version != 1 && file->version != 2)
        return SMIDGEN_BAD_VERSION;
    status = take_sections(data, size, file);
    if (status)
        return status;
    if (smidgen_crc32(smidgen_crc32(0, data, 12), data + 16, size - 16) != little(data + 12, 4))
        return SMIDGEN_BAD_CHECKSUM;
    if (data[11] != 0 || (file->version == 1 && data[10] != 0))
        return SMIDGEN_BAD_SECTION;
    for (int kind = 0; kind < SMIDGEN_SECTIONS; kind++) {
        status = check_section(&file->sections[kind], kind);
        if (status)
            return status;
    }
    return 0;
}

int smidgen_read_section(const uint8_t *data, const smidgen_file *file, int section, uint8_t *out, void *scratch) {
    const smidgen_section *s;
    smidgen_plane plane = {1, 1, 1, 256, 256};
    if (section < 0 || section >= SMIDGEN_SECTIONS || section == SMIDGEN_PAYLOAD)
        return SMIDGEN_USAGE;
    s = &file->sections[section];
    plane.columns = (uint32_t)s->size;
    return smidgen_decode((int)s->codec, &plane, data + s->offset, (size_t)s->stored, out, scratch);
}

uint64_t smidgen_limit(uint64_t file_size) {
    return file_size >= MAX_SYMBOLS / 16384 ? MAX_SYMBOLS : file_size * 16384;
}

/* A reader that notes where it ran out instead of failing at every step. */
typedef struct {
    const uint8_t *data;
    size_t position, size;
    int failed;
} cursor;

static uint64_t take(cursor *c, int bytes) {
    uint64_t value;
    if (c->size - c->position < (size_t)bytes) {
        c->failed = 1;
        return 0;
    }
    value = little(c->data + c->position, bytes);
    c->position += (size_t)bytes;
    return value;
}

static uint32_t type_size(uint32_t type) {
    static const uint8_t bytes[TYPES + 1] = {0, 4, 8, 2, 1, 2, 4, 8, 1, 2, 4, 8, 1};
    return type <= TYPES ? bytes[type] : 0;
}

static void take_name(cursor *c, smidgen_tensor *t) {
    t->name_size = (uint32_t)take(c, 1);
    t->name = (uint32_t)c->position;
    if (t->name_size == 0 || c->size - c->position < t->name_size)
        c->failed = 1;
    else
        c->position += t->name_size;
}

static void take_shape(cursor *c, smidgen_tensor *t) {
    uint64_t product = 1; /* of all but the zeros: array libraries compute it even where a tensor is empty */
    int empty = 0;
    t->rank = (uint32_t)take(c, 1);
    if (t->rank > MAX_RANK)
        c->failed = 1;
    for (uint32_t i = 0; i < t->rank && !c->failed; i++) {
        t->shape[i] = (uint32_t)take(c, 4);
        if (t->shape[i] == 0)
            empty = 1;
        else if (product > MAX_ELEMENTS / t->shape[i])
            c->failed = 1;
        else
            product *= t->shape[i];
    }
    t->elements = empty ? 0 : product;
}

/* What a code adds to the shape: its alphabet, its rule's parameters. Returns how many blocks it has. */
static uint32_t take_code(cursor *c, smidgen_tensor *t) {
    uint32_t has_zero = 0;
    t->first = (int16_t)take(c, 2);
    t->step = (int32_t)take(c, 2);
    t->levels = (int32_t)take(c, 1) + 1;
    t->zero = (uint32_t)take(c, 2);
    t->axis = (uint32_t)take(c, 1);
    t->columns = (uint32_t)take(c, 4);
    if (t->rule == SMIDGEN_AFFINE)
        has_zero = (uint32_t)take(c, 1);
    if (c->failed || t->elements == 0 || t->step < 1 || t->zero > 256 || has_zero > 1 ||
        t->first + t->step * (t->levels - 1) > INT16_MAX || (t->axis != NONE && t->axis >= t->rank)) {
        c->failed = 1;
        return 0;
    }
    t->rows = t->axis == NONE ? 1 : t->shape[t->axis];
    if (t->columns == 0 || (uint64_t)t->rows * t->columns > MAX_ELEMENTS)
        c->failed = 1;
    if (t->rule == SMIDGEN_AFFINE) {
        if (t->columns > t->elements / t->rows)
            c->failed = 1;
        return has_zero ? 7 : 5;
    }
    if (t->rule == SMIDGEN_TRELLIS || t->rule == SMIDGEN_TRELLIS64) {
        if (t->rank == 0 || t->axis != NONE || t->columns != 1 || t->first < -16383 ||
            t->first + t->step * (t->levels - 1) > 16383)
            c->failed = 1;
        return 5;
    }
    if (t->columns > 256 || t->first < 0 || t->first + t->step * (t->levels - 1) >= (int32_t)t->columns)
        c->failed = 1;
    return 5;
}

int smidgen_next(const uint8_t *index, size_t size, size_t *position, uint64_t *payload, uint64_t *symbols,
                 uint64_t limit, smidgen_tensor *t) {
    static const smidgen_tensor empty;
    cursor c = {index, *position, size, 0};
    if (*position == size)
        return 0;
    *t = empty;
    take_name(&c, t);
    t->rule = (uint32_t)take(&c, 1);
    if (t->rule == SMIDGEN_ARRAY)
        t->type = (uint32_t)take(&c, 1);
    take_shape(&c, t);
    if (c.failed || t->rule > SMIDGEN_TRELLIS64)
        return SMIDGEN_BAD_TENSOR;
    if (t->rule == SMIDGEN_ARRAY) {
        t->blocks = type_size(t->type);
        t->levels = 256;
    } else {
        t->blocks = take_code(&c, t);
    }
    if (c.failed || t->blocks == 0)
        return SMIDGEN_BAD_TENSOR;
    /* at most 2^31 times 8 each, so the sum cannot overflow */
    *symbols += t->rule == SMIDGEN_ARRAY ? t->elements * t->blocks
                                         : t->elements + (uint64_t)t->rows * t->columns * (t->blocks - 1);
    if (*symbols > limit)
        return SMIDGEN_BAD_LIMIT;
    for (uint32_t i = 0; i < t->blocks; i++) {
        t->codec[i] = (uint32_t)take(&c, 1);
        t->stored[i] = take(&c, 4);
        t->offset[i] = *payload;
        *payload += t->stored[i];
        if (t->codec[i] > SMIDGEN_LINES)
            return SMIDGEN_BAD_TENSOR;
    }
    if (c.failed)
        return SMIDGEN_BAD_TENSOR;
    *position = c.position;
    return 1;
}

smidgen_plane smidgen_block(const smidgen_tensor *t, uint32_t i) {
    smidgen_plane plane = {1, 1, 1, 256, 256};
    if (t->rule != SMIDGEN_ARRAY && i > 0) {
        plane.rows = t->rows;
        plane.columns = t->columns;
        return plane;
    }
    if (t->rule != SMIDGEN_ARRAY) {
        plane.levels = (uint32_t)t->levels;
        plane.zero = t->zero;
    }
    if (t->rank == 1)
        plane.columns = t->shape[0];
    if (t->rank > 1) {
        plane.rows = t->shape[0];
        plane.columns = t->shape[1];
    }
    for (uint32_t axis = 2; axis < t->rank; axis++)
        plane.inner *= t->shape[axis]; /* an empty tensor has some dimension 0; the rest may be anything */
    if (t->elements == 0)
        plane.rows = plane.columns = plane.inner = 0;
    return plane;
}
