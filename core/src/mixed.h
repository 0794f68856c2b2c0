/* mixed: every symbol is a few binary decisions, whose probabilities come from a law with a centre and a width.
 *
 * What surrounds a trained weight tells its likely value, and even better how far off that will be. Two linear
 * regressions mix all that: one predicts the weight (the centre), one the error of the first (the width). They learn as
 * they go. The law is the logistic one, whose tails give every decision in closed form. So there are no tables of
 * contexts that would have to fill first: that is what makes small tensors small. Where a distribution differs from the
 * law, each kind of decision learns a gain and an offset for its log-odds.
 *
 * Trellis-coded ("dependent") quantization has two quantizers with different cells. Which one a weight used follows
 * from the parities above it in its column, so the codec can keep track and measure the weights as they really are.
 * Codecs mixed and mixed64 differ in the number of states that they follow.
 *
 * Weights are in 1/32 of a step, or what is named otherwise. docs/format.md gives all of it step by step.
 *
 * A file for each way to compute includes this under its own target; all of them give the same bits. */
#ifndef SMIDGEN_MIXED_H
#define SMIDGEN_MIXED_H

#include "range.h"

enum {
    FEATURES = 9,
    KINDS = 16,           /* of decisions: positive, negative, steps up, halves of a step */
    PLACES = 64,          /* of a kernel; each has its own regressions */
    CELLS = 65536,        /* columns told apart */
    MOST_VALUE = 8192,    /* of a centre */
    MOST_WIDTH = 1 << 18, /* 1/16 */
    LEAST_WIDTH = 40,
    STEP = 512,
    MOST_WEIGHT = 1 << 18,
    SCALE = 355 << 16 /* 355 is 512 log(2): the mean error of the law, in 1/256 of the unit of its tails */
};

/* What is known of a column: means of its weights, the mean of the errors, its last weight. */
typedef struct {
    int32_t fast, slow; /* 1/256 */
    int32_t spread;     /* 1/16 */
    int16_t value, error;
    uint32_t state; /* of the trellis */
} column;

typedef struct {
    int32_t centre[PLACES][FEATURES], width[PLACES][FEATURES]; /* 16 fractional bits */
    int32_t gain[2][KINDS], offset[2][KINDS];                  /* 16 fractional bits; by the quantizer */
    int32_t inverse;                                           /* SCALE / width */
    uint32_t quantizer;
    smidgen_range range;
} model;

static inline int32_t absolute(int32_t x) {
    return x < 0 ? -x : x;
}

/* Hardly anything ever has to be clamped, which processors foresee. */
static inline int32_t clamp(int64_t x, int32_t most) {
    if ((uint64_t)(x + most) <= 2 * (uint64_t)most)
        return (int32_t)x;
    return x > 0 ? most : -most;
}

/* In the law's unit, 8 fractional bits, as are all log-odds. */
static inline int32_t scaled(const model *m, int32_t x) {
    return (int32_t)(((int64_t)x * m->inverse) >> 12);
}

/* Between points that are 16 apart, x >= 0. */
static inline int32_t between(const uint16_t *points, int32_t x) {
    const int32_t i = x < 2047 ? x >> 4 : 127, rest = x < 2047 ? x & 15 : 15;
    return points[i] - (((points[i] - points[i + 1]) * rest) >> 4);
}

/* Between points that are 128 apart, 0 <= x < 4096. */
static inline int32_t between_far(const uint16_t *points, uint32_t x) {
    const int32_t low = points[x >> 7], high = points[(x >> 7) + 1];
    return low + (((high - low) * (int32_t)(x & 127) + 64) >> 7);
}

/* The curves of the law. A way that keeps all their points defines OWN_CURVES and its own of these. */
#ifndef OWN_CURVES
typedef struct {
    const uint16_t *tail, *step, *sigmoid;
} curves;

static inline void draw(curves *c) {
    *c = (curves){smidgen_tail, smidgen_step, smidgen_sigmoid};
}

static inline int32_t tail_at(const curves *c, int32_t x) {
    return between(c->tail, x);
}

static inline int32_t step_at(const curves *c, int32_t x) {
    return between(c->step, x);
}

static inline int32_t sigmoid_at(const curves *c, uint32_t x) {
    return between_far(c->sigmoid, x);
}
#endif

/* log(1 + exp(-x)) */
static inline int32_t tail(const curves *c, int32_t x) {
    return tail_at(c, absolute(x)) - (x < 0 ? x : 0);
}

/* log(exp(x) - 1), x >= 0. The log-odds that a weight lies above t + x rather than between t and t + x are
 * tail(t) - step(x). */
static inline int32_t step(const curves *c, int32_t x) {
    return x - step_at(c, x);
}

/* 65536 / (1 + exp(-x)) */
static inline int32_t squash(const curves *c, int32_t x) {
    return sigmoid_at(c, (uint32_t)(clamp(x, 2047) + 2048));
}

