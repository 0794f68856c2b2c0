/* trellis: dependent quantization, where each weight has one of two grids and the symbols before it say which.
 *
 * Grid 0 holds the even multiples of the scale, grid 1 the odd ones and zero. Eight states, moved on by the parity of
 * every symbol, choose the grid (the lowest bit of the state). So each weight costs what a grid of double steps costs,
 * while a path through the states comes nearer to the weights than such a grid could. The states run down the rows
 * (the outputs) of each column on its own: the feedback of errors from column to column does not touch a path, which is
 * found by dynamic programming (Viterbi). Feedback from row to row does, so every survivor has its own. */
#include "internal.h"

enum { STATES = 8, CANDIDATES = 4, BLOCK = 64 };

#define UNREACHED 1e30f

static const uint8_t next_state[STATES][2] = {{0, 2}, {5, 7}, {1, 3}, {6, 4}, {2, 0}, {4, 6}, {3, 1}, {7, 5}};

static inline int level_of(int symbol, int grid) {
    return 2 * symbol - (symbol > 0 ? grid : symbol < 0 ? -grid : 0);
}

void smidgen_trellis_levels(uint32_t rows, uint32_t columns, const int16_t *symbols, int16_t *levels, uint8_t *grids,
                            uint8_t *states) {
    for (size_t c = 0; c < columns; c++)
        states[c] = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) {
            int symbol = symbols[r * columns + c];
            grids[r * columns + c] = states[c] & 1;
            levels[r * columns + c] = (int16_t)level_of(symbol, states[c] & 1);
            states[c] = next_state[states[c]][symbol & 1];
        }
}

/* The cheapest symbol of each parity on one grid, for a weight that is `x` scales from zero. */
typedef struct {
    float cost[2];
    int16_t symbol[2];
} choice;

static choice choose(float x, int grid, float harm, const float *cost, int limit) {
    choice best = {{UNREACHED, UNREACHED}, {0, 0}};
    float size = x < 0 ? -x : x;
    int below = size < 2.0f * (float)limit ? (int)(0.5f * (size + (float)grid)) : limit;
    int tried[CANDIDATES];
    tried[0] = 0; /* the cheapest to tell, whatever the distance */
    tried[1] = below > 0 ? below - 1 : 0;
    tried[2] = below > limit ? limit : below;
    tried[3] = below + 1 > limit ? limit : below + 1;
    for (int i = 0; i < CANDIDATES; i++) {
        int symbol = x < 0 ? -tried[i] : tried[i];
        float error = x - (float)level_of(symbol, grid);
        float total = harm * error * error + cost[symbol];
        if (total < best.cost[symbol & 1]) {
            best.cost[symbol & 1] = total;
            best.symbol[symbol & 1] = (int16_t)symbol;
        }
    }
    return best;
}

/* The eight survivors in a block of rows: what each has added up to, and its symbols and errors so far. */
typedef struct {
    float sum[STATES];
    float error[BLOCK][STATES]; /* of the output: what later rows can make up for */
    int16_t symbol[BLOCK][STATES];
} survivors;

