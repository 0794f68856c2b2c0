/* run: the operations of a network, one after the other; each can be cut into parts for several threads. */
#include "engine.h"

int smidgen_kernels_of(int way, smidgen_kernels *kernels) {
    switch (way) {
    case SMIDGEN_PORTABLE:
        return smidgen_portable_kernels(kernels);
    case SMIDGEN_VECTOR:
        return smidgen_vector_kernels(kernels);
    case SMIDGEN_AVX2:
        return smidgen_avx2_kernels(kernels);
    case SMIDGEN_AVX512_VNNI:
        return smidgen_avx512_vnni_kernels(kernels);
    default:
        return 0;
    }
}

int smidgen_can(int way) {
    smidgen_kernels kernels;
    return smidgen_kernels_of(way, &kernels) && smidgen_processor_can(way);
}

int smidgen_best_way(void) {
    for (int way = SMIDGEN_AVX512_VNNI; way > SMIDGEN_PORTABLE; way--)
        if (smidgen_can(way))
            return way;
    return SMIDGEN_PORTABLE;
}

static void fill(uint8_t *at, size_t pitch, uint32_t channels, size_t pixels, uint8_t value) {
    if (pitch == channels) {
        __builtin_memset(at, value, pitch * pixels);
        return;
    }
    for (; pixels; pixels--, at += pitch)
        __builtin_memset(at, value, channels);
}

/* Zeros around a tensor. */
static void fill_border(const smidgen_network *n, const smidgen_value *v) {
    const size_t wide = v->width + 2 * v->border, side = (size_t)v->border * v->pitch;
    uint8_t *first = n->arena + v->first, *row = n->arena + v->offset - side;
    if (!v->border)
        return;
    fill(first, v->pitch, v->channels, wide * v->border, (uint8_t)v->zero);
    for (uint32_t y = 0; y < v->height; y++, row += v->row) {
        fill(row, v->pitch, v->channels, v->border, (uint8_t)v->zero);
        fill(row + side + (size_t)v->width * v->pitch, v->pitch, v->channels, v->border, (uint8_t)v->zero);
    }
    fill(row, v->pitch, v->channels, wide * v->border, (uint8_t)v->zero);
}

/* Units are blocks of outputs, and in each the rows: neighbouring units share weights. */
static void convolution(const smidgen_network *n, const smidgen_operation *o, uint32_t unit, uint32_t end) {
    const smidgen_value *in = &n->values[o->input], *out = &n->values[o->output];
    const smidgen_finish finish = smidgen_finish_of(out, o->low, o->high);
    const uint32_t width = out->type ? 4 : 1;
    for (; unit < end; unit++) {
        const smidgen_block_of_outputs *block = &o->blocks[unit / out->height];
        const uint32_t y = unit % out->height;
        const uint8_t *from = smidgen_pixel(n, in, 0, 0) + ((ptrdiff_t)y * o->stride_height - o->top) * (ptrdiff_t)in->row -
                              (ptrdiff_t)o->left * (ptrdiff_t)in->pitch;
        n->kernels.convolve(block, from, (size_t)o->stride_width * in->pitch,
                             smidgen_pixel(n, out, y, 0) + block->first * width, out->pitch, out->width, &finish, (int)out->type);
    }
}

static void depthwise(const smidgen_network *n, const smidgen_operation *o, uint32_t y, uint32_t end) {
    const smidgen_value *in = &n->values[o->input], *out = &n->values[o->output];
    const smidgen_finish finish = smidgen_finish_of(out, o->low, o->high);
    for (; y < end; y++) {
        const uint8_t *from = smidgen_pixel(n, in, 0, 0) + ((ptrdiff_t)y * o->stride_height - o->top) * (ptrdiff_t)in->row -
                              (ptrdiff_t)o->left * (ptrdiff_t)in->pitch;
        n->kernels.depthwise(&o->depthwise, (uint32_t)o->kernel_height * o->kernel_width, from,
                              (size_t)o->stride_width * in->pitch, smidgen_pixel(n, out, y, 0), out->pitch, out->width,
                              out->channels, &finish);
    }
}

/* The pixels of a kernel that lie in the input, along one axis. */
static uint32_t window(uint32_t place, uint32_t stride, uint32_t before, uint32_t kernel, uint32_t size,
                       uint32_t *first) {
    const int64_t start = (int64_t)place * stride - before, stop = start + kernel;
    *first = start < 0 ? 0 : (uint32_t)start;
    return (uint32_t)(stop < (int64_t)size ? stop : (int64_t)size) - *first;
}

