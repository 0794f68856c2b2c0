/* program: the section that says what a network computes, read and checked as docs/format.md lays down.
 *
 * After this, whatever an operation reads or writes lies in the arena; only weights are still unknown. */
#include "engine.h"

#define MAX_ARENA ((uint64_t)1 << 30)
#define MAX_PRODUCTS ((uint64_t)1 << 38)

enum { MAX_COUNT = 4096, NO_RECORD = 65535, MAX_AXES = 6, MAX_SIDE = 16384 };

typedef struct {
    const uint8_t *data;
    size_t position, size;
    int failed;
} cursor;

static uint32_t take(cursor *c, uint32_t bytes) {
    uint32_t value = 0;
    if (c->size - c->position < bytes) {
        c->failed = 1;
        return 0;
    }
    for (uint32_t i = 0; i < bytes; i++)
        value |= (uint32_t)c->data[c->position++] << 8 * i;
    return value;
}

static float take_float(cursor *c) {
    const uint32_t bits = take(c, 4);
    float value;
    smidgen_copy(&value, &bits, 4);
    if ((bits >> 23 & 255) == 255) /* infinite, or no number */
        c->failed = 1;
    return value;
}

void *smidgen_take(smidgen_space *space, uint64_t bytes, size_t alignment) {
    const size_t start = (space->used + alignment - 1) & ~(alignment - 1);
    if (start < space->used || space->size < start || space->size - start < bytes) {
        space->failed = 1;
        return 0;
    }
    space->used = start + (size_t)bytes;
    if (space->most < space->used)
        space->most = space->used;
    return space->start + start;
}

static void take_value(cursor *c, smidgen_value *v, uint64_t arena) {
    uint64_t row, before, size;
    v->type = take(c, 1);
    v->offset = take(c, 4);
    v->height = take(c, 2);
    v->width = take(c, 2);
    v->channels = take(c, 2);
    v->pitch = take(c, 2);
    v->border = take(c, 1);
    v->zero = take(c, 1);
    v->scale = take_float(c);
    v->written = 0;
    if (v->type > 1 || !v->height || !v->width || !v->channels || v->scale <= 0)
        c->failed = 1;
    if (v->pitch < v->channels * (v->type ? 4 : 1))
        c->failed = 1;
    if (v->type && (v->height != 1 || v->width != 1 || v->border || v->zero || v->scale != 1 || v->offset % 4))
        c->failed = 1;
    row = (uint64_t)(v->width + 2 * v->border) * v->pitch; /* below 2^33 */
    before = v->border * (row + v->pitch);
    size = row * (v->height + 2 * v->border) - v->pitch + (uint64_t)v->channels * (v->type ? 4 : 1);
    if (v->offset < before || v->offset - before > arena || size > arena - (v->offset - before))
        c->failed = 1;
    v->row = (uint32_t)row;
    v->first = (uint32_t)(v->offset - before);
    v->last = (uint32_t)(v->offset - before + size);
}

static int same_places(const smidgen_value *a, const smidgen_value *b) {
    return a->height == b->height && a->width == b->width && a->border == b->border && a->pitch == b->pitch;
}

static int same_scale(const smidgen_value *a, const smidgen_value *b) {
    return a->scale == b->scale && a->zero == b->zero;
}

/* Whether what is written leaves alone what is read: other bytes, or other channels of the same pixels. */
static int apart(const smidgen_value *a, const smidgen_value *b) {
    if (a->last <= b->first || b->last <= a->first)
        return 1;
    if (!same_places(a, b) || a->type || b->type)
        return 0;
    if (a->offset < b->offset)
        return b->offset - a->offset >= a->channels && b->offset - a->offset + b->channels <= a->pitch;
    return a->offset - b->offset >= b->channels && a->offset - b->offset + a->channels <= a->pitch;
}

typedef struct {
    cursor c;
    smidgen_network *network;
    uint64_t products;
} reader;

