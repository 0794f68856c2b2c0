/* weights: the records of a file as what a convolution multiplies with: whole numbers, and a scale for each output. */
#include "load.h"

enum { NO_AXIS = 255 };

#define MAX_BIAS 1073741824.0 /* 2^30 */
#define ALONE 16777216.0      /* 2^24: a bias whose weights are 0 */

static double nearest(double x) { /* of |x| < 2^51 */
    return x + 6755399441055744.0 - 6755399441055744.0;
}

static int decode_block(loader *l, const smidgen_tensor *t, uint32_t block, uint8_t *out) {
    const smidgen_plane plane = smidgen_block(t, block);
    const size_t before = l->work.used;
    void *scratch = smidgen_take(&l->work, smidgen_scratch((int)t->codec[block], &plane), 64);
    if (!scratch)
        return SMIDGEN_SPACE;
    l->work.used = before;
    return smidgen_decode((int)t->codec[block], &plane, l->payload + t->offset[block], (size_t)t->stored[block], out,
                          scratch);
}

/* `bytes` planes from `block` on, the lowest first, as numbers of so many bytes. */
static int decode_numbers(loader *l, const smidgen_tensor *t, uint32_t block, uint32_t bytes, size_t count, void *out) {
    const size_t before = l->work.used;
    uint8_t *plane = smidgen_take(&l->work, count, 1), *all = out;
    if (!plane)
        return SMIDGEN_SPACE;
    for (uint32_t b = 0; b < bytes; b++) {
        const int status = decode_block(l, t, block + b, plane);
        if (status)
            return status;
        for (size_t i = 0; i < count; i++) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
            all[i * bytes + bytes - 1 - b] = plane[i];
#else
            all[i * bytes + b] = plane[i];
#endif
        }
    }
    l->work.used = before;
    return 0;
}

/* The numbers that the symbols of a code stand for, and its rule's parameters. */
typedef struct {
    int16_t *integers;
    float *values;   /* rows x columns of the rule */
    int16_t *zeros;  /* the same; 0 for none */
} code;

static int decode_code(loader *l, const smidgen_tensor *t, code *c) {
    const uint64_t count = t->elements, parameters = (uint64_t)t->rows * t->columns;
    const int trellis = t->rule == SMIDGEN_TRELLIS || t->rule == SMIDGEN_TRELLIS64;
    uint8_t *symbols;
    size_t before;
    int status;
    c->integers = smidgen_take(&l->work, count * sizeof(int16_t), 64);
    c->values = smidgen_take(&l->work, parameters * sizeof(float), 64);
    c->zeros = t->blocks > 5 ? smidgen_take(&l->work, parameters * sizeof(int16_t), 64) : 0;
    if (l->work.failed)
        return SMIDGEN_SPACE;
    before = l->work.used;
    symbols = smidgen_take(&l->work, count, 64);
    if (!symbols)
        return SMIDGEN_SPACE;
    status = decode_block(l, t, 0, symbols);
    for (size_t i = 0; i < count && !status; i++)
        c->integers[i] = (int16_t)(t->first + t->step * symbols[i]);
    if (!status && trellis) {
        const uint32_t columns = (uint32_t)(count / t->shape[0]);
        uint8_t *states = smidgen_take(&l->work, columns, 64); /* the symbols' place is free for the grids */
        if (!states)
            return SMIDGEN_SPACE;
        smidgen_trellis_levels(t->rule == SMIDGEN_TRELLIS ? 8 : 64, t->shape[0], columns, c->integers, c->integers,
                               symbols, states);
    }
    l->work.used = before;
    if (!status)
        status = decode_numbers(l, t, 1, 4, (size_t)parameters, c->values);
    if (!status && c->zeros)
        status = decode_numbers(l, t, 5, 2, (size_t)parameters, c->zeros);
    if (!status && trellis && (c->values[0] <= 0 || !is_finite(c->values[0])))
        status = SMIDGEN_BAD_TENSOR;
    return status;
}

