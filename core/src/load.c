/* load: from a file to a network that is ready to run. */
#include "load.h"

enum { TEXT_SCRATCH = 3 * 1024 * 1024 };

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

static int load_convolution(loader *l, smidgen_operation *o) {
    const size_t before = l->work.used;
    kernel k;
    const int status = smidgen_decode_kernel(l, o, &k);
    if (status)
        return status;
    l->work.used = before; /* the kernel stays there until something else is decoded */
    return smidgen_pack(l, o, &k);
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
        const smidgen_kernels kernels = {.lanes = lanes, .most = 127};
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
    smidgen_map_size(n, &facts->map_height, &facts->map_width);
    facts->operations = n->operation_count;
    facts->way = n->way;
    facts->memory = n->memory;
    facts->work = n->work;
}