static smidgen_value *read_value(reader *r, uint32_t number) {
    smidgen_value *value;
    if (number >= r->network->value_count) {
        r->c.failed = 1;
        return r->network->values;
    }
    value = &r->network->values[number];
    if (!value->written || value->type)
        r->c.failed = 1; /* nothing reads numbers: they are the end */
    return value;
}

static smidgen_value *write_value(reader *r, uint32_t number) {
    smidgen_value *value;
    if (number >= r->network->value_count) {
        r->c.failed = 1;
        return r->network->values;
    }
    value = &r->network->values[number];
    if (value->written || (value->type && number != r->network->output))
        r->c.failed = 1;
    return value;
}

/* Counts what an operation computes, and bounds what all of them do. */
static void count(reader *r, const smidgen_value *out, uint64_t each) {
    const uint64_t pixels = (uint64_t)out->height * out->width; /* at most 2^32 */
    if (each > MAX_PRODUCTS || pixels > MAX_PRODUCTS / (each ? each : 1) ||
        (r->products += pixels * each) > MAX_PRODUCTS)
        r->c.failed = 1;
}

static void take_window(reader *r, smidgen_operation *o) {
    o->kernel_height = (uint8_t)take(&r->c, 1);
    o->kernel_width = (uint8_t)take(&r->c, 1);
    o->stride_height = (uint8_t)take(&r->c, 1);
    o->stride_width = (uint8_t)take(&r->c, 1);
    if (!o->kernel_height || !o->kernel_width || !o->stride_height || !o->stride_width)
        r->c.failed = 1;
}

/* Whether all that a kernel reads along one axis lies in the input and its border. */
static int covers(uint32_t size, uint32_t border, uint32_t out, uint32_t kernel, uint32_t stride, uint32_t dilation,
                  uint32_t before) {
    const uint64_t last = (uint64_t)(out - 1) * stride + (uint64_t)(kernel - 1) * dilation;
    return before <= border && last <= (uint64_t)size + border - 1 + before;
}

static void take_convolution(reader *r, smidgen_operation *o, const smidgen_value *in, const smidgen_value *out) {
    o->weight = (uint16_t)take(&r->c, 2);
    o->bias = (uint16_t)take(&r->c, 2);
    take_window(r, o);
    o->dilation_height = (uint8_t)take(&r->c, 1);
    o->dilation_width = (uint8_t)take(&r->c, 1);
    o->top = (uint8_t)take(&r->c, 1);
    o->left = (uint8_t)take(&r->c, 1);
    o->groups = (uint16_t)take(&r->c, 2);
    o->low = (uint8_t)take(&r->c, 1);
    o->high = (uint8_t)take(&r->c, 1);
    o->more = (uint16_t)take(&r->c, 2);
    if (!o->dilation_height || !o->dilation_width || !o->groups || o->low > o->high ||
        (out->type && (o->low != 0 || o->high != 255)) || o->weight == NO_RECORD)
        r->c.failed = 1;
    if (r->c.failed)
        return;
    if (in->channels % o->groups || out->channels % o->groups ||
        !covers(in->height, in->border, out->height, o->kernel_height, o->stride_height, o->dilation_height, o->top) ||
        !covers(in->width, in->border, out->width, o->kernel_width, o->stride_width, o->dilation_width, o->left))
        r->c.failed = 1;
    count(r, out, (uint64_t)out->channels * (in->channels / o->groups) * o->kernel_height * o->kernel_width);
}

static void take_signs(reader *r, const smidgen_value *in, const smidgen_value *out) {
    if (out->type || out->channels != (in->channels + 3) / 4 || out->height != in->height || out->width != in->width ||
        out->scale != 1 || out->zero != 0)
        r->c.failed = 1;
    count(r, out, in->channels);
}