static inline int decide(model *m, const curves *c, uint32_t kind, int32_t odds, int bit, const int encode) {
    int32_t *gain = &m->gain[m->quantizer][kind], *offset = &m->offset[m->quantizer][kind], p, error;
    odds = clamp(odds, 4095);
    p = squash(c, (odds * *gain + *offset * 256) >> 16);
    bit = smidgen_range_code(&m->range, bit, (uint32_t)p, encode);
    error = (bit ? 65535 : 0) - p;
    *gain = clamp(*gain + ((odds * error + (1 << 17)) >> 18), 1 << 18);
    *offset = clamp(*offset + ((error + (1 << 8)) >> 9), 1 << 19);
    return bit;
}

/* Codes a symbol of -below..above. */
static inline int code_symbol(model *m, const curves *c, int32_t centre, int k, int below, int above,
                              const int encode) {
    const int32_t half = m->quantizer ? 8 : 16; /* of the cell of zero; the others end at 0, 32, .. or 16, 48, .. */
    const uint32_t bits = smidgen_length((uint32_t)(SCALE / m->inverse));
    uint32_t steps = 0, shift = bits > 10 ? bits - 10 : 0;
    int32_t from = scaled(m, centre - half), size = scaled(m, 2 * half), base;
    int negative = 0, most = above, a = 1;
    if (!above || !decide(m, c, 0, from, k > 0, encode)) {
        if (!below || !decide(m, c, 1, tail(c, from) - step(c, size), k < 0, encode))
            return 0;
        negative = 1;
        most = below;
        centre = -centre;
        k = -k;
    }
    /* |k| >= a: up in steps that suit the width, then in ever longer ones, as far as the alphabet goes */
    from = scaled(m, (m->quantizer ? 0 : 16) - centre);
    size = scaled(m, 32 << shift);
    base = step(c, size);
    while (a + (1 << shift) <= most) {
        if (!decide(m, c, 2 + (steps < 12 ? steps : 12), tail(c, from) - base, k >= a + (1 << shift), encode))
            break;
        a += 1 << shift;
        from += size;
        if (++steps >= 12) {
            shift++;
            size *= 2;
            base = step(c, size);
        }
    }
    /* which one of the last step: the upper half or the lower one, and so on */
    while (shift > 0) {
        shift--;
        size >>= 1;
        if (a + (1 << shift) > most)
            continue;
        if (decide(m, c, KINDS - 1, tail(c, from) - tail(c, from + 2 * size) - size, k >= a + (1 << shift), encode)) {
            a += 1 << shift;
            from += size;
        }
    }
    return (a ^ -negative) + negative; /* the sign is known by then, but not foreseen */
}

/* What a regression sums up. A way to compute with vectors defines OWN_REGRESSION and its own of the next four. */
#ifndef OWN_REGRESSION
typedef struct {
    int32_t of[FEATURES];
} features;

/* The last four of what went before, the latest first, then five more. */
static inline features gather(const int32_t last[4], int32_t a, int32_t b, int32_t c, int32_t d, int32_t e) {
    return (features){{last[0], last[1], last[2], last[3], a, b, c, d, e}};
}

static inline int64_t predict(const int32_t *weights, const features *x) {
    int64_t sum = 0;
    for (int i = 0; i < FEATURES; i++)
        sum += (int64_t)x->of[i] * weights[i];
    return sum;
}

/* Adds to each weight its feature times the rate, whose product has 24 fractional bits. */
static inline void correct(int32_t *weights, const features *x, int64_t rate) {
    for (int i = 0; i < FEATURES; i++)
        weights[i] = clamp(weights[i] + ((x->of[i] * rate + (1 << 23)) >> 24), MOST_WEIGHT);
}
#endif

/* Normalised least mean squares: the error, in the law's unit, and the features count in proportion to the width. Where
 * that is below a step, all but a few symbols are zero, and those few must not throw the weights about. */
static inline void learn(const model *m, int32_t *weights, const features *x, int32_t error) {
    correct(weights, x, (int64_t)clamp(error, 2048) * (m->inverse < SCALE / STEP ? m->inverse : SCALE / STEP));
}

/* A mean moves towards x by rate / 65536. */
static inline int32_t towards(int32_t mean, int32_t x, uint32_t rate) {
    return mean + (int32_t)(((int64_t)(x - mean) * rate) >> 16);
}

/* One number divides many: by a product with its inverse, where the machine has instructions for 128 bits of it. That is
 * exact, as what is divided, below 2^36, times the divisor, below 2^19, is below 2^64. */
typedef struct {
    uint64_t inverse;
    uint32_t of;
} divisor;

static inline divisor divisor_of(uint32_t number) {
    return (divisor){UINT64_MAX / number + 1, number};
}

static inline int64_t quotient(int32_t a, int32_t b, const divisor *by) {
    const uint64_t whole = (uint64_t)a * (uint64_t)b;
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__aarch64__))
    return (int64_t)((__extension__(unsigned __int128) whole * by->inverse) >> 64);
