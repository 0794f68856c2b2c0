/* load: from a file to a network that is ready to run. Weights are decoded to whole numbers and a scale for each output,
 * and packed in the order in which kernels read them. */
#include "engine.h"

enum { NO_RECORD = 65535, NO_AXIS = 255, MOST = 128, TEXT_SCRATCH = 3 * 1024 * 1024 };

#define MAX_BIAS 1073741824.0 /* 2^30 */
#define ALONE 16777216.0       /* 2^24: a bias whose weights are 0 */

/* While a file is loaded. */
typedef struct {
    const uint8_t *payload;
    smidgen_network *network;
    smidgen_tensor *records;
    uint32_t record_count;
    smidgen_team *team; /* whose threads load; its lock guards the memory, which they take from together */
    smidgen_space *memory, work;
} loader;

/* A convolution's weights while they are packed: `row` integers for each output, in the order inputs, kernel. */
typedef struct {
    int16_t *integers;
    const float *scales;
    const int32_t *bias;
    uint32_t row, inputs, height, width; /* inputs of a group, kernel */
} kernel;

static double nearest(double x) { /* of |x| < 2^51 */
    return x + 6755399441055744.0 - 6755399441055744.0;
}

static int read_records(loader *l, const uint8_t *index, size_t size, uint64_t payload_size, uint64_t file_size) {
    for (int pass = 0; pass < 2; pass++) {
        size_t position = 0;
        uint64_t payload = 0, symbols = 0;
        uint32_t count = 0;
        smidgen_tensor tensor;
        int status;
        while ((status = smidgen_next(index, size, &position, &payload, &symbols, smidgen_limit(file_size), &tensor)) == 1) {
            if (pass)
                l->records[count] = tensor;
            count++;
        }
        if (status)
            return status;
        if (payload != payload_size || count >= NO_RECORD)
            return SMIDGEN_BAD_TENSOR;
        if (!pass) {
            l->records = smidgen_take(&l->work, count * sizeof(smidgen_tensor), 64);
            l->record_count = count;
            if (l->work.failed)
                return SMIDGEN_SPACE;
        }
    }
    return 0;
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

static int is_finite(float x) {
    return x - x == 0;
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

/* The 4 x 16 weights of a step. Returns whether there is one that is not zero. */
static int gather(const kernel *k, uint32_t first, uint32_t outputs, uint32_t y, uint32_t x, uint32_t input,
                  int32_t step[SMIDGEN_BLOCK][SMIDGEN_STEP]) {
    int32_t any = 0;
    for (uint32_t o = 0; o < SMIDGEN_BLOCK; o++)
        for (uint32_t i = 0; i < SMIDGEN_STEP; i++) {
            step[o][i] = o < outputs && input + i < k->inputs
                             ? k->integers[(size_t)(first + o) * k->row + ((input + i) * k->height + y) * k->width + x]
                             : 0;
            any |= step[o][i];
        }
    return any != 0;
}

/* Takes from what is left of a step's weights as much as a kernel can multiply at once: 8 bits, and where sums have only
 * 16, not more than they hold for inputs of 255. Returns whether anything is left. */
static int portion(int32_t left[SMIDGEN_BLOCK][SMIDGEN_STEP], uint32_t lanes, int8_t out[SMIDGEN_BLOCK][SMIDGEN_STEP],
                   uint8_t above[SMIDGEN_BLOCK][2], uint8_t below[SMIDGEN_BLOCK][2]) {
    int32_t any = 0;
    for (uint32_t o = 0; o < SMIDGEN_BLOCK; o++) {
        above[o][0] = above[o][1] = below[o][0] = below[o][1] = 0;
        for (uint32_t i = 0; i < SMIDGEN_STEP; i++) {
            const uint32_t lane = lanes == 2 ? i / 2 : 0;
            int32_t part = left[o][i], room = part > 0 ? 127 : 128;
            if (lanes) {
                const int32_t rest = MOST - (part > 0 ? above[o][lane] : below[o][lane]);
                room = rest < room ? rest : room;
            }
            part = part > room ? room : part < -room ? -room : part;
            out[o][i] = (int8_t)part;
            left[o][i] -= part;
            any |= left[o][i];
            if (part > 0 && lanes)
                above[o][lane] = (uint8_t)(above[o][lane] + part);
            else if (lanes)
                below[o][lane] = (uint8_t)(below[o][lane] - part);
        }
    }
    return any != 0;
}

/* Where the steps of a block go; with null pointers they are only counted. */
typedef struct {
    int8_t *weights;
    uint32_t *offsets;
    uint16_t *runs;
    uint32_t steps, run_count, length; /* of the run that is being made */
    int32_t above[SMIDGEN_BLOCK][2], below[SMIDGEN_BLOCK][2];
} packing;

static void end_run(packing *p) {
    if (!p->length)
        return;
    if (p->runs)
        p->runs[p->run_count] = (uint16_t)p->length;
    p->run_count++;
    p->length = 0;
    for (uint32_t o = 0; o < SMIDGEN_BLOCK; o++)
        for (uint32_t lane = 0; lane < 2; lane++)
            p->above[o][lane] = p->below[o][lane] = 0;
}

static void add_step(packing *p, const smidgen_kernels *kernels, const int8_t weights[SMIDGEN_BLOCK][SMIDGEN_STEP],
                     uint8_t above[SMIDGEN_BLOCK][2], uint8_t below[SMIDGEN_BLOCK][2], uint32_t offset) {
    int full = p->length == 65535;
    for (uint32_t o = 0; o < SMIDGEN_BLOCK; o++)
        for (uint32_t lane = 0; lane < 2; lane++)
            full |= p->above[o][lane] + above[o][lane] > MOST || p->below[o][lane] + below[o][lane] > MOST;
    if (full)
        end_run(p);
    for (uint32_t o = 0; o < SMIDGEN_BLOCK; o++)
        for (uint32_t lane = 0; lane < 2; lane++) {
            p->above[o][lane] += above[o][lane];
            p->below[o][lane] += below[o][lane];
        }
    if (p->weights) {
        int8_t *out = p->weights + (size_t)p->steps * SMIDGEN_BLOCK * SMIDGEN_STEP;
        for (uint32_t o = 0; o < SMIDGEN_BLOCK; o++)
            for (uint32_t i = 0; i < SMIDGEN_STEP; i++)
                out[kernels->transposed ? i * SMIDGEN_BLOCK + o : o * SMIDGEN_STEP + i] = weights[o][i];
        p->offsets[p->steps] = offset;
    }
    p->steps++;
    p->length++;
}

/* All steps of a block; those whose weights are all zero are left out. */
static void pack(const kernel *k, const smidgen_operation *o, const smidgen_value *in, const smidgen_kernels *kernels,
                 uint32_t first, uint32_t outputs, uint32_t channel, packing *p) {
    int32_t left[SMIDGEN_BLOCK][SMIDGEN_STEP];
    int8_t weights[SMIDGEN_BLOCK][SMIDGEN_STEP];
    uint8_t above[SMIDGEN_BLOCK][2], below[SMIDGEN_BLOCK][2];
    for (uint32_t y = 0; y < k->height; y++)
        for (uint32_t x = 0; x < k->width; x++)
            for (uint32_t input = 0; input < k->inputs; input += SMIDGEN_STEP) {
                const uint32_t offset =
                    y * o->dilation_height * in->row + x * o->dilation_width * in->pitch + channel + input;
                int more = gather(k, first, outputs, y, x, input, left);
                while (more) {
                    more = portion(left, kernels->lanes, weights, above, below);
                    add_step(p, kernels, (const int8_t(*)[SMIDGEN_STEP])weights, above, below, offset);
                }
            }
    end_run(p);
}

/* Where a block's steps go, now that they have been counted. */
static int place_block(loader *l, packing *p, uint32_t steps, uint32_t run_count) {
    smidgen_team_lock(l->team);
    p->weights = smidgen_take(l->memory, (uint64_t)steps * SMIDGEN_BLOCK * SMIDGEN_STEP, 64);
    p->offsets = smidgen_take(l->memory, steps * sizeof(uint32_t), 4);
    p->runs = smidgen_take(l->memory, run_count * sizeof(uint16_t), 2);
    smidgen_team_unlock(l->team);
    return p->weights && p->offsets && p->runs ? 0 : SMIDGEN_SPACE;
}

static int pack_blocks(loader *l, smidgen_operation *o, const kernel *k) {
    const smidgen_value *in = &l->network->values[o->input], *out = &l->network->values[o->output];
    const uint32_t group = out->channels / o->groups, each = (group + SMIDGEN_BLOCK - 1) / SMIDGEN_BLOCK;
    static const packing nothing;
    o->block_count = o->groups * each;
    o->units = o->block_count * out->height;
    smidgen_team_lock(l->team);
    o->blocks = smidgen_take(l->memory, o->block_count * sizeof(smidgen_block_of_outputs), 64);
    smidgen_team_unlock(l->team);
    if (!o->blocks)
        return SMIDGEN_SPACE;
    for (uint32_t b = 0; b < o->block_count; b++) {
        smidgen_block_of_outputs *block = &o->blocks[b];
        const uint32_t channel = b / each * k->inputs, rest = group - b % each * SMIDGEN_BLOCK;
        packing p = nothing;
        block->first = b / each * group + b % each * SMIDGEN_BLOCK;
        block->outputs = rest < SMIDGEN_BLOCK ? rest : SMIDGEN_BLOCK;
        pack(k, o, in, &l->network->kernels, block->first, block->outputs, channel, &p);
        block->steps = p.steps;
        block->run_count = p.run_count;
        p = nothing;
        if (place_block(l, &p, block->steps, block->run_count))
            return SMIDGEN_SPACE;
        pack(k, o, in, &l->network->kernels, block->first, block->outputs, channel, &p);
        block->weights = p.weights;
        block->offsets = p.offsets;
        block->runs = p.runs;
        for (uint32_t i = 0; i < SMIDGEN_BLOCK; i++) {
            block->bias[i] = i < block->outputs ? k->bias[block->first + i] : 0;
            block->factor[i] = i < block->outputs ? k->scales[block->first + i] : 0;
        }
    }
    return 0;
}

static int pack_depthwise(loader *l, smidgen_operation *o, const kernel *k) {
    const smidgen_value *in = &l->network->values[o->input];
    const uint32_t channels = in->channels, padded = (channels + SMIDGEN_BLOCK - 1) / SMIDGEN_BLOCK * SMIDGEN_BLOCK;
    const uint32_t places = k->height * k->width;
    int16_t *weights;
    uint32_t *offsets;
    int32_t *bias;
    float *factor;
    smidgen_team_lock(l->team);
    weights = smidgen_take(l->memory, (uint64_t)places * padded * sizeof(int16_t), 64);
    offsets = smidgen_take(l->memory, places * sizeof(uint32_t), 4);
    bias = smidgen_take(l->memory, padded * sizeof(int32_t), 64);
    factor = smidgen_take(l->memory, padded * sizeof(float), 64);
    smidgen_team_unlock(l->team);
    if (!weights || !offsets || !bias || !factor)
        return SMIDGEN_SPACE;
    for (uint32_t c = 0; c < padded; c++) {
        for (uint32_t i = 0; i < places; i++)
            weights[i * padded + c] = c < channels ? k->integers[c * k->row + i] : 0;
        bias[c] = c < channels ? k->bias[c] : 0;
        factor[c] = c < channels ? k->scales[c] : 0;
    }
    for (uint32_t i = 0; i < places; i++)
        offsets[i] = i / k->width * o->dilation_height * in->row + i % k->width * o->dilation_width * in->pitch;
    o->depthwise.weights = weights;
    o->depthwise.places = offsets;
    o->depthwise.bias = bias;
    o->depthwise.factor = factor;
    return 0;
}

static int pack_signs(loader *l, smidgen_operation *o, const kernel *k) {
    enum { BLOCK = SMIDGEN_SIGNS_BLOCK };
    const smidgen_value *out = &l->network->values[o->output];
    const uint32_t fours = (k->inputs + 3) / 4, places = k->height * k->width;
    uint8_t *all;
    for (size_t i = 0; i < (size_t)k->row * out->channels; i++)
        if (k->integers[i] != 1 && k->integers[i] != -1)
            return SMIDGEN_BAD_PROGRAM;
    o->block_count = (out->channels + BLOCK - 1) / BLOCK;
    o->units = o->block_count * out->height;
    smidgen_team_lock(l->team);
    o->sign_blocks = smidgen_take(l->memory, o->block_count * sizeof(smidgen_block_of_signs), 64);
    all = smidgen_take(l->memory, (uint64_t)o->block_count * places * fours * BLOCK, 64);
    smidgen_team_unlock(l->team);
    if (!o->sign_blocks || !all)
        return SMIDGEN_SPACE;
    for (uint32_t b = 0; b < o->block_count; b++) {
        smidgen_block_of_signs *block = &o->sign_blocks[b];
        uint8_t *weights = all + (size_t)b * places * fours * BLOCK;
        block->weights = weights;
        block->first = b * BLOCK;
        block->outputs = out->channels - block->first < BLOCK ? out->channels - block->first : BLOCK;
        for (size_t i = 0; i < (size_t)places * fours * BLOCK; i++)
            weights[i] = 0;
        for (uint32_t r = 0; r < BLOCK; r++) {
            const int real = r < block->outputs;
            block->bias[r] = real ? k->bias[block->first + r] : 0;
            block->factor[r] = real ? k->scales[block->first + r] : 0;
            for (uint32_t i = 0; real && i < k->row; i++) { /* in the order inputs, kernel */
                const size_t step = i % places * (size_t)fours + i / places / 4;
                if (k->integers[(size_t)(block->first + r) * k->row + i] > 0)
                    weights[step * BLOCK + r] |= (uint8_t)(1 << i / places % 4);
            }
        }
    }
    return 0;
}

/* Biases as integers, with what the input's zero adds to each sum; and scales as factors. */
static int settle_rows(loader *l, const smidgen_operation *o, const kernel *k, int32_t *bias, float *scales) {
    const smidgen_value *in = &l->network->values[o->input], *out = &l->network->values[o->output];
    float *given = 0;
    if (o->bias != NO_RECORD) {
        const smidgen_tensor *t = &l->records[o->bias];
        int status;
        if (o->bias >= l->record_count || t->elements != out->channels)
            return SMIDGEN_BAD_PROGRAM;
        status = decode_values(l, t, &given);
        if (status)
            return status;
    }
    for (uint32_t r = 0; r < out->channels; r++) {
        double scale = (double)in->scale * scales[r], x = 0;
        int64_t sum = 0, size = 0, most;
        for (size_t i = (size_t)r * k->row; i < (size_t)(r + 1) * k->row; i++) {
            sum += k->integers[i];
            size += k->integers[i] < 0 ? -k->integers[i] : k->integers[i];
        }
        if (!is_finite(scales[r]) || (given && !is_finite(given[r])))
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
        bias[r] = (int32_t)((int64_t)x - (int64_t)in->zero * sum);
        scales[r] = (float)(out->type ? scale : scale / out->scale);
        if (!is_finite(scales[r]))
            return SMIDGEN_BAD_PROGRAM;
    }
    return 0;
}

static int load_convolution(loader *l, smidgen_operation *o) {
    const smidgen_value *in = &l->network->values[o->input], *out = &l->network->values[o->output];
    const smidgen_tensor *t = &l->records[o->weight];
    const size_t before = l->work.used;
    const int signs = o->kind == SMIDGEN_SIGNS_CONVOLUTION;
    kernel k = {0, 0, 0, 0, signs ? o->channels : in->channels / o->groups, o->kernel_height, o->kernel_width};
    float *scales;
    int32_t *bias;
    int status;
    k.row = k.inputs * k.height * k.width; /* below 2^32, as the products were counted */
    if (o->weight >= l->record_count || t->rank == 0 || t->shape[0] != out->channels ||
        t->elements != (uint64_t)k.row * out->channels)
        return SMIDGEN_BAD_PROGRAM;
    if (o->more != NO_RECORD && (o->more >= l->record_count || l->records[o->more].elements != t->elements))
        return SMIDGEN_BAD_PROGRAM;
    status = decode_rows(l, t, o->more == NO_RECORD ? 0 : &l->records[o->more], out->channels, &k.integers, &scales);
    if (status)
        return status;
    bias = smidgen_take(&l->work, out->channels * sizeof(int32_t), 64);
    if (!bias)
        return SMIDGEN_SPACE;
    status = settle_rows(l, o, &k, bias, scales);
    if (status)
        return status;
    k.bias = bias;
    k.scales = scales;
    if (signs)
        status = pack_signs(l, o, &k);
    else if (o->groups == in->channels && o->groups == out->channels && o->groups > 1 && !out->type)
        status = pack_depthwise(l, o, &k);
    else
        status = pack_blocks(l, o, &k);
    l->work.used = before;
    return status;
}

/* Factors of operations without weights. */
static int settle(const smidgen_network *n, smidgen_operation *o) {
    const smidgen_value *in = &n->values[o->input], *other = &n->values[o->other], *out = &n->values[o->output];
    if (o->kind == SMIDGEN_MEAN) {
        const double scale = in->scale / ((double)in->height * in->width);
        o->factors[0] = (float)(out->type ? scale : scale / out->scale);
    } else if (o->kind == SMIDGEN_AVERAGE) {
        o->factors[0] = (float)((double)in->scale / out->scale); /* of one pixel: no window has a greater one */
    } else if (o->kind == SMIDGEN_SUM) {
        o->factors[0] = (float)((double)in->scale / out->scale);
        o->factors[1] = (float)((double)other->scale / out->scale);
    } else if (o->kind == SMIDGEN_PRODUCT) {
        o->factors[0] = (float)((double)in->scale * other->scale / out->scale);
    }
    return is_finite(o->factors[0]) && is_finite(o->factors[1]) ? 0 : SMIDGEN_BAD_PROGRAM;
}

/* What the bytes of a picture become: the integer of (byte - mean) / std. */
static void prepare_pixels(smidgen_network *n) {
    const smidgen_finish finish = smidgen_finish_of(&n->values[0], 0, 255);
    for (int c = 0; c < 3 && n->picture; c++) {
        float values[256];
        for (int byte = 0; byte < 256; byte++)
            values[byte] = ((float)byte - n->mean[c]) / n->std[c];
        n->kernels.quantize(n->pixels[c], values, 1, 256, n->input_factor, &finish);
    }
}

static int load_sections(loader *l, const uint8_t *data, size_t size, const smidgen_file *file) {
    const smidgen_section *index = &file->sections[SMIDGEN_INDEX], *program = &file->sections[SMIDGEN_PROGRAM];
    uint8_t *index_bytes = smidgen_take(&l->work, (size_t)index->size, 1);
    uint8_t *program_bytes = smidgen_take(l->memory, (size_t)program->size, 1);
    const size_t before = l->work.used;
    void *scratch = smidgen_take(&l->work, TEXT_SCRATCH, 64);
    int status;
    if (l->work.failed || l->memory->failed)
        return SMIDGEN_SPACE;
    status = smidgen_read_section(data, file, SMIDGEN_INDEX, index_bytes, scratch);
    if (!status)
        status = smidgen_read_section(data, file, SMIDGEN_PROGRAM, program_bytes, scratch);
    l->work.used = before;
    if (!status)
        status = read_records(l, index_bytes, (size_t)index->size, file->sections[SMIDGEN_PAYLOAD].stored, size);
    if (!status)
        status = smidgen_read_program(program_bytes, (size_t)program->size, l->network, l->memory);
    return status;
}

/* What the threads of a team share while they make operations ready, from the last one on: the weights of the last ones
 * are most as a rule, and who takes them should not begin when all others are done. */
typedef struct {
    const loader *first; /* whose work so far every thread finds in its own part */
    uint32_t parts, left;
    size_t part, most; /* bytes of each part, and those that were taken */
    int status;
} assignment;

/* The next operation, or 0 when there are no more; `status` is that of the one before. */
static smidgen_operation *next_operation(assignment *a, int status) {
    smidgen_operation *next;
    smidgen_team_lock(a->first->team);
    if (status)
        a->status = status;
    next = a->status || !a->left ? 0 : &a->first->network->operations[--a->left];
    smidgen_team_unlock(a->first->team);
    return next;
}

static void load_operations(smidgen_team *team, void *given, uint32_t number) {
    assignment *a = given;
    loader l = *a->first;
    smidgen_operation *o;
    int status = 0;
    if (number >= a->parts)
        return;
    l.work.start += number * a->part;
    while ((o = next_operation(a, status)))
        status = o->kind == SMIDGEN_CONVOLUTION || o->kind == SMIDGEN_SIGNS_CONVOLUTION ? load_convolution(&l, o)
                                                                                         : settle(l.network, o);
    smidgen_team_lock(team);
    a->most = l.work.most > a->most ? l.work.most : a->most;
    smidgen_team_unlock(team);
}

static int load(const uint8_t *data, size_t size, const smidgen_kernels *kernels, smidgen_team *team, void *memory,
                size_t memory_size, void *work, size_t work_size, smidgen_network **network) {
    static const smidgen_network empty;
    smidgen_space space = {memory, 0, memory_size, 0, 0};
    loader l = {0, 0, 0, 0, team, &space, {work, 0, work_size, 0, 0}};
    assignment a = {&l, 1, 0, 0, 0, 0};
    smidgen_network *n;
    smidgen_file file;
    int status = smidgen_open(data, size, &file);
    if (status)
        return status;
    if (file.sections[SMIDGEN_PROGRAM].size == 0)
        return SMIDGEN_USAGE;
    if (team) {
        a.part = ((size_t)file.work + 63) / 64 * 64;
        a.parts = a.part && work_size > a.part ? (uint32_t)(work_size / a.part) : 1;
        l.work.size = a.parts > 1 ? a.part : work_size;
    }
    l.network = n = smidgen_take(&space, sizeof(smidgen_network), 64);
    if (!n)
        return SMIDGEN_SPACE;
    *n = empty;
    n->kernels = *kernels;
    l.payload = data + file.sections[SMIDGEN_PAYLOAD].offset;
    status = load_sections(&l, data, size, &file);
    if (status)
        return status;
    a.left = n->operation_count;
    smidgen_team_do(team, load_operations, &a);
    if (a.status)
        return a.status;
    n->input_factor = (float)(1.0 / n->values[0].scale);
    if (!is_finite(n->input_factor))
        return SMIDGEN_BAD_PROGRAM;
    n->arena = smidgen_take(&space, (size_t)n->arena_size + 64, 64); /* kernels read a little past a tensor's end */
    if (!n->arena)
        return SMIDGEN_SPACE;
    n->memory = space.most;
    n->work = a.most;
    *network = n;
    return 0;
}

int smidgen_load_with(const uint8_t *data, size_t size, int way, smidgen_team *team, void *memory, size_t memory_size,
                      void *work, size_t work_size, smidgen_network **network) {
    smidgen_kernels kernels;
    int status;
    if (!smidgen_can(way) || !smidgen_kernels_of(way, &kernels))
        return SMIDGEN_USAGE;
    status = load(data, size, &kernels, team, memory, memory_size, work, work_size, network);
    if (status)
        return status;
    (*network)->way = (uint32_t)way;
    prepare_pixels(*network);
    for (size_t i = 0; i < (size_t)(*network)->arena_size + 64; i++)
        (*network)->arena[i] = 0;
    return 0;
}

int smidgen_load(const uint8_t *data, size_t size, int way, void *memory, size_t memory_size, void *work,
                 size_t work_size, smidgen_network **network) {
    return smidgen_load_with(data, size, way, 0, memory, memory_size, work, work_size, network);
}

int smidgen_needs(const uint8_t *data, size_t size, void *memory, size_t memory_size, void *work, size_t work_size,
                  uint64_t needs[2]) {
    needs[0] = needs[1] = 0;
    for (uint32_t lanes = 0; lanes <= 2; lanes++) {
        const smidgen_kernels kernels = {.lanes = lanes};
        smidgen_network *n;
        const int status = load(data, size, &kernels, 0, memory, memory_size, work, work_size, &n);
        if (status)
            return status;
        needs[0] = n->memory > needs[0] ? n->memory : needs[0];
        needs[1] = n->work > needs[1] ? n->work : needs[1];
    }
    return 0;
}

void smidgen_about(const smidgen_network *n, smidgen_facts *facts) {
    facts->channels = n->values[0].channels;
    facts->height = n->values[0].height;
    facts->width = n->values[0].width;
    facts->outputs = n->values[n->output].height * n->values[n->output].width * n->values[n->output].channels;
    facts->picture = n->picture;
    facts->bicubic = n->bicubic;
    facts->probabilities = n->finish;
    facts->operations = n->operation_count;
    facts->way = n->way;
    facts->memory = n->memory;
    facts->work = n->work;
}