static void take_signs_convolution(reader *r, smidgen_operation *o, const smidgen_value *in, const smidgen_value *out) {
    o->weight = (uint16_t)take(&r->c, 2);
    o->bias = (uint16_t)take(&r->c, 2);
    o->channels = (uint16_t)take(&r->c, 2);
    o->more = NO_RECORD;
    o->groups = 1;
    take_window(r, o);
    o->dilation_height = (uint8_t)take(&r->c, 1);
    o->dilation_width = (uint8_t)take(&r->c, 1);
    o->top = (uint8_t)take(&r->c, 1);
    o->left = (uint8_t)take(&r->c, 1);
    o->low = (uint8_t)take(&r->c, 1);
    o->high = (uint8_t)take(&r->c, 1);
    if (!o->dilation_height || !o->dilation_width || o->low > o->high || out->type || o->weight == NO_RECORD ||
        !o->channels || in->channels != (o->channels + 3u) / 4 || in->scale != 1 || in->zero != 0 ||
        4ull * in->channels * o->kernel_height * o->kernel_width > UINT16_MAX)
        r->c.failed = 1;
    count(r, out, (uint64_t)out->channels * o->channels * o->kernel_height * o->kernel_width);
}

/* Whether every place of the output has a pixel of the input under its kernel. */
static int meets(uint32_t size, uint32_t out, uint32_t kernel, uint32_t stride, uint32_t before) {
    return before < kernel && (uint64_t)(out - 1) * stride < (uint64_t)size + before;
}

static void take_pool(reader *r, smidgen_operation *o, const smidgen_value *in, const smidgen_value *out) {
    take_window(r, o);
    o->top = (uint8_t)take(&r->c, 1);
    o->left = (uint8_t)take(&r->c, 1);
    if (o->kind == SMIDGEN_AVERAGE)
        o->padded = (uint8_t)take(&r->c, 1);
    if (r->c.failed || o->padded > 1 || out->type || in->channels != out->channels ||
        !meets(in->height, out->height, o->kernel_height, o->stride_height, o->top) ||
        !meets(in->width, out->width, o->kernel_width, o->stride_width, o->left) ||
        (o->kind == SMIDGEN_MAXIMUM && !same_scale(in, out)))
        r->c.failed = 1;
    count(r, out, (uint64_t)out->channels * o->kernel_height * o->kernel_width);
}

static void take_join(reader *r, smidgen_operation *o, const smidgen_value *out) {
    uint64_t channels = 0;
    const uint32_t parts = take(&r->c, 1);
    if (!parts || out->type)
        r->c.failed = 1;
    for (uint32_t i = 0; i < parts && !r->c.failed; i++) {
        const smidgen_value *part = read_value(r, take(&r->c, 2));
        if (!same_places(part, out) || !same_scale(part, out) || part->offset != out->offset + channels)
            r->c.failed = 1;
        channels += part->channels;
    }
    if (channels != out->channels)
        r->c.failed = 1;
    o->units = 0;
}

static void take_pair(reader *r, smidgen_operation *o, const smidgen_value *one, const smidgen_value *out) {
    const smidgen_value *other = read_value(r, o->other);
    const int single = other->height == 1 && other->width == 1;
    o->low = (uint8_t)take(&r->c, 1);
    o->high = (uint8_t)take(&r->c, 1);
    if (out->type || o->low > o->high || one->channels != out->channels || other->channels != out->channels ||
        one->height != out->height || one->width != out->width ||
        (!single && (other->height != out->height || other->width != out->width)) || !apart(out, other))
        r->c.failed = 1;
    count(r, out, out->channels);
}

static const uint8_t *take_body(reader *r, size_t bytes) {
    const uint8_t *body = r->c.data + r->c.position;
    if (r->c.size - r->c.position < bytes) {
        r->c.failed = 1;
        return body;
    }
    r->c.position += bytes;
    return body;
}

/* How far the steps of a move lead in one of its tensors: rows, pixels and channels of all its axes together. */
typedef struct {
    uint64_t rows, pixels, channels;
    uint64_t size[MAX_AXES], step[MAX_AXES];
} path;

