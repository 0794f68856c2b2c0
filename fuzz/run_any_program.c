/* Any file may ask to be run: it is refused, or every way that this processor has computes the same bits, within the
 * memory that loading asked for. A target for libFuzzer, and with replay.c a program of its own.
 *
 * What a program may not do, and what aborts here: make the loader take more than smidgen_needs says; let its answer
 * depend on what lay in a buffer, on the run before, on the way, or on the number of threads; write any byte that is not
 * of the tensor that an operation writes. Buffers have exact sizes, so that AddressSanitizer sees a step too far; and
 * under MemorySanitizer nothing is filled, so that it sees whatever the loader forgot to write. */
#define _POSIX_C_SOURCE 200809L /* posix_memalign */
#include "hostile_file.h"
#include "src/engine.h"

#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#define UNFILLED
#endif
#endif

/* More is legal but slow: the fuzzer has better things to do. */
enum { MOST_MEMORY = 1 << 20, MOST_WORK = 5 << 20, MOST_FILLED = 1 << 16, THREADS = 2 };
#define MOST_COST ((uint64_t)1 << 21)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int truth) {
    if (!truth)
        abort();
}

/* Filled where it is used first: work has megabytes that only some codecs touch. */
static void *allocate(size_t size, int filler) {
    void *memory;
    require(posix_memalign(&memory, 64, size ? size : 1) == 0);
#ifdef UNFILLED
    (void)filler;
#else
    memset(memory, filler, size < MOST_FILLED ? size : MOST_FILLED);
#endif
    return memory;
}

typedef struct {
    const uint8_t *data;
    size_t size;
} bytes;

typedef struct {
    void *memory;
    smidgen_network *network;
} loaded;

/* Loads with buffers of these sizes; the network is to be freed where the status is 0. */
static int load(bytes file, int way, uint64_t memory_size, uint64_t work_size, int filler, loaded *made) {
    void *work = allocate((size_t)work_size, filler);
    int status;
    made->memory = allocate((size_t)memory_size, filler);
    status = smidgen_load(file.data, file.size, way, made->memory, (size_t)memory_size, work, (size_t)work_size,
                          &made->network);
    require(status <= 0);
    if (status)
        free(made->memory);
    free(work);
    return status;
}

/* About how many bytes a run touches and products it computes. */
static uint64_t cost(const smidgen_network *n) {
    uint64_t all = 0;
    for (uint32_t i = 0; i < n->operation_count; i++) {
        const smidgen_operation *o = &n->operations[i];
        const smidgen_value *in = &n->values[o->input], *out = &n->values[o->output];
        const uint64_t pixels = (uint64_t)out->height * out->width;
        uint64_t each = 8 * out->channels;
        if (o->kind == SMIDGEN_MEAN)
            each = (uint64_t)in->height * in->width * in->channels;
        else if (o->kernel_height)
            each = (uint64_t)(out->channels + 16) * o->kernel_height * o->kernel_width;
        if (o->kind == SMIDGEN_SIGNS_CONVOLUTION)
            each *= o->channels;
        for (uint32_t b = 0; o->blocks && b < o->block_count; b++)
            each += (uint64_t)o->blocks[b].steps * SMIDGEN_BLOCK * SMIDGEN_STEP;
        all += out->last - out->first + pixels * each;
    }
    return all;
}

/* Numbers such as they come, mixed with those that arithmetic stumbles over. */
static void draw(float *input, size_t count, const smidgen_value *v, uint32_t seed, int wild) {
    static const uint32_t edges[] = {0x7fc00000, 0xffc00001, 0x7f800001, 0x7f800000, 0xff800000, 0x7f7fffff,
                                     0xff7fffff, 0x00000001, 0x80000000, 0x4effffff, 0xcf000000, 0x3f000000};
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        input[i] = ((float)(seed >> 16) / 200.0f - 30.0f - (float)v->zero) * v->scale;
        if (wild && seed >> 8 & 1)
            memcpy(&input[i], &edges[(seed >> 9) % (sizeof edges / sizeof edges[0])], 4);
    }
}

/* Ordinary numbers, wild ones, and a picture where the program takes pictures. */
enum { ORDINARY, WILD, PICTURE, KINDS };

typedef struct {
    smidgen_facts facts;
    uint32_t kinds;
    float *numbers[PICTURE];
    uint8_t *pixels;
    float *answers[KINDS];
    float *found;
} trial;

static void answer(smidgen_network *n, smidgen_team *team, const trial *t, uint32_t kind, float *out) {
    if (kind == PICTURE)
        require(smidgen_run_picture(n, team, t->pixels, out) == 0);
    else
        smidgen_run(n, team, t->numbers[kind], out);
}

static int is_number_at(const smidgen_value *v, uint32_t at) {
    return at >= v->first && at < v->last && (v->type || (at - v->first) % v->pitch < v->channels);
}

/* Runs operation by operation: each leaves alone what is not its output's, the network's own memory included. Not where
 * that may have gaps that nothing filled. */
