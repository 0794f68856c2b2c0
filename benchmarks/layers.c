/* How long each operation of a file's program takes, one thread, and what the processor could do at most:
 *
 *     gcc -std=gnu11 -O3 -ffp-contract=off -Icore -Icore/src benchmarks/layers.c $(find core/src -name "*.c") -o layers
 *     taskset -c 0 ./layers FILE.smidgen [WAY]          0 portable, 1 vector, 2 AVX2, 3 AVX-512 VNNI; default the best
 *
 * Of each operation the least of 60 runs, in the order of the program, so that its input is where the one before left it.
 * The ceilings are loops of nothing but the instructions that a kernel's inner loop cannot do without. */
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine.h"

enum { ROUNDS = 60, TURNS = 1 << 20, CHAINS = 12 };

static const char *const kinds[] = {"convolution", "maximum", "average", "mean",   "join",  "sum",
                                    "product",     "lookup",  "move",    "resize", "signs", "convolution of signs"};

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 10^9 products a second of one instruction sequence in 12 independent chains, which is enough to hide what each waits. */
#define CHAIN(s, body)                                                                                                 \
    body(s);                                                                                                           \
    __asm__ volatile("" : "+x"(s), "+x"(a));
#define CEILING(name, needs, type, zero, products, body)                                                               \
    __attribute__((target(needs), noinline)) static void name(void) {                                                  \
        type a = zero, b = zero, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a, l = a, m = a, n = a;   \
        double best = 1e9;                                                                                             \
        for (int round = 0; round < 9; round++) {                                                                      \
            const double start = seconds();                                                                            \
            for (int turn = 0; turn < TURNS; turn++) {                                                                 \
                __asm__ volatile("" : "+x"(a), "+x"(b));                                                               \
                CHAIN(c, body) CHAIN(d, body) CHAIN(e, body) CHAIN(f, body) CHAIN(g, body) CHAIN(h, body)              \
                CHAIN(i, body) CHAIN(j, body) CHAIN(k, body) CHAIN(l, body) CHAIN(m, body) CHAIN(n, body)              \
            }                                                                                                          \
            best = seconds() - start < best ? seconds() - start : best;                                                \
        }                                                                                                              \
        printf("  %-44s %6.0f G products/s\n", #name, 1e-9 * products * CHAINS * TURNS / best);                        \
    }

#define FMA(s) s = _mm256_fmadd_ps(a, b, s)
#define SUM16(s) s = _mm256_add_epi16(s, _mm256_maddubs_epi16(a, b))
#define SUM32(s) s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), b))
#define SIGNS(s) s = _mm256_add_epi8(s, _mm256_shuffle_epi8(a, b))
#define VNNI(s) s = _mm512_dpbusd_epi32(s, a, b)

CEILING(float32_fma, "avx2,fma", __m256, _mm256_setzero_ps(), 8.0, FMA)
CEILING(avx2_sums_of_16_bits, "avx2", __m256i, _mm256_setzero_si256(), 32.0, SUM16)
CEILING(avx2_sums_of_32_bits, "avx2", __m256i, _mm256_setzero_si256(), 32.0, SUM32)
CEILING(avx2_signs, "avx2", __m256i, _mm256_setzero_si256(), 128.0, SIGNS)
CEILING(avx512_vnni, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), 64.0, VNNI)

static double products_of(const smidgen_network *n, const smidgen_operation *o) {
    const smidgen_value *in = &n->values[o->input], *out = &n->values[o->output];
    const double kernel = (double)o->kernel_height * o->kernel_width * out->height * out->width * out->channels;
    if (o->kind == SMIDGEN_CONVOLUTION)
        return kernel * in->channels / o->groups;
    return o->kind == SMIDGEN_SIGNS_CONVOLUTION ? kernel * o->channels : 0;
}

/* Of a convolution: steps of 4 inputs x 16 outputs that were packed, as a part of those that its size needs; and steps
 * whose sums stay in 16 bits. */
static void print_packing(const smidgen_network *n, const smidgen_operation *o) {
    const double fours = (n->values[o->input].channels / o->groups + 3) / 4;
    double steps = 0, runs = 0;
    for (uint32_t b = 0; b < o->block_count; b++) {
        steps += o->blocks[b].steps;
        runs += o->blocks[b].run_count;
    }
    printf("  %5.2f of all steps, %5.1f a run", steps / (fours * o->kernel_height * o->kernel_width * o->block_count),
           steps / runs);
}

int main(int argc, char **argv) {
    static uint8_t data[1 << 28];
    FILE *stream = argc > 1 ? fopen(argv[1], "rb") : NULL;
    const size_t size = stream ? fread(data, 1, sizeof data, stream) : 0;
    const int way = argc > 2 ? atoi(argv[2]) : smidgen_best_way();
    double best[4096], whole = 1e9, sum = 0;
    smidgen_network *n;
    smidgen_file file;
    float *input, *output;
    if (smidgen_open(data, size, &file) ||
        smidgen_load(data, size, way, aligned_alloc(64, (file.memory + 63) / 64 * 64), file.memory,
                     aligned_alloc(64, (file.work + 63) / 64 * 64), file.work, &n)) {
        fprintf(stderr, "usage: layers FILE.smidgen [WAY]; the file needs a program, the processor the way\n");
        return 2;
    }
    input = calloc((size_t)n->values[0].channels * n->values[0].height * n->values[0].width, sizeof(float));
    output = calloc((size_t)1 << 20, sizeof(float));
    for (uint32_t i = 0; i < n->operation_count; i++)
        best[i] = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        double start = seconds();
        smidgen_run(n, NULL, input, output);
        whole = seconds() - start < whole ? seconds() - start : whole;
        for (uint32_t i = 0; i < n->operation_count; i++) {
            start = seconds();
            smidgen_run_operation(n, &n->operations[i], 0, 1);
            start = seconds() - start;
            best[i] = start < best[i] ? start : best[i];
        }
    }
    for (uint32_t i = 0; i < n->operation_count; i++) {
        const smidgen_operation *o = &n->operations[i];
        const smidgen_value *in = &n->values[o->input], *out = &n->values[o->output];
        const double products = products_of(n, o);
        sum += best[i];
        if (o->kind == SMIDGEN_JOIN)
            continue;
        printf("%-20s %4u x %3u x %3u -> %4u x %3u x %3u  %ux%u %8.1f us", kinds[o->kind], in->channels, in->height,
               in->width, out->channels, out->height, out->width, o->kernel_height, o->kernel_width, 1e6 * best[i]);
        if (products > 0)
            printf(" %6.1f G/s", 1e-9 * products / best[i]);
        if (o->kind == SMIDGEN_CONVOLUTION && o->blocks)
            print_packing(n, o);
        printf("\n");
    }
    printf("all operations %.2f ms, a whole run %.2f ms\nceilings:\n", 1e3 * sum, 1e3 * whole);
    if (smidgen_can(SMIDGEN_AVX2)) {
        float32_fma();
        avx2_sums_of_16_bits();
        avx2_sums_of_32_bits();
        avx2_signs();
    }
    if (smidgen_can(SMIDGEN_AVX512_VNNI))
        avx512_vnni();
    return 0;
}
