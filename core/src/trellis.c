/* trellis: dependent quantization, where each weight has one of two grids and the symbols before it say which.
 *
 * Grid 0 holds the even multiples of the scale, grid 1 the odd ones and zero. Eight states, moved on by the parity of
 * every symbol, choose the grid (the lowest bit of the state). So each weight costs what a grid of double steps costs,
 * while a path through the states comes nearer to the weights than such a grid could. The states run down the rows
 * (the outputs) of each column on its own: feedback of errors, which goes from column to column, does not touch a path,
 * and the best path is found exactly (Viterbi). */
#include "internal.h"

enum { STATES = 8, CANDIDATES = 4 };

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
    choice best = {{1e30f, 1e30f}, {0, 0}};
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

/* The path of least cost for one column of targets, given in scales. `trace` holds 8 entries a row. */
static void find_path(uint32_t rows, const float *target, float inverse, float harm, const float *cost, int limit,
                      int16_t *symbols, smidgen_trace *trace) {
    const float *costs[2] = {cost + limit, cost + 3 * limit + 1};
    float sum[STATES] = {0};
    int state = 0;
    for (int s = 1; s < STATES; s++)
        sum[s] = 1e30f;
    for (size_t r = 0; r < rows; r++) {
        smidgen_trace *row = trace + r * STATES;
        float reached[STATES], least = 1e38f;
        choice grids[2];
        for (int grid = 0; grid < 2; grid++)
            grids[grid] = choose(target[r] * inverse, grid, harm, costs[grid], limit);
        for (int s = 0; s < STATES; s++)
            reached[s] = 1e38f;
        for (int s = 0; s < STATES; s++)
            for (int parity = 0; parity < 2; parity++) {
                int to = next_state[s][parity];
                float total = sum[s] + grids[s & 1].cost[parity];
                if (total < reached[to]) {
                    reached[to] = total;
                    row[to].from = (uint8_t)s;
                    row[to].symbol = grids[s & 1].symbol[parity];
                }
            }
        for (int s = 0; s < STATES; s++)
            least = reached[s] < least ? reached[s] : least;
        for (int s = 0; s < STATES; s++)
            sum[s] = reached[s] - least; /* so that sums stay small, and exact enough, however many rows there are */
    }
    for (int s = 1; s < STATES; s++)
        state = sum[s] < sum[state] ? s : state;
    for (size_t r = rows; r-- > 0;) {
        symbols[r] = trace[r * STATES + (size_t)state].symbol;
        state = trace[r * STATES + (size_t)state].from;
    }
}

void smidgen_trellis_squeeze(uint32_t rows, uint32_t columns, const float *feedback, const float *harm, float scale,
                             const float *cost, int32_t limit, const float *weights, float *targets, int16_t *symbols,
                             float *errors, smidgen_trace *trace) {
    for (size_t c = 0; c < columns; c++) {
        float *target = targets + c * rows, *error = errors + c * rows;
        int16_t *chosen = symbols + c * rows;
        int state = 0;
        for (size_t before = 0; before < c; before++) {
            float factor = feedback[c * columns + before];
            const float *earlier = errors + before * rows;
            for (size_t r = 0; r < rows; r++)
                target[r] += factor * earlier[r];
        }
        find_path(rows, target, 1.0f / scale, harm[c] * scale * scale, cost, limit, chosen, trace);
        for (size_t r = 0; r < rows; r++) {
            error[r] = weights[c * rows + r] - scale * (float)level_of(chosen[r], state & 1);
            state = next_state[state][chosen[r] & 1];
        }
    }
}