/* Of the paths that end in the same state only the cheapest goes on. `aim` has one number for each survivor. */
static void extend(const survivors *now, survivors *next, size_t row, const float aim[STATES], float target,
                   const smidgen_squeeze *q, float harm) {
    const float *const costs[2] = {q->cost + q->limit, q->cost + 3 * q->limit + 1};
    float least = UNREACHED;
    uint8_t from[STATES] = {0};
    int16_t symbol[STATES] = {0};
    for (int s = 0; s < STATES; s++)
        next->sum[s] = UNREACHED;
    for (int s = 0; s < STATES; s++) {
        choice best;
        if (now->sum[s] >= UNREACHED)
            continue;
        best = choose(aim[s] / q->scale, s & 1, harm, costs[s & 1], q->limit);
        for (int parity = 0; parity < 2; parity++) {
            int to = next_state[s][parity];
            float total = now->sum[s] + best.cost[parity];
            if (total < next->sum[to]) {
                next->sum[to] = total;
                from[to] = (uint8_t)s;
                symbol[to] = best.symbol[parity];
            }
        }
    }
    for (int s = 0; s < STATES; s++)
        least = next->sum[s] < least ? next->sum[s] : least;
    for (int s = 0; s < STATES; s++) {
        if (next->sum[s] < UNREACHED)
            next->sum[s] -= least; /* so that sums stay small, and exact enough, however many rows there are */
        next->symbol[row][s] = symbol[s];
        next->error[row][s] = target - q->scale * (float)level_of(symbol[s], from[s] & 1);
    }
    for (size_t r = 0; r < row; r++)
        for (int s = 0; s < STATES; s++) {
            next->symbol[r][s] = now->symbol[r][from[s]];
            next->error[r][s] = now->error[r][from[s]];
        }
}

/* The cheapest path through `count` rows from `first` on, starting in `state`. Returns the state it ends in. */
static int find_path(const smidgen_squeeze *q, size_t first, size_t count, int state, float harm, const float *targets,
                     const float *aims, int16_t *symbols) {
    survivors both[2], *now = &both[0], *next = &both[1];
    int best = 0;
    for (int s = 0; s < STATES; s++)
        now->sum[s] = s == state ? 0 : UNREACHED;
    for (size_t r = 0; r < count; r++) {
        survivors *swap = now;
        float aim[STATES];
        for (int s = 0; s < STATES; s++)
            aim[s] = aims[first + r];
        for (size_t before = 0; before < r; before++) {
            float factor = q->row_feedback[(first + before) * q->rows + first + r];
            for (int s = 0; s < STATES; s++)
                aim[s] += factor * now->error[before][s];
        }
        extend(now, next, r, aim, targets[first + r], q, harm * q->row_harm[first + r] * q->scale * q->scale);
        now = next;
        next = swap;
    }
    for (int s = 1; s < STATES; s++)
        best = now->sum[s] < now->sum[best] ? s : best;
    for (size_t r = 0; r < count; r++) {
        symbols[first + r] = now->symbol[r][best];
        state = next_state[state][symbols[first + r] & 1];
    }
    return state;
}

/* One column, in blocks of rows: later blocks make up for the errors of the earlier ones, which are then fixed. */
static void squeeze_column(const smidgen_squeeze *q, float harm, const float *weights, const float *targets,
                           int16_t *symbols, float *errors, float *aims) {
    int state = 0;
    for (size_t r = 0; r < q->rows; r++)
        aims[r] = targets[r];
    for (size_t first = 0; first < q->rows; first += BLOCK) {
        size_t count = q->rows - first < BLOCK ? q->rows - first : BLOCK;
        int before = state;
        state = find_path(q, first, count, state, harm, targets, aims, symbols);
        for (size_t r = first; r < first + count; r++) {
            const float *factors = q->row_feedback + r * q->rows;
            float value = q->scale * (float)level_of(symbols[r], before & 1), missed = targets[r] - value;
            before = next_state[before][symbols[r] & 1];
            errors[r] = weights[r] - value;
            for (size_t later = first + count; later < q->rows; later++)
                aims[later] += factors[later] * missed;
        }
    }
}

void smidgen_trellis_squeeze(const smidgen_squeeze *q, const float *weights, float *targets, int16_t *symbols,
                             float *errors, float *aims) {
    for (size_t c = 0; c < q->columns; c++) {
        size_t start = c * q->rows;
        for (size_t before = 0; before < c; before++) {
            float factor = q->column_feedback[before * q->columns + c];
            const float *earlier = errors + before * q->rows;
            for (size_t r = 0; r < q->rows; r++)
                targets[start + r] += factor * earlier[r];
        }
        squeeze_column(q, q->column_harm[c], weights + start, targets + start, symbols + start, errors + start, aims);
    }
}