/* An axis: a step goes so many rows, then pixels, then channels. What has one element goes nowhere. */
static void take_steps(reader *r, path *p, uint32_t axis, uint32_t size, const smidgen_value *value) {
    const uint32_t step = take(&r->c, 4);
    p->size[axis] = size;
    p->step[axis] = size > 1 ? step : 0;
    if (size < 2)
        return;
    if (step > INT32_MAX) /* tensors begin where moves do */
        r->c.failed = 1;
    p->rows += (uint64_t)(step / value->row) * (size - 1);
    p->pixels += (uint64_t)(step % value->row / value->pitch) * (size - 1);
    p->channels += (uint64_t)(step % value->row % value->pitch) * (size - 1);
}

static int stays(const path *p, const smidgen_value *value) {
    return p->rows < value->height && p->pixels < value->width && p->channels < value->channels;
}

/* Whether no two elements meet: each step is longer than all smaller ones reach together. */
static int scatters(const path *p, uint32_t axes) {
    for (uint32_t i = 0; i < axes; i++) {
        uint64_t reach = 0;
        for (uint32_t j = 0; j < axes; j++)
            if (j != i && p->step[j] <= p->step[i])
                reach += p->step[j] * (p->size[j] - 1);
        if (p->size[i] > 1 && reach >= p->step[i])
            return 0;
    }
    return 1;
}

static void take_move(reader *r, smidgen_operation *o, const smidgen_value *in, const smidgen_value *out) {
    static const path nowhere;
    path from = nowhere, to = nowhere;
    uint64_t total = 1;
    const uint32_t axes = take(&r->c, 1);
    o->body = r->c.data + r->c.position - 1;
    if (!axes || axes > MAX_AXES || out->type || !same_scale(in, out))
        r->c.failed = 1;
    for (uint32_t axis = 0; axis < axes && !r->c.failed; axis++) {
        const uint32_t size = take(&r->c, 2);
        total *= size;
        if (!size || total > MAX_ARENA)
            r->c.failed = 1;
        take_steps(r, &from, axis, size, in);
        take_steps(r, &to, axis, size, out);
    }
    if (r->c.failed || total != (uint64_t)out->height * out->width * out->channels || !stays(&from, in) ||
        !stays(&to, out) || !scatters(&to, axes))
        r->c.failed = 1;
    count(r, out, out->channels);
    o->units = 1;
}

static void take_resize(reader *r, smidgen_operation *o, const smidgen_value *in, const smidgen_value *out) {
    o->body = take_body(r, 3 * ((size_t)out->height + out->width));
    if (r->c.failed || out->type || !same_scale(in, out) || in->channels != out->channels) {
        r->c.failed = 1;
        return;
    }
    for (uint32_t i = 0; i < out->height + out->width; i++)
        if ((uint32_t)(o->body[3 * i] | o->body[3 * i + 1] << 8) >= (i < out->height ? in->height : in->width))
            r->c.failed = 1;
    count(r, out, 4 * (uint64_t)out->channels);
}

static void take_mean(reader *r, const smidgen_value *in, const smidgen_value *out) {
    if (out->height != 1 || out->width != 1 || in->channels != out->channels ||
        (uint64_t)in->height * in->width > 1 << 23)
        r->c.failed = 1;
    count(r, out, (uint64_t)in->height * in->width * in->channels);
}

static void take_lookup(reader *r, smidgen_operation *o, const smidgen_value *in, const smidgen_value *out) {
    o->body = take_body(r, 256);
    if (out->type || in->channels != out->channels || in->height != out->height || in->width != out->width)
        r->c.failed = 1;
    count(r, out, out->channels);
}

