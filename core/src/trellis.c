/* trellis: dependent quantization, where each weight has one of two grids and the symbols before it say which.
 *
 * Grid 0 holds the even multiples of the scale, grid 1 the odd ones and zero. States, moved on by the parity of every
 * symbol, choose the grid (the lowest bit of the state). So each weight costs what a grid of double steps costs, while a
 * path through the states comes nearer to the weights than such a grid could, the nearer the more states there are. The
 * states run down the rows (the outputs) of each column on its own: the feedback of errors from column to column does
 * not touch a path, which is found by dynamic programming (Viterbi). Feedback from row to row does, so every survivor
 * has its own. */
#include "internal.h"

enum {
    STATES = SMIDGEN_STATES,
    WINDOW = 64, /* rows in which survivors may differ */
    PRUNE = 4    /* rows between two searches for nodes that no survivor comes from */
};

#define UNREACHED 1e30f

typedef uint64_t set; /* of states */

/* A state's highest bit is the grid of the state before it, whose other bits follow from the parity between them. */
static inline int state_before(int state, int parity) {
    const int grid = state >= STATES / 2, code = (grid ? SMIDGEN_ODD_GRID : 0) ^ (parity ? SMIDGEN_ODD_SYMBOL : 0);
    return ((state ^ code) & (STATES / 2 - 1)) << 1 | grid;
}

static inline int level_of(int symbol, int grid) {
    return 2 * symbol - (symbol > 0 ? grid : symbol < 0 ? -grid : 0);
}

void smidgen_trellis_levels(uint32_t kinds, uint32_t rows, uint32_t columns, const int16_t *symbols, int16_t *levels,
                            uint8_t *grids, uint8_t *states) {
    for (size_t c = 0; c < columns; c++)
        states[c] = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) {
            int symbol = symbols[r * columns + c];
            grids[r * columns + c] = states[c] & 1;
            levels[r * columns + c] = (int16_t)level_of(symbol, states[c] & 1);
            states[c] = (uint8_t)smidgen_next_state(kinds, states[c], symbol & 1);
        }
}

/* What each survivor would add up to with its cheapest symbol of each parity, and that symbol. */
typedef struct {
    float cost[2][STATES];
    int16_t symbol[2][STATES];
} choices;

/* Tried are the levels around a weight that is `x` scales from zero, and zero, which is the cheapest to tell. */
static inline void choose(choices *found, int state, float sum, float x, float harm, const smidgen_squeeze *q) {
    const int grid = state & 1, sign = x < 0 ? -1 : 1;
    const float *cost = q->cost + (grid ? 3 * q->limit + 1 : q->limit), size = x < 0 ? -x : x;
    const float moved = size + (float)grid; /* so that symbol k > 0 is at 2 k on either grid */
    const int k = moved < 2.0f * (float)q->limit ? (int)(0.5f * moved) : q->limit - 1;
    const int under = k ? k - 1 : k + 1, above = k + 1, parity = k & 1;
    const float at = k ? moved - 2.0f * (float)k : size, at_above = moved - 2.0f * (float)above;
    const float at_under = under ? moved - 2.0f * (float)under : size;
    const float near = harm * at * at + cost[sign * k], far = harm * at_above * at_above + cost[sign * above];
    const float low = harm * at_under * at_under + cost[sign * under], zero = harm * size * size + cost[0];
    float total[2];
    int symbol[2];
    total[parity] = near;
    symbol[parity] = k;
    total[!parity] = low < far ? low : far;
    symbol[!parity] = low < far ? under : above;
    symbol[0] = zero < total[0] ? 0 : symbol[0];
    total[0] = zero < total[0] ? zero : total[0];
    for (int i = 0; i < 2; i++) {
        found->cost[i][state] = sum + total[i];
        found->symbol[i][state] = (int16_t)(sign * symbol[i]);
    }
}

/* The survivors and the tree of what they come from. It has a node for each row and each state that some survivor went
 * through; row r is at r % WINDOW. Rows before `settled` are the same for all, and their errors are in the aims. */
typedef struct {
    float sum[STATES];
    float error[WINDOW][STATES]; /* of the output: what later rows can make up for */
    uint8_t parent[WINDOW][STATES], nodes[WINDOW][STATES], count[WINDOW];
    size_t settled;
} tree;

static int best_of(const tree *t) {
    int best = 0;
    for (int s = 1; s < STATES; s++)
        best = t->sum[s] < t->sum[best] ? s : best;
    return best;
}

/* Leaves out the nodes that no survivor comes from, up to `row`. */
static void prune(tree *t, size_t row) {
    for (; row > t->settled; row--) {
        const uint8_t *nodes = t->nodes[row % WINDOW], *parent = t->parent[row % WINDOW];
        uint8_t *before = t->nodes[(row - 1) % WINDOW], count = 0;
        set needed = 0;
        for (size_t i = 0; i < t->count[row % WINDOW]; i++)
            needed |= (set)1 << parent[nodes[i]];
        for (size_t i = 0; i < t->count[(row - 1) % WINDOW]; i++) {
            const uint8_t state = before[i];
            before[count] = state;
            count = (uint8_t)(count + (needed >> state & 1));
        }
        t->count[(row - 1) % WINDOW] = count;
    }
}

