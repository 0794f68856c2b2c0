/* pack: weights in the order in which kernels read them, cut so that sums stay within what they are added up in. */
#include "load.h"

enum { MOST = 128 }; /* inputs of 255 times weights of so much in all stay in 16 bits */

/* The 4 x 16 weights of a step. Returns whether there is one that is not zero. */
static int gather(const kernel *k, uint32_t first, uint32_t outputs, uint32_t y, uint32_t x, uint32_t input,
                  int32_t step[SMIDGEN_BLOCK][SMIDGEN_STEP]) {
    const size_t plane = (size_t)k->height * k->width;
    const size_t place = input * plane + y * k->width + x;
    const uint32_t inputs = k->inputs - input < SMIDGEN_STEP ? k->inputs - input : SMIDGEN_STEP;
    int32_t any = 0;
    if (outputs < SMIDGEN_BLOCK || inputs < SMIDGEN_STEP)
        __builtin_memset(step, 0, SMIDGEN_BLOCK * sizeof step[0]);
    for (uint32_t o = 0; o < outputs; o++) {
        const int16_t *from = k->integers + (size_t)(first + o) * k->row + place;
        for (uint32_t i = 0; i < inputs; i++)
            any |= step[o][i] = from[i * plane];
    }
    return any != 0;
}

/* Takes from what is left of a step's weights as much as a kernel can multiply at once. Returns whether anything is
 * left. */
static int portion(int32_t left[SMIDGEN_BLOCK][SMIDGEN_STEP], int32_t most,
                   int16_t out[SMIDGEN_BLOCK][SMIDGEN_STEP]) {
    int32_t any = 0;
    for (uint32_t o = 0; o < SMIDGEN_BLOCK; o++)
        for (uint32_t i = 0; i < SMIDGEN_STEP; i++) {
            const int32_t part = left[o][i] > most ? most : left[o][i] < -most - 1 ? -most - 1 : left[o][i];
            out[o][i] = (int16_t)part;
            left[o][i] -= part;
            any |= left[o][i];
        }
    return any != 0;
}