static void take_operation(reader *r, smidgen_operation *o) {
    static const smidgen_operation empty;
    smidgen_value *in, *out;
    *o = empty;
    o->high = 255;
    o->kind = (uint8_t)take(&r->c, 1);
    if (o->kind > SMIDGEN_SIGNS_CONVOLUTION) {
        r->c.failed = 1;
        return;
    }
    if (o->kind != SMIDGEN_JOIN)
        o->input = (uint16_t)take(&r->c, 2);
    if (o->kind == SMIDGEN_SUM || o->kind == SMIDGEN_PRODUCT)
        o->other = (uint16_t)take(&r->c, 2);
    o->output = (uint16_t)take(&r->c, 2);
    out = write_value(r, o->output);
    in = o->kind == SMIDGEN_JOIN ? out : read_value(r, o->input);
    if (r->c.failed || (o->kind != SMIDGEN_JOIN && !apart(out, in))) {
        r->c.failed = 1;
        return;
    }
    o->units = out->height;
    switch (o->kind) {
    case SMIDGEN_CONVOLUTION:
        take_convolution(r, o, in, out);
        break;
    case SMIDGEN_MAXIMUM:
    case SMIDGEN_AVERAGE:
        take_pool(r, o, in, out);
        break;
    case SMIDGEN_MEAN:
        take_mean(r, in, out);
        break;
    case SMIDGEN_JOIN:
        take_join(r, o, out);
        break;
    case SMIDGEN_SUM:
    case SMIDGEN_PRODUCT:
        take_pair(r, o, in, out);
        break;
    case SMIDGEN_LOOKUP:
        take_lookup(r, o, in, out);
        break;
    case SMIDGEN_MOVE:
        take_move(r, o, in, out);
        break;
    case SMIDGEN_SIGNS:
        take_signs(r, in, out);
        break;
    case SMIDGEN_SIGNS_CONVOLUTION:
        take_signs_convolution(r, o, in, out);
        break;
    default:
        take_resize(r, o, in, out);
    }
    out->written = 1;
}

static void take_picture(cursor *c, smidgen_network *n) {
    n->picture = take(c, 1);
    if (n->picture > 1)
        c->failed = 1;
    if (n->picture != 1)
        return;
    n->blue_first = take(c, 1);
    n->bicubic = take(c, 1);
    for (int i = 0; i < 3; i++)
        n->mean[i] = take_float(c);
    for (int i = 0; i < 3; i++) {
        n->std[i] = take_float(c);
        if (n->std[i] == 0)
            c->failed = 1;
    }
    if (n->blue_first > 1 || n->bicubic > 1)
        c->failed = 1;
}

int smidgen_read_program(const uint8_t *program, size_t size, smidgen_network *n, smidgen_space *memory) {
    reader r = {{program, 0, size, 0}, n, 0};
    n->finish = take(&r.c, 1);
    n->value_count = take(&r.c, 2);
    n->operation_count = take(&r.c, 2);
    n->output = take(&r.c, 2);
    n->arena_size = take(&r.c, 4);
    take_picture(&r.c, n);
    if (r.c.failed || n->finish > 1 || !n->value_count || n->value_count > MAX_COUNT || !n->operation_count ||
        n->operation_count > MAX_COUNT || n->output >= n->value_count || n->arena_size > MAX_ARENA)
        return SMIDGEN_BAD_PROGRAM;
    n->values = smidgen_take(memory, n->value_count * sizeof(smidgen_value), 64);
    n->operations = smidgen_take(memory, n->operation_count * sizeof(smidgen_operation), 64);
    if (memory->failed)
        return SMIDGEN_SPACE;
    for (uint32_t i = 0; i < n->value_count; i++)
        take_value(&r.c, &n->values[i], n->arena_size);
    if (r.c.failed || n->values[0].type ||
        (n->picture && (n->values[0].channels != 3 || n->values[0].height > MAX_SIDE || n->values[0].width > MAX_SIDE)))
        return SMIDGEN_BAD_PROGRAM;
    n->values[0].written = 1;
    for (uint32_t i = 0; i < n->operation_count && !r.c.failed; i++)
        take_operation(&r, &n->operations[i]);
    if (r.c.failed || r.c.position != size || !n->values[n->output].written)
        return SMIDGEN_BAD_PROGRAM;
    return 0;
}
