/* web: what a browser calls, built by `make wasm` together with the core; src/smidgen/web/page/smidgen.js is the other side.
 *
 * An instance holds one network. Its memory is a stack of places that grows with what is put on it: the file, the decoded
 * labels, the network. What lies above is free again: the work of loading, then a picture and what is made of it. */
#include "../smidgen.h"

#define CALLED_FROM_JAVASCRIPT(name) __attribute__((export_name(#name)))

enum { PAGE = 65536, ALIGNMENT = 64, SECTION_SCRATCH = 3 << 20 };

/* Kernels for browsers may pack weights larger than those that the header of a file counts with. */
enum { LARGER = 3 };

/* Bytes that a file may ask for; what its header says is not believed beyond. */
#define MOST_MEMORY ((uint64_t)1 << 30)

extern uint8_t __heap_base;

static struct {
    uint32_t height, width, outputs, map_height, map_width, probabilities;
    const uint8_t *labels;
    uint32_t labels_size;
} about;

static smidgen_network *network;
static smidgen_facts facts;
static uint64_t used;     /* up to where memory is taken for good */
static uint8_t *picture;  /* of the network's size, RGB */
static float *scores, *map;
static uint64_t pixels_at; /* where a visitor's picture lies */

/* The end of `size` bytes from `start` on, for which memory has been grown; 0 if there is not so much. */
static uint64_t grown(uint64_t start, uint64_t size) {
    const uint64_t end = (start + size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, pages = (end + PAGE - 1) / PAGE;
    const uint64_t there = __builtin_wasm_memory_size(0);
    if (pages > there && (pages > PAGE || __builtin_wasm_memory_grow(0, (size_t)(pages - there)) == SIZE_MAX))
        return 0;
    return end;
}

static void *at(uint64_t place) {
    return (void *)(uintptr_t)place;
}

/* A place for the file, at the bottom of the memory. NULL if there is no memory. */
CALLED_FROM_JAVASCRIPT(place_for_file) uint8_t *place_for_file(uint32_t size) {
    const uint64_t start = ((uintptr_t)&__heap_base + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    used = grown(start, size);
    return used ? at(start) : 0;
}

/* Places for what every picture needs. */
static int place_results(void) {
    const uint64_t places = (uint64_t)facts.map_height * facts.map_width;
    const uint64_t picture_at = used, scores_at = grown(picture_at, (uint64_t)3 * facts.width * facts.height);
    const uint64_t map_at = scores_at ? grown(scores_at, (uint64_t)facts.outputs * sizeof(float)) : 0;
    used = map_at ? grown(map_at, places * sizeof(float)) : 0;
    picture = at(picture_at);
    scores = at(scores_at);
    map = at(map_at);
    return used ? 0 : SMIDGEN_SPACE;
}

/* Makes the network of the file ready; 0 or a negative code. SMIDGEN_USAGE: it has none, or none for pictures. */
CALLED_FROM_JAVASCRIPT(open) int open(const uint8_t *data, uint32_t size) {
    smidgen_file file;
    uint64_t memory, memory_end, work_end;
    int status = smidgen_open(data, size, &file);
    if (status)
        return status;
    if (!file.sections[SMIDGEN_PROGRAM].size)
        return SMIDGEN_USAGE;
    memory = LARGER * (uint64_t)file.memory;
    if (memory + file.work > MOST_MEMORY)
        return SMIDGEN_SPACE;
    about.labels = at(used);
    about.labels_size = (uint32_t)file.sections[SMIDGEN_LABELS].size;
    used = grown(used, about.labels_size);
    if (!used || !grown(used, SECTION_SCRATCH))
        return SMIDGEN_SPACE;
    status = smidgen_read_section(data, &file, SMIDGEN_LABELS, at((uintptr_t)about.labels), at(used));
    if (status)
        return status;
    memory_end = grown(used, memory);
    work_end = memory_end ? grown(memory_end, file.work) : 0;
    if (!work_end)
        return SMIDGEN_SPACE;
    status = smidgen_load(data, size, smidgen_best_way(), at(used), (size_t)memory, at(memory_end), file.work, &network);
    if (status)
        return status == SMIDGEN_SPACE ? SMIDGEN_BAD_PROGRAM : status;
    smidgen_about(network, &facts);
    if (!facts.picture)
        return SMIDGEN_USAGE;
    used = grown(used, facts.memory);
    about.height = facts.height;
    about.width = facts.width;
    about.outputs = facts.outputs;
    about.map_height = facts.map_height;
    about.map_width = facts.map_width;
    about.probabilities = facts.probabilities;
    return place_results();
}

/* Numbers of 32 bits: height, width, outputs, rows and columns of the map, whether outputs are probabilities; place and
 * bytes of the labels. */
CALLED_FROM_JAVASCRIPT(facts) const void *facts_of_network(void) {
    return &about;
}

/* A place for a picture of this size, 4 bytes a pixel; NULL if there is no memory. */
CALLED_FROM_JAVASCRIPT(place_for_picture) uint8_t *place_for_picture(uint32_t width, uint32_t height) {
    pixels_at = used;
    return grown(used, (uint64_t)4 * width * height) ? at(used) : 0;
}

/* Pixels in RGBA to RGB on white, in the same place. */
static void flatten(uint8_t *pixels, size_t count) {
    const uint8_t *from = pixels;
    for (uint8_t *to = pixels; count; count--, from += 4, to += 3) {
        const uint32_t opaque = from[3];
        for (int c = 0; c < 3; c++)
            to[c] = (uint8_t)((from[c] * opaque + 255 * (255 - opaque) + 127) / 255);
    }
}

/* The picture in the network's size. 0 or a negative code. */
CALLED_FROM_JAVASCRIPT(prepare) int prepare(uint32_t width, uint32_t height) {
    const int bicubic = (int)facts.bicubic;
    const size_t needed = smidgen_resize_scratch(width, height, facts.width, facts.height, bicubic);
    const uint64_t scratch = grown(pixels_at, (uint64_t)3 * width * height);
    if (!needed)
        return SMIDGEN_USAGE;
    if (!scratch || !grown(scratch, needed))
        return SMIDGEN_SPACE;
    flatten(at(pixels_at), (size_t)width * height);
    smidgen_resize(at(pixels_at), width, height, picture, facts.width, facts.height, bicubic, at(scratch));
    return 0;
}

/* The network's numbers for the picture that was prepared. */
CALLED_FROM_JAVASCRIPT(run) const float *run(void) {
    smidgen_run_picture(network, 0, picture, scores);
    return scores;
}

/* Where it looked for one of them. */
CALLED_FROM_JAVASCRIPT(look) const float *look(uint32_t output) {
    return smidgen_map(network, output, map) ? 0 : map;
}

/* The softmax of the numbers, in their place. */
CALLED_FROM_JAVASCRIPT(softmax) void softmax(void) {
    smidgen_softmax(scores, facts.outputs);
}
