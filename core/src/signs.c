/* signs: layers of one bit both ways. 4 signs of an input choose a table of 16 counts, which is looked up at 4 signs of
 * the weights of up to 64 outputs. What lies outside chooses a table of zeros, so that all pixels are alike. */
#include "engine.h"

enum {
    PIXELS = 48,  /* of an output row at once */
    SIGNS = 16896 /* bytes for what they read: at least a row of a kernel, of which 4 x columns x fours <= 65535 */
};

/* Whether the pixels under a row of the kernel are fetched from the first to the last one's, or place by place. */
static int beside(const smidgen_operation *o) {
    return o->dilation_width == 1 && o->stride_width <= o->kernel_width;
}

/* Two pixels as one: its first 16 outputs are those of the left one, the others those of the right one, whose kernel begins a
 * stride later. */
smidgen_signs_shape smidgen_shape_of_signs(const smidgen_kernels *k, const smidgen_operation *o, uint32_t fours,
                                           uint32_t outputs) {
    const uint32_t columns = o->kernel_width, wider = columns + o->stride_width, whole = (uint32_t)beside(o);
    const uint32_t each = (whole ? columns : 1) * fours, step = (whole ? o->stride_width : 1) * fours;
    const uint32_t most = outputs < SMIDGEN_SIGNS_BLOCK ? outputs : SMIDGEN_SIGNS_BLOCK;
    const int two = outputs <= 16 && whole && wider * fours <= SIGNS;
    const smidgen_signs_shape packed = {(most + 15) / 16 * 16, 1, columns, whole ? columns : 1, 1};
    const smidgen_signs_shape single = {most > 32 ? 64 : 32, 1, columns, whole ? columns : 1, 0};
    const smidgen_signs_shape twins = {32, 2, wider, wider, 0};
    if (k->packed_differences && step % 2 == 0 && each >= SMIDGEN_PACKED_LEAST)
        return packed;
    return two ? twins : single;
}

void smidgen_lookup(uint8_t *output, const uint8_t *input, uint32_t count, const uint8_t table[256]) {
    for (uint32_t i = 0; i < count; i++)
        output[i] = table[input[i]];
}

/* Bits are counted by twos, then by fours, so that compilers find a byte of a vector for each output. */
void smidgen_differences(uint16_t *sums, const uint8_t *weights, const smidgen_fetched *x, uint32_t width) {
    for (uint32_t i = 0; i < x->rows * x->fours; i++, weights += width)
        for (uint32_t p = 0; p < x->pixels; p++) {
            const uint8_t four = x->first[p * x->step + i / x->fours * x->row + i % x->fours];
            uint16_t *all = sums + p * width;
            if (four == SMIDGEN_OUTSIDE)
                continue;
            for (uint32_t o = 0; o < width; o++) {
                const uint8_t differ = weights[o] < SMIDGEN_NO_WEIGHT ? weights[o] ^ four >> 4 : 0;
                const uint8_t twos = (uint8_t)(differ - (differ >> 1 & 5));
                all[o] = (uint16_t)(all[o] + (twos & 3) + (twos >> 2));
            }
        }
}

void smidgen_signs(uint8_t *output, const uint8_t *input, uint32_t count, uint32_t zero) {
    for (uint32_t i = 0; i < count; i += 4) {
        uint32_t four = 0;
        for (uint32_t j = 0; j < 4 && i + j < count; j++)
            four |= (uint32_t)(input[i + j] >= zero) << (4 + j);
        *output++ = (uint8_t)four;
    }
}

/* How many places of a kernel lie in the input, along one axis, and the first of them. */
static uint32_t places(uint32_t at, uint32_t stride, uint32_t before, uint32_t kernel, uint32_t dilation, uint32_t size,
                       uint32_t *first) {
    const int64_t start = (int64_t)at * stride - before;
    uint32_t inside = 0;
    *first = 0;
    for (uint32_t k = 0; k < kernel; k++) {
        const int here = (uint64_t)(start + k * dilation) < size;
        *first = here && !inside ? k : *first;
        inside += (uint32_t)here;
    }
    return inside;
}

/* The signs of `count` pixels of row y from x on, every so manieth. Returns where the next ones go. */
static uint8_t *fetch(const smidgen_network *n, const smidgen_value *in, int64_t y, int64_t x, uint32_t stride, uint32_t count,
                      uint8_t *restrict to) {
    const int dense = stride == 1 && in->pitch == in->channels;
    while (count) {
        const int inside = (uint64_t)y < in->height && (uint64_t)x < in->width;
        const uint32_t rest = inside ? in->width - (uint32_t)x : 1, some = !dense ? 1 : rest < count ? rest : count;
        const uint32_t bytes = some * in->channels;
        if (inside) {
            const uint8_t *restrict from = smidgen_pixel(n, in, (uint32_t)y, (uint32_t)x);
            for (uint32_t i = 0; i < bytes; i++)
                to[i] = from[i] & 0xf0;
        } else {
            __builtin_memset(to, SMIDGEN_OUTSIDE, bytes);
        }
        to += bytes;
        x += (int64_t)some * stride;
        count -= some;
    }
    return to;
}

