/* What is in a picture: recognize FILE.smidgen PICTURE.ppm [THREADS]
 *
 * Needs nothing but the core of smidgen. The picture is a binary PPM (P6) of 8 bits a channel. Prints the five best
 * classes. Memory is given back as soon as it can be, so that the most is taken while the network is loaded. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smidgen.h"

enum { ANSWERS = 5, LARGEST_SIDE = 16384, SECTION_SCRATCH = 3 << 20 };

static void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

/* A byte more than asked for, so that NULL means that there is no memory. Sizes have 64 bits on every machine. */
static void *allocate(uint64_t size) {
    void *memory = size < SIZE_MAX ? malloc((size_t)size + 1) : NULL;
    if (!memory)
        fail("recognize", "not enough memory");
    return memory;
}

/* The first place in `memory` that 64 divides; 63 bytes may go for that. */
static void *align(void *memory) {
    return (char *)memory + (64 - (uintptr_t)memory % 64) % 64;
}

/* The file's bytes, and a zero behind them. */
static uint8_t *read_file(const char *path, size_t *size) {
    FILE *stream = fopen(path, "rb");
    const long end = stream && !fseek(stream, 0, SEEK_END) ? ftell(stream) : -1;
    if (end < 0 || end >= INT32_MAX) /* a folder's end is the greatest number that there is */
        fail(path, "cannot be read");
    uint8_t *data = allocate((uint64_t)end);
    rewind(stream);
    *size = fread(data, 1, (size_t)end, stream);
    fclose(stream);
    data[*size] = 0;
    return data;
}

/* The next number of a PPM's header, or 0 if there is none, or one above LARGEST_SIDE. */
static uint32_t next_number(const uint8_t **at) {
    uint32_t number = 0;
    for (int comment = 0; isspace(**at) || **at == '#' || (comment && **at); ++*at)
        comment = **at == '#' || (comment && **at != '\n');
    for (; isdigit(**at) && number <= LARGEST_SIDE; ++*at)
        number = 10 * number + (uint32_t)(**at - '0');
    return number <= LARGEST_SIDE ? number : 0;
}

/* The picture, in the size that the network takes. */
static uint8_t *read_picture(const char *path, const smidgen_facts *network) {
    size_t size;
    uint8_t *data = read_file(path, &size);
    if (strncmp((char *)data, "P6", 2))
        fail(path, "is not a binary PPM picture (P6)");
    const uint8_t *at = data + 2;
    const uint32_t width = next_number(&at), height = next_number(&at), greatest = next_number(&at);
    if (!width || !height || greatest != 255 || !isspace(*at++))
        fail(path, "has not sides of 1 to 16384 pixels and 255 as its greatest value");
    if (size - (size_t)(at - data) < (uint64_t)3 * width * height)
        fail(path, "ends before its last pixel");
    const int bicubic = (int)network->bicubic;
    const size_t needed = smidgen_resize_scratch(width, height, network->width, network->height, bicubic);
    if (!needed)
        fail("recognize", "the network takes pictures with a side above 16384 pixels");
    uint8_t *picture = allocate((uint64_t)3 * network->width * network->height);
    void *scratch = allocate(needed);
    smidgen_resize(at, width, height, picture, network->width, network->height, bicubic, scratch);
    free(scratch);
    free(data);
    return picture;
}

/* The list of labels: a line "id<TAB>name" for each class. */
static char *read_labels(const char *path, const uint8_t *data, const smidgen_file *file) {
    const uint64_t size = file->sections[SMIDGEN_LABELS].size;
    char *labels = allocate(size);
    void *scratch = allocate(SECTION_SCRATCH);
    if (smidgen_read_section(data, file, SMIDGEN_LABELS, (uint8_t *)labels, scratch))
        fail(path, "is damaged (labels)");
    free(scratch);
    labels[size] = 0;
    return labels;
}

static void print_answer(float probability, uint32_t index, const char *labels) {
    const char *tab = strchr(labels, '\t');
    for (uint32_t i = 0; i < index && tab; i++)
        tab = strchr(tab + 1, '\t');
    if (tab)
        printf("%7.2f %%  %.*s\n", 100 * probability, (int)strcspn(tab + 1, "\n"), tab + 1);
    else
        printf("%7.2f %%  class %u\n", 100 * probability, (unsigned)index);
}

int main(int argc, char **argv) {
    char *rest = "";
    const long threads = argc == 4 ? strtol(argv[3], &rest, 10) : 1;
    if (argc < 3 || argc > 4 || *rest || threads < 1 || threads > 64) {
        fprintf(stderr, "usage: recognize FILE.smidgen PICTURE.ppm [THREADS, 1 to 64]\n");
        return 2;
    }
    smidgen_file file;
    size_t size;
    uint8_t *data = read_file(argv[1], &size);
    if (smidgen_open(data, size, &file))
        fail(argv[1], "is not a file of smidgen, or is damaged");
    if (!file.memory)
        fail(argv[1], "has no program to run");
    char *labels = read_labels(argv[1], data, &file);
    void *memory = allocate((uint64_t)file.memory + 63), *work = allocate((uint64_t)file.work + 63);
    smidgen_network *network;
    if (smidgen_load(data, size, smidgen_best_way(), align(memory), file.memory, align(work), file.work, &network))
        fail(argv[1], "is damaged (program)");
    free(work);
    free(data);

    smidgen_facts facts;
    smidgen_about(network, &facts);
    uint8_t *picture = read_picture(argv[2], &facts);
    float *scores = allocate((uint64_t)facts.outputs * sizeof *scores);
    const size_t team_size = smidgen_team_size((uint32_t)threads);
    smidgen_team *team = threads > 1 ? smidgen_team_start(align(allocate(team_size + 63)), (uint32_t)threads) : NULL;
    if (threads > 1 && !team)
        fail("recognize", "this system has no threads to give");
    if (smidgen_run_picture(network, team, picture, scores))
        fail(argv[1], "does not say how a picture becomes its input");
    if (team)
        smidgen_team_stop(team);
    if (!facts.probabilities)
        smidgen_softmax(scores, facts.outputs);
    for (uint32_t i = 0; i < ANSWERS && i < facts.outputs; i++) {
        uint32_t best = 0;
        for (uint32_t k = 1; k < facts.outputs; k++)
            best = scores[k] > scores[best] ? k : best;
        print_answer(scores[best], best, labels);
        scores[best] = -1;
    }
    if (fclose(stdout))
        fail("recognize", "the answer cannot be written");
    return 0;
}