static void check_writes(const loaded *l, const trial *t) {
    smidgen_network *n = l->network;
    const size_t before = (size_t)(n->arena - (uint8_t *)l->memory), all = before + n->arena_size + 64;
    uint8_t *copy;
#ifdef UNFILLED
    return;
#endif
    if ((uint64_t)all * n->operation_count > MOST_COST)
        return;
    copy = allocate(all, 0);
    answer(n, NULL, t, WILD, t->found); /* sets the input */
    for (uint32_t i = 0; i < n->operation_count; i++) {
        const smidgen_value *out = &n->values[n->operations[i].output];
        memcpy(copy, l->memory, all);
        smidgen_run_operation(n, &n->operations[i], 0, 1);
        require(memcmp(copy, l->memory, before) == 0);
        for (uint32_t at = 0; at < n->arena_size + 64; at++)
            require(copy[before + at] == n->arena[at] || is_number_at(out, at));
    }
    free(copy);
}

/* All inputs, and the first once more with a team, over an arena with this rubbish in it. */
static void run(const loaded *l, smidgen_team *team, const trial *t, int filler) {
    for (uint32_t turn = 0; turn <= t->kinds; turn++) {
        const uint32_t kind = turn % t->kinds;
        memset(l->network->arena, filler, l->network->arena_size); /* whatever is read was written in the same run */
        answer(l->network, turn == t->kinds ? team : NULL, t, kind, t->found);
        require(memcmp(t->found, t->answers[kind], t->facts.outputs * sizeof(float)) == 0);
    }
}

static void run_all_ways(bytes file, const uint64_t needs[2], const trial *t) {
    void *room = allocate(smidgen_team_size(THREADS), 0);
    smidgen_team *team = smidgen_team_start(room, THREADS);
    require(team != NULL);
    for (int way = SMIDGEN_PORTABLE; way <= SMIDGEN_AVX512_VNNI; way++) {
        smidgen_facts facts;
        loaded l;
        if (!smidgen_can(way))
            continue;
        require(load(file, way, needs[0], needs[1], 0xff, &l) == 0);
        smidgen_about(l.network, &facts);
        run(&l, team, t, 0x80);
        free(l.memory);
        require(facts.memory <= needs[0] && facts.work <= needs[1] && facts.outputs == t->facts.outputs);
        for (uint64_t parts = 4; parts > (way == SMIDGEN_PORTABLE ? 0u : 3u); parts--) {
            require(load(file, way, (facts.memory - 1) * parts / 4, facts.work, 0, &l) == SMIDGEN_SPACE);
            require(load(file, way, facts.memory, (facts.work - 1) * parts / 4, 0, &l) == SMIDGEN_SPACE);
        }
        require(load(file, way, facts.memory, facts.work, 0, &l) == 0);
        run(&l, team, t, 0x7f);
        check_writes(&l, t);
        free(l.memory);
    }
    smidgen_team_stop(team);
    free(room);
}

/* What the first way answers, and all that follows from the file being accepted. */
static void try_network(bytes file, const uint64_t needs[2]) {
    trial t;
    loaded l;
    size_t count;
    require(load(file, SMIDGEN_PORTABLE, needs[0], needs[1], 0, &l) == 0);
    smidgen_about(l.network, &t.facts);
    count = (size_t)t.facts.channels * t.facts.height * t.facts.width;
    if (cost(l.network) + count > MOST_COST) {
        free(l.memory);
        return;
    }
    t.kinds = t.facts.picture ? KINDS : PICTURE;
    t.found = allocate(t.facts.outputs * sizeof(float), 0);
    t.pixels = allocate(count, 0);
    for (size_t i = 0; i < count; i++)
        t.pixels[i] = (uint8_t)(i * 37);
    for (int kind = 0; kind < PICTURE; kind++) {
        t.numbers[kind] = allocate(count * sizeof(float), 0);
        draw(t.numbers[kind], count, &l.network->values[0], (uint32_t)file.size, kind == WILD);
    }
    for (uint32_t kind = 0; kind < t.kinds; kind++) {
        t.answers[kind] = allocate(t.facts.outputs * sizeof(float), 0);
        answer(l.network, NULL, &t, kind, t.answers[kind]);
    }
    free(l.memory);
    run_all_ways(file, needs, &t);
    for (uint32_t kind = 0; kind < t.kinds; kind++)
        free(t.answers[kind]);
    for (int kind = 0; kind < PICTURE; kind++)
        free(t.numbers[kind]);
    free(t.pixels);
    free(t.found);
}

/* A refused file is also refused by what its header asks for, which may be too little; or too much, but who loads it
 * decides that. */
static void refuse(bytes file, const smidgen_file *header, int status) {
    loaded l;
    if (header->memory > MOST_MEMORY || header->work > MOST_WORK)
        return;
    if (load(file, smidgen_best_way(), header->memory, header->work, 0xaa, &l) == 0) {
        require(status == SMIDGEN_SPACE); /* another way needs more than the fuzzer gives */
        free(l.memory);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    smidgen_file header;
    uint8_t *copy;
    if (!is_file(data, size))
        return 0;
    copy = allocate(size, 0);
    memcpy(copy, data, size);
    if (open_repaired(copy, size, SMIDGEN_PROGRAM, &header) == 0) {
        const bytes file = {copy, size};
        void *memory = allocate(MOST_MEMORY, 0x55), *work = allocate(MOST_WORK, 0x55);
        uint64_t needs[2];
        const int status = smidgen_needs(copy, size, memory, MOST_MEMORY, work, MOST_WORK, needs);
        free(memory);
        free(work);
        require(status <= 0);
        if (status)
            refuse(file, &header, status);
        else
            try_network(file, needs);
    }
    free(copy);
    return 0;
}