static void pool(const smidgen_network *n, const smidgen_operation *o, uint32_t y, uint32_t end) {
    const smidgen_value *in = &n->values[o->input], *out = &n->values[o->output];
    const smidgen_finish finish = smidgen_finish_of(out, 0, 255);
    uint32_t divided = 0; /* by so many pixels */
    float factor = 0;
    for (; y < end; y++)
        for (uint32_t x = 0; x < out->width; x++) {
            uint32_t top, left;
            const uint32_t height = window(y, o->stride_height, o->top, o->kernel_height, in->height, &top);
            const uint32_t width = window(x, o->stride_width, o->left, o->kernel_width, in->width, &left);
            const uint32_t all = o->padded ? (uint32_t)o->kernel_height * o->kernel_width : height * width;
            const uint8_t *from = smidgen_pixel(n, in, top, left);
            if (o->kind == SMIDGEN_MAXIMUM) {
                n->kernels.maximum(smidgen_pixel(n, out, y, x), from, in->row, in->pitch, height, width, out->channels);
                continue;
            }
            if (all != divided)
                factor = (float)(in->scale / ((double)all * out->scale));
            divided = all;
            n->kernels.average(smidgen_pixel(n, out, y, x), from, in->row, in->pitch, height, width, out->channels,
                                (int32_t)(height * width * in->zero), factor, &finish, 0);
        }
}

static void mean(const smidgen_network *n, const smidgen_operation *o) {
    const smidgen_value *in = &n->values[o->input], *out = &n->values[o->output];
    const smidgen_finish finish = smidgen_finish_of(out, 0, 255);
    n->kernels.average(smidgen_pixel(n, out, 0, 0), smidgen_pixel(n, in, 0, 0), in->row, in->pitch, in->height, in->width,
                        in->channels, (int32_t)(in->height * in->width * in->zero), o->factors[0], &finish,
                        (int)out->type);
}

/* Whether the pixels of a row follow one another without gaps, so that they can be taken for one. */
static int dense(const smidgen_value *v) {
    return v->pitch == v->channels;
}

static void pair(const smidgen_network *n, const smidgen_operation *o, uint32_t y, uint32_t end) {
    const smidgen_value *one = &n->values[o->input], *other = &n->values[o->other], *out = &n->values[o->output];
    const smidgen_finish finish = smidgen_finish_of(out, o->low, o->high);
    const int32_t zeros[2] = {(int32_t)one->zero, (int32_t)other->zero};
    const int single = other->height == 1 && other->width == 1;
    const uint32_t pixels = !single && dense(one) && dense(other) && dense(out) ? out->width : 1;
    const uint32_t count = pixels * out->channels;
    for (; y < end; y++)
        for (uint32_t x = 0; x < out->width; x += pixels) {
            const uint8_t *a = smidgen_pixel(n, one, y, x), *b = single ? smidgen_pixel(n, other, 0, 0) : smidgen_pixel(n, other, y, x);
            if (o->kind == SMIDGEN_SUM)
                n->kernels.sum(smidgen_pixel(n, out, y, x), a, b, count, zeros, o->factors, &finish);
            else
                n->kernels.product(smidgen_pixel(n, out, y, x), a, b, count, zeros, o->factors[0], &finish);
        }
}

static void lookup(const smidgen_network *n, const smidgen_operation *o, uint32_t y, uint32_t end) {
    const smidgen_value *in = &n->values[o->input], *out = &n->values[o->output];
    const uint32_t pixels = dense(in) && dense(out) ? out->width : 1;
    for (; y < end; y++)
        for (uint32_t x = 0; x < out->width; x += pixels)
            n->kernels.lookup(smidgen_pixel(n, out, y, x), smidgen_pixel(n, in, y, x), pixels * out->channels, o->body);
}

static uint32_t number(const uint8_t *bytes, int count) {
    uint32_t value = 0;
    for (int i = 0; i < count; i++)
        value |= (uint32_t)bytes[i] << 8 * i;
    return value;
}

static void move(const smidgen_network *n, const smidgen_operation *o) {
    const uint32_t axes = o->body[0];
    const uint8_t *from = smidgen_pixel(n, &n->values[o->input], 0, 0);
    uint8_t *to = smidgen_pixel(n, &n->values[o->output], 0, 0);
    uint32_t size[6], at[6] = {0};
    ptrdiff_t steps[2][6];
    for (uint32_t axis = 0; axis < axes; axis++) {
        size[axis] = number(o->body + 1 + 10 * axis, 2);
        steps[0][axis] = (int32_t)number(o->body + 3 + 10 * axis, 4);
        steps[1][axis] = (int32_t)number(o->body + 7 + 10 * axis, 4);
    }
    for (uint32_t axis = axes;;) {
        *to = *from;
        for (axis = axes; axis-- > 0;) { /* the last index first, as in an odometer */
            from += steps[0][axis];
            to += steps[1][axis];
            if (++at[axis] < size[axis])
                break;
            from -= steps[0][axis] * (ptrdiff_t)size[axis];
            to -= steps[1][axis] * (ptrdiff_t)size[axis];
            at[axis] = 0;
        }
        if (axis == UINT32_MAX)
            return;
    }
}

