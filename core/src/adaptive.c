/* adaptive: every symbol is a few binary decisions, each with a probability that learns as it goes.
 *
 * A symbol is seen as a signed distance v from the symbol that means zero. It is told as
 *   1. its class, the number of bits of |v|. The class that the neighbourhood lets expect is tried first, then the
 *      next ones up or down, so that two or three decisions suffice whatever the scale of the tensor;
 *   2. its sign;
 *   3. the bits of |v| below the leading one.
 * Contexts come from symbols already told: magnitudes (running means of this row and of this column, and the three
 * nearest neighbours) for the class, signed values for the sign. Trained kernels are smooth: in the 3x3 kernels of
 * SqueezeNet the sign follows its neighbours, which is where most of the gain over the iid entropy comes from.
 *
 * All of it is integer arithmetic on 8-bit fractions; docs/format.md gives it step by step. */
#include "range.h"

enum { OCTAVES = 13, CLASSES = 9, STEPS = 4 };

typedef struct {
    smidgen_bit class[OCTAVES * STEPS][CLASSES];
    smidgen_bit sign[2 * CLASSES - 1][2 * CLASSES - 1];
    smidgen_bit tail[CLASSES][128]; /* by the leading one and the bits already known */
    uint32_t top;           /* class of the greatest |v| of this plane */
    int has_sign, negative; /* whether signs are told; if not, whether all are below zero */
    smidgen_range range;
} model;

static inline uint32_t magnitude(int v) {
    return (uint32_t)(v < 0 ? -v : v);
}

/* Class of |v| with the sign of v, from 0 to 2 * CLASSES - 2. */
static inline uint32_t signed_class(int v) {
    uint32_t class = smidgen_length(magnitude(v));
    return v < 0 ? CLASSES - 1 - class : CLASSES - 1 + class;
}

static inline uint32_t code_class(model *m, uint32_t mean, uint32_t class, const int encode) {
    /* mean is about 2048 times the expected |v|; two bits below its leading one make four contexts an octave */
    uint32_t length = smidgen_length(mean | 128);
    uint32_t context = (length - 8) * STEPS + ((mean | 128) >> (length - 3) & 3);
    uint32_t node = length > 12 ? length - 12 : 0;
    smidgen_bit *bits = m->class[context];
    if (node >= m->top)
        node = m->top - 1;
    if (smidgen_bit_code(&m->range, &bits[node], class > node, encode)) {
        while (++node < m->top && smidgen_bit_code(&m->range, &bits[node], class > node, encode)) {
        }
        return node;
    }
    while (node > 0 && !smidgen_bit_code(&m->range, &bits[node - 1], class > node - 1, encode))
        node--;
    return node;
}

static inline int code_value(model *m, uint32_t mean, int beside, int above, int v, const int encode) {
    uint32_t class = code_class(m, mean, smidgen_length(magnitude(v)), encode);
    uint32_t value = 1;
    int negative = m->negative;
    if (class == 0)
        return 0;
    if (m->has_sign)
        negative =
            smidgen_bit_code(&m->range, &m->sign[signed_class(beside)][signed_class(above)], v < 0, encode);
    for (uint32_t i = class - 1; i > 0; i--)
        value = value << 1 |
                (uint32_t)smidgen_bit_code(&m->range, &m->tail[class][value], magnitude(v) >> (i - 1) & 1, encode);
    return negative ? -(int)value : (int)value;
}

static void start(model *m, const smidgen_plane *plane, uint32_t zero) {
    uint32_t below = zero, above = plane->levels - 1 - zero;
    smidgen_bit *bits = &m->class[0][0];
    for (size_t i = 0; i < sizeof(m->class) / sizeof(smidgen_bit); i++)
        bits[i] = SMIDGEN_EVEN;
    bits = &m->sign[0][0];
    for (size_t i = 0; i < sizeof(m->sign) / sizeof(smidgen_bit); i++)
        bits[i] = SMIDGEN_EVEN;
    bits = &m->tail[0][0];
    for (size_t i = 0; i < sizeof(m->tail) / sizeof(smidgen_bit); i++)
        bits[i] = SMIDGEN_EVEN;
    m->has_sign = below > 0 && above > 0;
    m->negative = above == 0;
    m->top = smidgen_length(below > above ? below : above);
}

/* The side of a square kernel; another one is treated as a line. */
static uint32_t kernel_width(uint32_t inner) {
    uint32_t width = 1;
    while (width * width < inner && width < 256)
        width++;
    return width * width == inner ? width : inner;
}

static inline int code_plane(model *m, const smidgen_plane *plane, uint8_t *symbols, uint16_t *columns,
                             const int encode) {
    const size_t length = (size_t)plane->columns * plane->inner, inner = plane->inner;
    const size_t width = kernel_width(plane->inner);
    const int zero = plane->zero < plane->levels ? (int)plane->zero : 0;
    const int last = (int)plane->levels - 1 - zero;
    uint32_t mean = 256; /* of |v| over the rows so far, times 256 */
    start(m, plane, (uint32_t)zero);
    for (size_t c = 0; c < length; c++)
        columns[c] = 256;
    for (uint32_t r = 0; r < plane->rows; r++) {
        uint8_t *row = symbols + r * length;
        uint32_t running = mean;
        size_t x = 0, y = 0; /* in the kernel */
        for (size_t c = 0; c < length; c++) {
            int above = r ? (int)row[(ptrdiff_t)c - (ptrdiff_t)length] - zero : 0;
            int before = c ? (int)row[c - 1] - zero : 0;
            int across = c >= inner ? (int)row[c - inner] - zero : 0;
            int beside = inner == 1 || x ? before : 0;
            uint32_t near, v_mean;
            int v;
            if (y)
                beside += (int)row[c - width] - zero;
            near = magnitude(above) + magnitude(before) + magnitude(across);
            v_mean = (near << 7) + 4 * running + 2 * columns[c];
            if (beside > 255)
                beside = 255;
            if (beside < -255)
                beside = -255;
            v = code_value(m, v_mean, beside, above, encode ? (int)row[c] - zero : 0, encode);
            if (!encode) {
                if (v > last || v < -zero)
                    return SMIDGEN_CORRUPT;
                row[c] = (uint8_t)(v + zero);
            }
            running += (uint32_t)(((int32_t)(magnitude(v) << 8) - (int32_t)running) / 16);
            columns[c] = (uint16_t)(columns[c] + ((int32_t)(magnitude(v) << 8) - columns[c]) / 8);
            if (++x == width) {
                x = 0;
                if (++y == inner / width)
                    y = 0;
            }
        }
        mean = (mean + running) / 2;
        if (r == 0)
            for (size_t c = 0; c < length; c++)
                columns[c] = (uint16_t)((columns[c] + 3 * running) / 4);
    }
    return 0;
}

int64_t smidgen_adaptive_encode(const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity,
                                void *scratch) {
    model *m = scratch;
    smidgen_range_start(&m->range, out, capacity, 1);
    /* the encoder only reads the symbols; one body for both directions wants a plain pointer */
    code_plane(m, plane, (uint8_t *)(uintptr_t)symbols, (uint16_t *)(m + 1), 1);
    return smidgen_range_end(&m->range);
}

int smidgen_adaptive_decode(const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t *symbols,
                            void *scratch) {
    model *m = scratch;
    int status;
    smidgen_range_start(&m->range, (uint8_t *)(uintptr_t)data, size, 0);
    status = code_plane(m, plane, symbols, (uint16_t *)(m + 1), 0);
    return status ? status : smidgen_range_check(&m->range);
}