/* A part of an output row that is computed together. */
typedef struct {
    uint32_t y, x, pixels, top, rows; /* rows of the kernel that lie in the input, and the first of them */
} part;

/* Adds for the pixels of a part, of which two may be one, and the outputs of a block in how many inputs signs differ. Pixels
 * that are side by side under a row of the kernel are fetched once, for all that need them. */
static void add_differences(const smidgen_network *n, const smidgen_operation *o, const smidgen_block_of_signs *block,
                            const smidgen_signs_shape *shape, const part *p, uint16_t *sums) {
    const smidgen_value *in = &n->values[o->input];
    const int whole = beside(o);
    const uint32_t stride = o->stride_width * shape->pixels, columns = shape->beside;
    const uint32_t count = whole ? (p->pixels - 1) * stride + columns : p->pixels, row = count * in->channels;
    const uint32_t together = whole ? SIGNS / row : 1, bottom = p->top + p->rows;
    const uint32_t fours = columns * in->channels;
    const size_t each = (size_t)(shape->packed ? (fours + 7) / 8 * 4 : fours) * shape->width;
    uint8_t signs[SIGNS + SMIDGEN_MORE];
    for (uint32_t i = p->top, rows; i < bottom; i += rows) {
        rows = bottom - i < together ? bottom - i : together;
        for (uint32_t j = 0; j < shape->columns; j += columns) {
            const int64_t left = (int64_t)p->x * o->stride_width + j * o->dilation_width - o->left;
            const int64_t right = left + (whole ? count - 1 : (count - 1) * stride);
            const smidgen_fetched fetched = {signs, (size_t)(whole ? stride : 1) * in->channels, row, rows,
                                             fours, p->pixels};
            uint8_t *to = signs;
            if (right < 0 || left >= (int64_t)in->width)
                continue;
            for (uint32_t k = i; k < i + rows; k++)
                to = fetch(n, in, (int64_t)p->y * o->stride_height + k * o->dilation_height - o->top, left,
                           whole ? 1 : stride, count, to);
            __builtin_memset(to, 0, SMIDGEN_MORE);
            const uint8_t *weights = block->weights + (i * (shape->columns / columns) + j / columns) * each;
            (shape->packed ? n->kernels.packed_differences : n->kernels.differences)(sums, weights, &fetched, shape->width);
        }
    }
}

/* How many of some pixels are computed at once: those whose signs have room, an even number or all or one. */
static uint32_t most_pixels(const smidgen_operation *o, uint32_t channels, uint32_t pixels) {
    const uint32_t room = SIGNS / channels;
    const uint32_t whole = beside(o) ? (room - o->kernel_width) / o->stride_width + 1 : room;
    const uint32_t even = whole > 1 ? whole & ~1u : 1, most = even < PIXELS ? even : PIXELS;
    return pixels < most ? pixels : most;
}

/* Units are blocks of outputs, and in each the rows. */
void smidgen_signs_convolution(const smidgen_network *n, const smidgen_operation *o, uint32_t from, uint32_t end) {
    const smidgen_value *in = &n->values[o->input], *out = &n->values[o->output];
    const smidgen_finish finish = smidgen_finish_of(out, o->low, o->high);
    for (uint32_t x = 0, pixels; x < out->width; x += pixels) {
        uint32_t across[PIXELS], first;
        pixels = most_pixels(o, in->channels, out->width - x);
        for (uint32_t p = 0; p < pixels; p++)
            across[p] = o->channels * places(x + p, o->stride_width, o->left, o->kernel_width, o->dilation_width, in->width,
                                             &first);
        for (uint32_t unit = from; unit < end; unit++) {
            const smidgen_block_of_signs *block = &o->sign_blocks[unit / out->height];
            const smidgen_signs_shape shape = smidgen_shape_of_signs(&n->kernels, o, in->channels, block->outputs);
            part p = {unit % out->height, x, (pixels + shape.pixels - 1) / shape.pixels, 0, 0};
            uint16_t sums[PIXELS * SMIDGEN_SIGNS_BLOCK];
            int32_t all[PIXELS];
            p.rows = places(p.y, o->stride_height, o->top, o->kernel_height, o->dilation_height, in->height, &p.top);
            for (uint32_t i = 0; i < pixels; i++)
                all[i] = (int32_t)(p.rows * across[i]);
            __builtin_memset(sums, 0, p.pixels * shape.width * sizeof *sums);
            add_differences(n, o, block, &shape, &p, sums);
            n->kernels.store_signs(smidgen_pixel(n, out, p.y, x) + block->first, out->pitch, sums, all, pixels,
                                   shape.width / shape.pixels, block, &finish);
        }
    }
}
