/* map: where a network looked. What a mean over all pixels gives an output, each pixel gave a part of. */
#include "engine.h"

static int is_linear_layer(const smidgen_network *n, const smidgen_operation *o) {
    const smidgen_value *in = &n->values[o->input], *out = &n->values[o->output];
    return o->kind == SMIDGEN_CONVOLUTION && o->blocks && in->height == 1 && in->width == 1 && out->type;
}

/* A map of more places is not told, nor one whose linear layer would take more products; one of a single place says
 * nothing, and its pixel may lie where the mean does. */
enum { MOST_PLACES = 4096 };
static const uint64_t most_products = (uint64_t)1 << 34;

static int is_told(const smidgen_network *n, const smidgen_operation *mean, int linear) {
    const smidgen_value *pixels = &n->values[mean->input];
    const uint64_t places = (uint64_t)pixels->height * pixels->width;
    const uint64_t products = linear ? (uint64_t)pixels->channels * n->values[n->output].channels : 0;
    return places > 1 && places <= MOST_PLACES && places * products <= most_products;
}

/* The mean whose pixels are still there when all has run: that of the last operation, or of the linear layer that is the
 * last; or NULL. */
static const smidgen_operation *last_mean(const smidgen_network *n) {
    const smidgen_operation *o = &n->operations[n->operation_count - 1];
    const smidgen_value *pixels, *made = &n->values[n->output];
    if (o->output != n->output)
        return 0;
    if (o->kind == SMIDGEN_MEAN)
        return is_told(n, o, 0) ? o : 0;
    if (n->operation_count < 2 || !is_linear_layer(n, o) || o[-1].kind != SMIDGEN_MEAN || o[-1].output != o->input)
        return 0;
    pixels = &n->values[o[-1].input];
    return (made->first < pixels->last && pixels->first < made->last) || !is_told(n, o - 1, 1) ? 0 : o - 1;
}

void smidgen_map_size(const smidgen_network *n, uint32_t *height, uint32_t *width) {
    const smidgen_operation *mean = last_mean(n);
    *height = mean ? n->values[mean->input].height : 0;
    *width = mean ? n->values[mean->input].width : 0;
}

static float run_linear(smidgen_network *n, const smidgen_operation *o, uint32_t output) {
    float made;
    smidgen_run_operation(n, o, 0, 1);
    smidgen_copy(&made, smidgen_pixel(n, &n->values[n->output], 0, 0) + sizeof made * output, sizeof made);
    return made;
}

/* What the linear layer `o` makes of a pixel in place of the mean, whose scale it has then, without the bias. The mean's
 * integers have another zero, beside which not all of the pixel's fit: so what is above zero is put in, then what is
 * below, turned about, both in pieces that fit on the wider side of the mean's zero. */
static float made_of(smidgen_network *n, const smidgen_operation *o, const smidgen_value *in, const uint8_t *from,
                     uint32_t output, float bias) {
    const smidgen_value *mean = &n->values[o->input];
    uint8_t *to = smidgen_pixel(n, mean, 0, 0);
    const int32_t side = mean->zero < 128 ? 1 : -1, room = side > 0 ? 255 - (int32_t)mean->zero : (int32_t)mean->zero;
    float sum = 0;
    for (int32_t sign = 1; sign >= -1; sign -= 2)
        for (int32_t done = 0, any = 1; any; done += room) {
            any = 0;
            for (uint32_t c = 0; c < mean->channels; c++) {
                const int32_t left = sign * ((int32_t)from[c] - (int32_t)in->zero) - done;
                const int32_t piece = left < 0 ? 0 : left < room ? left : room;
                to[c] = (uint8_t)((int32_t)mean->zero + side * piece);
                any |= piece;
            }
            if (any)
                sum += (float)(sign * side) * (run_linear(n, o, output) - bias);
        }
    return sum;
}

int smidgen_map(smidgen_network *n, uint32_t output, float *map) {
    const smidgen_operation *mean = last_mean(n), *last = &n->operations[n->operation_count - 1];
    const smidgen_value *in;
    float bias = 0, scale;
    if (!mean || output >= n->values[n->output].channels)
        return SMIDGEN_USAGE;
    in = &n->values[mean->input];
    scale = in->scale / n->values[mean->output].scale;
    if (last != mean) {
        const smidgen_value *middle = &n->values[mean->output];
        __builtin_memset(smidgen_pixel(n, middle, 0, 0), (int)middle->zero, middle->channels);
        bias = run_linear(n, last, output);
    }
    for (uint32_t y = 0; y < in->height; y++)
        for (uint32_t x = 0; x < in->width; x++) {
            const uint8_t *from = smidgen_pixel(n, in, y, x);
            *map++ = last == mean ? (float)((int32_t)from[output] - (int32_t)in->zero) * in->scale
                                  : made_of(n, last, in, from, output, bias) * scale + bias;
        }
    return 0;
}
