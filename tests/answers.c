/* Prints the answers of a file's network for two inputs, as bits, for every way in which this machine can compute:
 *
 *     answers FILE.smidgen
 *
 * The inputs are drawn anew and alike on every machine. For tests/test_machines.py. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smidgen.h"

enum { INPUTS = 2, THREADS = 2 };

static void *allocate(size_t size) {
    uint8_t *memory = malloc(size + 64);
    if (!memory)
        exit(2);
    return memory + (64 - (uintptr_t)memory % 64) % 64;
}

static uint8_t *read_file(const char *name, size_t *size) {
    FILE *stream = fopen(name, "rb");
    static uint8_t data[1 << 22];
    if (!stream)
        exit(2);
    *size = fread(data, 1, sizeof data, stream);
    fclose(stream);
    return data;
}

/* -2..2, in steps that float32 holds exactly */
static float drawn(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 16) / 16384.0f - 2.0f;
}

static void answer(const uint8_t *data, size_t size, int way, int team_wanted) {
    smidgen_file file;
    smidgen_network *network;
    smidgen_facts facts;
    smidgen_team *team = NULL;
    uint32_t state = 1;
    float *input, *output;
    if (smidgen_open(data, size, &file) ||
        smidgen_load(data, size, way, allocate(file.memory), file.memory, allocate(file.work), file.work, &network))
        exit(1);
    smidgen_about(network, &facts);
    if (team_wanted && !(team = smidgen_team_start(allocate(smidgen_team_size(THREADS)), THREADS)))
        return;
    input = allocate(sizeof(float) * facts.channels * facts.height * facts.width);
    output = allocate(sizeof(float) * facts.outputs);
    printf("way %d, team %d:", way, team_wanted);
    for (int turn = 0; turn < INPUTS; turn++) {
        for (uint32_t i = 0; i < facts.channels * facts.height * facts.width; i++)
            input[i] = drawn(&state);
        smidgen_run(network, team, input, output);
        for (uint32_t i = 0; i < facts.outputs; i++) {
            uint32_t bits;
            memcpy(&bits, &output[i], 4);
            printf(" %08x", (unsigned)bits);
        }
    }
    printf("\n");
    if (team)
        smidgen_team_stop(team);
}

int main(int argc, char **argv) {
    size_t size;
    const uint8_t *data = argc == 2 ? read_file(argv[1], &size) : NULL;
    if (!data)
        return 2;
    for (int way = SMIDGEN_PORTABLE; way <= SMIDGEN_AVX512_VNNI; way++)
        for (int team = 0; team < 2 && smidgen_can(way); team++)
            answer(data, size, way, team);
    return 0;
}