static void resize(const smidgen_network *n, const smidgen_operation *o, uint32_t y, uint32_t end) {
    const smidgen_value *in = &n->values[o->input], *out = &n->values[o->output];
    for (; y < end; y++) {
        const uint32_t top = number(o->body + 3 * y, 2), f = o->body[3 * y + 2];
        const uint32_t bottom = top + 1 < in->height ? top + 1 : top;
        for (uint32_t x = 0; x < out->width; x++) {
            const uint8_t *column = o->body + 3 * ((size_t)out->height + x);
            const uint32_t left = number(column, 2), g = column[2], right = left + 1 < in->width ? left + 1 : left;
            const uint8_t *a = smidgen_pixel(n, in, top, left), *b = smidgen_pixel(n, in, top, right);
            const uint8_t *c = smidgen_pixel(n, in, bottom, left), *d = smidgen_pixel(n, in, bottom, right);
            uint8_t *to = smidgen_pixel(n, out, y, x);
            for (uint32_t i = 0; i < out->channels; i++)
                to[i] = (uint8_t)(((256 - f) * ((256 - g) * a[i] + g * b[i]) + f * ((256 - g) * c[i] + g * d[i]) +
                                   32768) >> 16);
        }
    }
}

static void signs(const smidgen_network *n, const smidgen_operation *o, uint32_t y, uint32_t end) {
    const smidgen_value *in = &n->values[o->input], *out = &n->values[o->output];
    const uint32_t pixels = in->channels % 4 == 0 && dense(in) && dense(out) ? in->width : 1;
    for (; y < end; y++)
        for (uint32_t x = 0; x < out->width; x += pixels)
            n->kernels.signs(smidgen_pixel(n, out, y, x), smidgen_pixel(n, in, y, x), pixels * in->channels, in->zero);
}

void smidgen_run_operation(smidgen_network *n, const smidgen_operation *o, uint32_t part, uint32_t parts) {
    const uint32_t start = (uint32_t)((uint64_t)o->units * part / parts);
    const uint32_t end = (uint32_t)((uint64_t)o->units * (part + 1) / parts);
    if (part == 0)
        fill_border(n, &n->values[o->output]);
    if (start == end)
        return;
    switch (o->kind) {
    case SMIDGEN_CONVOLUTION:
        if (o->blocks)
            convolution(n, o, start, end);
        else
            depthwise(n, o, start, end);
        break;
    case SMIDGEN_MAXIMUM:
    case SMIDGEN_AVERAGE:
        pool(n, o, start, end);
        break;
    case SMIDGEN_MEAN:
        mean(n, o);
        break;
    case SMIDGEN_SUM:
    case SMIDGEN_PRODUCT:
        pair(n, o, start, end);
        break;
    case SMIDGEN_LOOKUP:
        lookup(n, o, start, end);
        break;
    case SMIDGEN_MOVE:
        move(n, o);
        break;
    case SMIDGEN_SIGNS:
        signs(n, o, start, end);
        break;
    case SMIDGEN_SIGNS_CONVOLUTION:
        smidgen_signs_convolution(n, o, start, end);
        break;
    default:
        resize(n, o, start, end);
    }
}

static void run(smidgen_network *n, smidgen_team *team, float *output) {
    const smidgen_value *out = &n->values[n->output];
    size_t made = 0;
    if (team)
        smidgen_team_run(team, n);
    else
        for (uint32_t i = 0; i < n->operation_count; i++)
            smidgen_run_operation(n, &n->operations[i], 0, 1);
    if (out->type) {
        smidgen_copy(output, smidgen_pixel(n, out, 0, 0), out->channels * sizeof(float));
        made = out->channels;
    }
    for (uint32_t c = 0; c < out->channels && !out->type; c++)
        for (uint32_t y = 0; y < out->height; y++)
            for (uint32_t x = 0; x < out->width; x++)
                output[made++] = (float)((int32_t)smidgen_pixel(n, out, y, x)[c] - (int32_t)out->zero) * out->scale;
    if (n->finish)
        smidgen_softmax(output, (uint32_t)made);
}

void smidgen_run(smidgen_network *n, smidgen_team *team, const float *input, float *output) {
    const smidgen_value *in = &n->values[0];
    const smidgen_finish finish = smidgen_finish_of(in, 0, 255);
    fill_border(n, in);
    for (uint32_t y = 0; y < in->height; y++)
        for (uint32_t c = 0; c < in->channels; c++)
            n->kernels.quantize(smidgen_pixel(n, in, y, 0) + c, input + ((size_t)c * in->height + y) * in->width, in->pitch,
                                 in->width, n->input_factor, &finish);
    run(n, team, output);
}

int smidgen_run_picture(smidgen_network *n, smidgen_team *team, const uint8_t *pixels, float *output) {
    const smidgen_value *in = &n->values[0];
    if (!n->picture)
        return SMIDGEN_USAGE;
    fill_border(n, in);
    for (uint32_t y = 0; y < in->height; y++)
        for (uint32_t x = 0; x < in->width; x++, pixels += 3)
            for (int c = 0; c < 3; c++)
                smidgen_pixel(n, in, y, x)[c] = n->pixels[c][pixels[n->blue_first ? 2 - c : c]];
    run(n, team, output);
    return 0;
}