/* Adds the errors of rows that have one node left to the aims of all later rows. A row that leaves the window counts
 * with what the best survivor has there. */
static void settle(tree *t, const smidgen_squeeze *q, size_t row, float *aims) {
    for (; t->settled < row; t->settled++) {
        const size_t place = t->settled % WINDOW;
        const float *factors = q->row_feedback + t->settled * q->rows;
        int state = t->nodes[place][0];
        if (t->count[place] > 1) {
            if (row - t->settled < WINDOW)
                return;
            state = best_of(t);
            for (size_t r = row - 1; r > t->settled; r--)
                state = t->parent[r % WINDOW][state];
        }
        for (size_t later = row; later < q->rows; later++)
            aims[later] += factors[later] * t->error[place][state];
    }
}

/* What each survivor aims at in `row`: from the oldest nodes on, the errors on its path added up. The answer is in one
 * of the two arrays of `work`. */
static const float *aim_at(const tree *t, const smidgen_squeeze *q, size_t row, float aim, float work[2][STATES]) {
    float *before = work[0], *now = work[1];
    for (int s = 0; s < STATES; s++)
        before[s] = aim;
    for (size_t r = t->settled; r < row; r++) {
        const uint8_t *nodes = t->nodes[r % WINDOW], *parent = t->parent[r % WINDOW];
        const float *error = t->error[r % WINDOW], factor = q->row_feedback[r * q->rows + row];
        float *swap = before;
        for (size_t i = 0; i < t->count[r % WINDOW]; i++)
            now[nodes[i]] = before[parent[nodes[i]]] + factor * error[nodes[i]];
        before = now;
        now = swap;
    }
    return before;
}

/* Of the paths that end in the same state only the cheapest goes on. */
static void extend(tree *t, const choices *found, const smidgen_squeeze *q, size_t row, float target, int16_t *path) {
    const size_t place = row % WINDOW;
    float least = UNREACHED;
    uint8_t count = 0;
    for (int s = 0; s < STATES; s++) {
        const int even = state_before(s, 0), odd = state_before(s, 1);
        const int parity = found->cost[1][odd] < found->cost[0][even];
        const float sum = parity ? found->cost[1][odd] : found->cost[0][even];
        path[s] = parity ? found->symbol[1][odd] : found->symbol[0][even];
        t->error[place][s] = target - q->scale * (float)level_of(path[s], even & 1);
        t->parent[place][s] = (uint8_t)(parity ? odd : even);
        t->nodes[place][count] = (uint8_t)s;
        count = (uint8_t)(count + (sum < UNREACHED));
        t->sum[s] = sum;
        least = sum < least ? sum : least;
    }
    t->count[place] = count;
    for (int s = 0; s < STATES; s++) /* so that sums stay small, and exact enough, however many rows there are */
        t->sum[s] = t->sum[s] < UNREACHED ? t->sum[s] - least : UNREACHED;
}

/* The cheapest path down one column. `paths` has the symbol that leads to each state of each row. */
static void squeeze_column(const smidgen_squeeze *q, float harm, const float *weights, const float *targets,
                           int16_t *symbols, float *errors, float *aims, int16_t *paths) {
    const float inverse = 1 / q->scale;
    tree survivors, *t = &survivors;
    int state;
    t->settled = 0;
    for (int s = 0; s < STATES; s++)
        t->sum[s] = s ? UNREACHED : 0;
    for (size_t r = 0; r < q->rows; r++)
        aims[r] = targets[r];
    for (size_t r = 0; r < q->rows; r++) {
        float work[2][STATES];
        choices found;
        const float *aim, row_harm = harm * q->row_harm[r] * q->scale * q->scale;
        settle(t, q, r, aims);
        aim = aim_at(t, q, r, aims[r], work);
        for (int s = 0; s < STATES; s++) {
            if (t->sum[s] < UNREACHED) {
                choose(&found, s, t->sum[s], aim[s] * inverse, row_harm, q);
                continue;
            }
            found.cost[0][s] = found.cost[1][s] = UNREACHED;
            found.symbol[0][s] = found.symbol[1][s] = 0;
        }
        extend(t, &found, q, r, targets[r], paths + r * STATES);
        if (r % PRUNE == PRUNE - 1)
            prune(t, r);
    }
    state = best_of(t);
    for (size_t r = q->rows; r-- > 0;) {
        symbols[r] = paths[r * STATES + (size_t)state];
        state = state_before(state, symbols[r] & 1);
        errors[r] = weights[r] - q->scale * (float)level_of(symbols[r], state & 1);
    }
}

void smidgen_trellis_squeeze(const smidgen_squeeze *q, const float *weights, float *targets, int16_t *symbols,
                             float *errors, float *aims, int16_t *paths) {
    for (size_t c = 0; c < q->columns; c++) {
        size_t start = c * q->rows;
        for (size_t before = 0; before < c; before++) {
            float factor = q->column_feedback[before * q->columns + c];
            const float *earlier = errors + before * q->rows;
            for (size_t r = 0; r < q->rows; r++)
                targets[start + r] += factor * earlier[r];
        }
        squeeze_column(q, q->column_harm[c], weights + start, targets + start, symbols + start, errors + start, aims,
                       paths);
    }
}