#else
    return (int64_t)(whole / by->of);
#endif
}

static void start(model *m, column *columns, size_t count, column fresh) {
    static const int32_t width[FEATURES] = {2400, 2400, 2400, 2400, 2400, 2400, 12000, 12000, 24000};
    for (size_t i = 0; i < PLACES; i++)
        for (size_t j = 0; j < FEATURES; j++) {
            m->centre[i][j] = 0;
            m->width[i][j] = width[j];
        }
    for (size_t i = 0; i < KINDS; i++) {
        m->gain[0][i] = m->gain[1][i] = 65536;
        m->offset[0][i] = m->offset[1][i] = 0;
    }
    for (size_t i = 0; i < count; i++)
        columns[i] = fresh;
}

static int zero_of(const smidgen_plane *plane) {
    return (int)(plane->zero < plane->levels ? plane->zero : plane->levels / 2);
}

/* Of a trellis, `states` is the number of its states, else 0. */
static inline void code_plane(model *m, const smidgen_plane *plane, uint8_t *symbols, int32_t spread, uint32_t states,
                              const int encode) {
    const size_t length = (size_t)plane->columns * plane->inner;
    const size_t back = plane->inner < 5 ? 5 : plane->inner; /* to the kernel before, or past the four symbols before */
    const int zero = zero_of(plane), above = (int)plane->levels - 1 - zero;
    const column fresh = {0, 0, spread, 0, (int16_t)(spread >> 4), 0};
    column *columns = (column *)(m + 1);
    uint8_t next[SMIDGEN_STATES][2] = {{0}}; /* where there is no trellis, all stay in state 0 */
    curves at;
    int32_t mean = spread; /* of the errors of all rows */
    int32_t v[4] = {0, 0, 0, 0}, e[4] = {fresh.error, fresh.error, fresh.error, fresh.error};
    for (uint32_t state = 0; state < states; state++)
        for (uint32_t parity = 0; parity < 2; parity++)
            next[state][parity] = (uint8_t)smidgen_next_state(states, state, parity);
    draw(&at);
    start(m, columns, length < CELLS ? length : CELLS, fresh);
    for (uint32_t r = 0; r < plane->rows; r++) {
        uint8_t *row = symbols + r * length;
        int32_t running = mean, level = 0; /* means of this row: of errors, of weights */
        const divisor by_mean = divisor_of((uint32_t)mean + 16);
        size_t place = 0;
        for (size_t c = 0; c < length; c++) {
            column *here = &columns[c % CELLS];
            const column *before = c < back ? &fresh : &columns[(c - back) % CELLS];
            int32_t *centres = m->centre[place % PLACES], *widths = m->width[place % PLACES];
            const features values =
                gather(v, here->value, before->value, level >> 8, here->fast >> 8, here->slow >> 8);
            /* where rows and columns differ in scale, their scales multiply */
            const int32_t product = clamp(quotient(running, here->spread, &by_mean), MOST_WIDTH);
            const features errors =
                gather(e, here->error, before->error, running >> 4, here->spread >> 4, product >> 4);
            const int32_t centre = clamp(predict(centres, &values) >> 16, MOST_VALUE);
            int32_t width = clamp(predict(widths, &errors) >> 12, MOST_WIDTH), error;
            int k;
            if (width < running / 4)
                width = running / 4;
            if (width < LEAST_WIDTH)
                width = LEAST_WIDTH;
            m->inverse = SCALE / width;
            m->quantizer = here->state & 1;
            k = code_symbol(m, &at, centre, encode ? (int)row[c] - zero : 0, zero, above, encode);
            if (!encode)
                row[c] = (uint8_t)(k + zero);
            v[3] = v[2], v[2] = v[1], v[1] = v[0];
            e[3] = e[2], e[2] = e[1], e[1] = e[0];
            v[0] = 32 * k - 16 * (int32_t)m->quantizer * ((k > 0) - (k < 0));
            error = v[0] - centre;
            e[0] = absolute(error);
            learn(m, centres, &values, 4 * scaled(m, error));
            learn(m, widths, &errors, scaled(m, e[0]) - 355);
            running = towards(running, e[0] * 16, smidgen_rate[c < 50 ? c + 12 : 62]);
            level = towards(level, v[0] * 256, smidgen_rate[c < 62 ? c : 62]);
            here->fast = towards(here->fast, v[0] * 256, 8192);
            here->slow = towards(here->slow, v[0] * 256, smidgen_rate[r < 255 ? r : 255]);
            here->spread = towards(here->spread, e[0] * 16, smidgen_rate[r < 22 ? r + 8 : 30]);
            here->value = (int16_t)v[0];
            here->error = (int16_t)e[0];
            here->state = next[here->state][k & 1];
            if (++place == plane->inner)
                place = 0;
        }
        mean = (mean + running) / 2;
    }
}

#endif