/* Value i of a code, by its rule. */
static float value_of(const smidgen_tensor *t, const code *c, size_t i) {
    size_t row = 0, inner = (size_t)t->elements, place = i;
    if (t->axis != NO_AXIS) { /* the axis to the front */
        size_t after = 1, outer;
        for (uint32_t axis = t->axis + 1; axis < t->rank; axis++)
            after *= t->shape[axis];
        outer = i / (after * t->shape[t->axis]);
        row = i / after % t->shape[t->axis];
        inner = (size_t)t->elements / t->shape[t->axis];
        place = outer * after + i % after;
    }
    if (t->rule == SMIDGEN_TABLE)
        return c->values[row * t->columns + (size_t)c->integers[i]];
    if (t->rule == SMIDGEN_AFFINE) {
        const size_t run = (inner + t->columns - 1) / t->columns, at = row * t->columns + place / run;
        return ((float)c->integers[i] - (float)(c->zeros ? c->zeros[at] : 0)) * c->values[at];
    }
    return (float)c->integers[i] * c->values[0];
}

/* All values of a record, as floats. */
static int decode_values(loader *l, const smidgen_tensor *t, float **out) {
    const size_t count = (size_t)t->elements;
    code c;
    int status;
    *out = smidgen_take(&l->work, t->elements * sizeof(float), 64);
    if (!*out)
        return SMIDGEN_SPACE;
    if (t->rule == SMIDGEN_ARRAY)
        return t->type == 1 ? decode_numbers(l, t, 0, 4, count, *out) : SMIDGEN_BAD_PROGRAM;
    status = decode_code(l, t, &c);
    for (size_t i = 0; i < count && !status; i++)
        (*out)[i] = value_of(t, &c, i);
    return status;
}

/* Integers and a scale for each row of floats: as many levels as 8 bits have, alike on both sides of zero. */
static int round_rows(const float *values, uint32_t rows, size_t row, int16_t *integers, float *scales) {
    for (uint32_t r = 0; r < rows; r++) {
        float most = 0;
        for (size_t i = r * row; i < (r + 1) * row; i++) {
            const float size = values[i] < 0 ? -values[i] : values[i];
            if (!is_finite(size))
                return SMIDGEN_BAD_PROGRAM;
            most = size > most ? size : most;
        }
        scales[r] = most / 127.0f;
        if (scales[r] == 0)
            scales[r] = 1;
        for (size_t i = r * row; i < (r + 1) * row; i++)
            integers[i] = (int16_t)smidgen_nearest(smidgen_clamp(values[i] / scales[r], -127.0f, 127.0f));
    }
    return 0;
}

/* The sum of two records' values. */
static int decode_sum(loader *l, const smidgen_tensor *t, const smidgen_tensor *more, float **out) {
    float *others;
    int status = decode_values(l, t, out);
    if (status || !more)
        return status;
    status = decode_values(l, more, &others);
    for (size_t i = 0; i < (size_t)t->elements && !status; i++)
        (*out)[i] += others[i];
    return status;
}

/* A convolution's weights as integers and scales of its rows. */
static int decode_rows(loader *l, const smidgen_tensor *t, const smidgen_tensor *more, uint32_t rows,
                       int16_t **integers, float **scales) {
    const size_t row = (size_t)t->elements / rows;
    const int plain = !more && (t->rule == SMIDGEN_TRELLIS || t->rule == SMIDGEN_TRELLIS64 ||
                                (t->rule == SMIDGEN_AFFINE && t->columns == 1 && (t->axis == NO_AXIS || t->axis == 0)));
    *scales = smidgen_take(&l->work, rows * sizeof(float), 64);
    if (!*scales)
        return SMIDGEN_SPACE;
    if (plain) {
        code c;
        const int status = decode_code(l, t, &c);
        if (status)
            return status;
        for (uint32_t r = 0; r < rows; r++) {
            const uint32_t at = t->axis == 0 ? r : 0;
            const int32_t zero = c.zeros ? c.zeros[at] : 0;
            (*scales)[r] = c.values[at];
            for (size_t i = r * row; i < (r + 1) * row; i++) {
                const int32_t moved = c.integers[i] - zero;
                if (moved < -32767 || moved > 32767)
                    return SMIDGEN_BAD_PROGRAM;
                c.integers[i] = (int16_t)moved;
            }
        }
        *integers = c.integers;
        return 0;
    } else {
        int16_t *rounded = smidgen_take(&l->work, t->elements * sizeof(int16_t), 64);
        float *values;
        const int status = rounded ? decode_sum(l, t, more, &values) : SMIDGEN_SPACE;
        *integers = rounded;
        return status ? status : round_rows(values, rows, row, rounded, *scales);
    }
}