/* The same where sums have only 16 bits, of which it takes no more than they hold for inputs of 255. */
static int portion_of_16_bits(int32_t left[SMIDGEN_BLOCK][SMIDGEN_STEP], const smidgen_kernels *kernels,
                              int16_t out[SMIDGEN_BLOCK][SMIDGEN_STEP], uint8_t above[SMIDGEN_BLOCK][2],
                              uint8_t below[SMIDGEN_BLOCK][2]) {
    int32_t any = 0;
    for (uint32_t o = 0; o < SMIDGEN_BLOCK; o++) {
        above[o][0] = above[o][1] = below[o][0] = below[o][1] = 0;
        for (uint32_t i = 0; i < SMIDGEN_STEP; i++) {
            const uint32_t lane = kernels->lanes == 2 ? i / 2 : 0;
            int32_t part = left[o][i], room = part > 0 ? kernels->most : kernels->most + 1;
            const int32_t rest = MOST - (part > 0 ? above[o][lane] : below[o][lane]);
            room = rest < room ? rest : room;
            part = part > room ? room : part < -room ? -room : part;
            out[o][i] = (int16_t)part;
            left[o][i] -= part;
            any |= left[o][i];
            if (part > 0)
                above[o][lane] = (uint8_t)(above[o][lane] + part);
            else
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

static size_t step_bytes(const smidgen_kernels *kernels) {
    return SMIDGEN_BLOCK * SMIDGEN_STEP * (kernels->order == SMIDGEN_PAIRS ? sizeof(int16_t) : sizeof(int8_t));
}

static void place_step(const smidgen_kernels *kernels, const int16_t weights[SMIDGEN_BLOCK][SMIDGEN_STEP], int8_t *out) {
    for (uint32_t o = 0; o < SMIDGEN_BLOCK; o++)
        for (uint32_t i = 0; i < SMIDGEN_STEP; i++) {
            const int32_t weight = weights[o][i] + kernels->raised;
            if (kernels->order == SMIDGEN_PAIRS)
                ((int16_t *)(void *)out)[((o / 4 * 2 + i % 2) * 4 + o % 4) * 2 + i / 2] = (int16_t)weight;
            else if (kernels->order == SMIDGEN_BY_INPUT)
                out[i * SMIDGEN_BLOCK + o] = (int8_t)weight;
            else
                out[o * SMIDGEN_STEP + i] = (int8_t)weight;
        }
}

/* Ends the run if its sums of 16 bits have no room for another step. */
static void make_room(packing *p, uint8_t above[SMIDGEN_BLOCK][2], uint8_t below[SMIDGEN_BLOCK][2]) {
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
}

static void add_step(packing *p, const smidgen_kernels *kernels, const int16_t weights[SMIDGEN_BLOCK][SMIDGEN_STEP],
                     uint32_t offset) {
    if (p->length == 65535)
        end_run(p);
    if (p->weights) {
        place_step(kernels, weights, p->weights + p->steps * step_bytes(kernels));
        p->offsets[p->steps] = offset;
    }
    p->steps++;
    p->length++;
}

/* All steps of a block; those whose weights are all zero are left out. */
static void pack(const kernel *k, const smidgen_operation *o, const smidgen_value *in, const smidgen_kernels *kernels,
                 uint32_t first, uint32_t outputs, uint32_t channel, packing *p) {
    int32_t left[SMIDGEN_BLOCK][SMIDGEN_STEP];
    int16_t weights[SMIDGEN_BLOCK][SMIDGEN_STEP];
    uint8_t above[SMIDGEN_BLOCK][2], below[SMIDGEN_BLOCK][2];
    for (uint32_t y = 0; y < k->height; y++)
        for (uint32_t x = 0; x < k->width; x++)
            for (uint32_t input = 0; input < k->inputs; input += SMIDGEN_STEP) {
                const uint32_t offset =
                    y * o->dilation_height * in->row + x * o->dilation_width * in->pitch + channel + input;
                int more = gather(k, first, outputs, y, x, input, left);
                while (more) {
                    if (kernels->lanes) {
                        more = portion_of_16_bits(left, kernels, weights, above, below);
                        make_room(p, above, below);
                    } else {
                        more = portion(left, kernels->most, weights);
                    }
                    add_step(p, kernels, (const int16_t(*)[SMIDGEN_STEP])weights, offset);
                }
            }
    end_run(p);
}

/* Where a block's steps go, now that they have been counted. */
static int place_block(loader *l, packing *p, uint32_t steps, uint32_t run_count) {
    smidgen_team_lock(l->team);
    p->weights = smidgen_take(l->memory, (uint64_t)steps * step_bytes(&l->network->kernels), 64);
    p->offsets = smidgen_take(l->memory, steps * sizeof(uint32_t), 4);
    p->runs = smidgen_take(l->memory, run_count * sizeof(uint16_t), 2);
    smidgen_team_unlock(l->team);
    return p->weights && p->offsets && p->runs ? 0 : SMIDGEN_SPACE;
}

/* The bias of an output: what its sum starts with, modulo 2^32. */
static int32_t bias_of(const kernel *k, const smidgen_kernels *kernels, uint32_t output) {
    const int16_t *integers = k->integers + (size_t)output * k->row;
    const uint32_t count = kernels->raised ? k->row : 0;
    uint32_t bias = (uint32_t)k->bias[output];
    for (uint32_t i = 0; i < count; i++)
        bias += 128 * (uint32_t)integers[i];
    return (int32_t)bias;
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
            block->bias[i] = i < block->outputs ? bias_of(k, &l->network->kernels, block->first + i) : 0;
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

/* The signs of 4 weights of an output, of the kernel's place and the inputs from 4 c on. */
static uint8_t four_signs(const int16_t *integers, const kernel *k, uint32_t y, uint32_t x, uint32_t c) {
    uint32_t four = 0;
    for (uint32_t i = 4 * c; i < k->inputs && i < 4 * c + 4; i++)
        four |= (uint32_t)(integers[(i * k->height + y) * k->width + x] > 0) << i % 4;
    return (uint8_t)four;
}

/* Those of all weights of an output, for a pixel that begins `before` columns into the kernel's shape. */
static void place_signs(const int16_t *integers, const kernel *k, const smidgen_signs_shape *shape, uint32_t before, uint8_t *to) {
    const uint32_t fours = (k->inputs + 3) / 4;
    for (uint32_t y = 0; y < k->height; y++)
        for (uint32_t x = 0; x < shape->columns; x++)
            for (uint32_t c = 0; c < fours; c++, to += shape->width)
                *to = x - before < k->width ? four_signs(integers, k, y, x - before, c) : SMIDGEN_NO_WEIGHT;
}

/* The same packed: eights of fours of what is fetched at once. */
static void place_packed_signs(const int16_t *integers, const kernel *k, const smidgen_signs_shape *shape, uint8_t *to) {
    const uint32_t fours = (k->inputs + 3) / 4, each = shape->beside * fours;
    for (uint32_t y = 0; y < k->height; y++)
        for (uint32_t left = 0; left < k->width; left += shape->beside)
            for (uint32_t i = 0; i < each; i += 8, to += 4 * (size_t)shape->width)
                for (uint32_t j = i; j < each && j < i + 8; j++)
                    to[(j - i) / 2] |= (uint8_t)(four_signs(integers, k, y, left + j / fours, j % fours) << j % 2 * 4);
}

static int pack_signs(loader *l, smidgen_operation *o, const kernel *k) {
    enum { BLOCK = SMIDGEN_SIGNS_BLOCK };
    const smidgen_value *out = &l->network->values[o->output];
    const uint32_t fours = (k->inputs + 3) / 4;
    /* a shape with more columns has fewer outputs, and packed signs take no more */
    const size_t all = (size_t)k->height * k->width * fours * BLOCK;
    uint8_t *weights;
    for (size_t i = 0; i < (size_t)k->row * out->channels; i++)
        if (k->integers[i] != 1 && k->integers[i] != -1)
            return SMIDGEN_BAD_PROGRAM;
    o->block_count = (out->channels + BLOCK - 1) / BLOCK;
    o->units = o->block_count * out->height;
    smidgen_team_lock(l->team);
    o->sign_blocks = smidgen_take(l->memory, o->block_count * sizeof(smidgen_block_of_signs), 64);
    weights = smidgen_take(l->memory, (uint64_t)o->block_count * all, 64);
    smidgen_team_unlock(l->team);
    if (!o->sign_blocks || !weights)
        return SMIDGEN_SPACE;
    for (uint32_t b = 0; b < o->block_count; b++, weights += all) {
        smidgen_block_of_signs *block = &o->sign_blocks[b];
        const uint32_t first = b * BLOCK, rest = out->channels - first;
        const smidgen_signs_shape shape = smidgen_shape_of_signs(&l->network->kernels, o, fours, rest);
        __builtin_memset(weights, shape.packed ? 0 : SMIDGEN_NO_WEIGHT, all);
        const int16_t *integers = k->integers + (size_t)first * k->row;
        block->weights = weights;
        block->first = first;
        block->outputs = rest < BLOCK ? rest : BLOCK;
        for (uint32_t r = 0; r < BLOCK; r++) {
            block->bias[r] = r < rest ? k->bias[first + r] : 0;
            block->factor[r] = r < rest ? k->scales[first + r] : 0;
            if (r < rest && shape.packed)
                place_packed_signs(integers + (size_t)r * k->row, k, &shape, weights + 4 * (size_t)r);
            for (uint32_t p = 0; p < shape.pixels && r < rest && !shape.packed; p++)
                place_signs(integers + (size_t)r * k->row, k, &shape, p * o->stride_width,
                            weights + p * (shape.width / shape.pixels) + r);
        }
    }
    return 0;
}

int smidgen_pack(loader *l, smidgen_operation *o, const kernel *k) {
    const smidgen_value *in = &l->network->values[o->input], *out = &l->network->values[o->output];
    if (o->kind == SMIDGEN_SIGNS_CONVOLUTION)
        return pack_signs(l, o, k);
    if (o->groups == in->channels && o->groups == out->channels && o->groups > 1 && !out->type)
        return pack_depthwise(l, o, k);
    return pack_blocks(l, o, k);
}