/* Biases as integers, with what the input's zero adds to each sum; and scales as factors. */
static int settle_rows(loader *l, const smidgen_operation *o, const kernel *k) {
    const smidgen_value *in = &l->network->values[o->input], *out = &l->network->values[o->output];
    float *given = 0;
    if (o->bias != NO_RECORD) {
        int status;
        if (o->bias >= l->record_count || l->records[o->bias].elements != out->channels)
            return SMIDGEN_BAD_PROGRAM;
        status = decode_values(l, &l->records[o->bias], &given);
        if (status)
            return status;
    }
    for (uint32_t r = 0; r < out->channels; r++) {
        double scale = (double)in->scale * k->scales[r], x = 0;
        int64_t sum = 0, size = 0, most;
        for (size_t i = (size_t)r * k->row; i < (size_t)(r + 1) * k->row; i++) {
            sum += k->integers[i];
            size += k->integers[i] < 0 ? -k->integers[i] : k->integers[i];
        }
        if (!is_finite(k->scales[r]) || (given && !is_finite(given[r])))
            return SMIDGEN_BAD_PROGRAM;
        if (given && given[r] != 0)
            x = given[r] / scale;
        if (x != 0 && (size == 0 || x > MAX_BIAS || x < -MAX_BIAS)) { /* weights that are nothing beside their bias */
            sum = size = 0;
            for (size_t i = (size_t)r * k->row; i < (size_t)(r + 1) * k->row; i++)
                k->integers[i] = 0;
            x = x < 0 ? -ALONE : ALONE;
            scale = given[r] / x;
        }
        x = nearest(x);
        most = 255 * size + (x < 0 ? (int64_t)-x : (int64_t)x) + 255 * (sum < 0 ? -sum : sum);
        if (most > INT32_MAX)
            return SMIDGEN_BAD_PROGRAM;
        k->bias[r] = (int32_t)((int64_t)x - (int64_t)in->zero * sum);
        k->scales[r] = (float)(out->type ? scale : scale / out->scale);
        if (!is_finite(k->scales[r]))
            return SMIDGEN_BAD_PROGRAM;
    }
    return 0;
}

int smidgen_decode_kernel(loader *l, const smidgen_operation *o, kernel *k) {
    const smidgen_value *in = &l->network->values[o->input], *out = &l->network->values[o->output];
    const smidgen_tensor *t, *more = 0;
    int status;
    k->inputs = o->kind == SMIDGEN_SIGNS_CONVOLUTION ? o->channels : in->channels / o->groups;
    k->height = o->kernel_height;
    k->width = o->kernel_width;
    k->row = k->inputs * k->height * k->width; /* below 2^32, as the products were counted */
    if (o->weight >= l->record_count || (o->more != NO_RECORD && o->more >= l->record_count))
        return SMIDGEN_BAD_PROGRAM;
    t = &l->records[o->weight];
    if (o->more != NO_RECORD)
        more = &l->records[o->more];
    if (t->rank == 0 || t->shape[0] != out->channels || t->elements != (uint64_t)k->row * out->channels ||
        (more && more->elements != t->elements))
        return SMIDGEN_BAD_PROGRAM;
    status = decode_rows(l, t, more, out->channels, &k->integers, &k->scales);
    if (status)
        return status;
    k->bias = smidgen_take(&l->work, out->channels * sizeof(int32_t), 64);
    return k->bias ? settle_rows(l, o, k) : SMIDGEN_SPACE;
}
