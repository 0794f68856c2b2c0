/* smidgen core: entropy coders, the file reader, and the engine that runs a file's network, in C99.
 *
 * Rules of this library:
 *   - it allocates nothing, prints nothing, keeps no state between calls but in what the caller gave it;
 *   - every buffer is the caller's, and every size is checked before it is used;
 *   - probabilities are integers, so that every machine decodes alike;
 *   - the bytes are specified in docs/format.md, and a plain twin of every routine in tests/reference proves it.
 *
 * The lines between BEGIN and END are also read by the Python binding: plain declarations only. */
#ifndef SMIDGEN_H
#define SMIDGEN_H

#include <stddef.h>
#include <stdint.h>

/* BEGIN */

/* What a call returns instead of a size. */
enum {
    SMIDGEN_CORRUPT = -1, /* the bytes are not what an encoder wrote */
    SMIDGEN_SPACE = -2,   /* the output buffer is too small */
    SMIDGEN_USAGE = -3    /* the arguments do not fit together */
};

/* One plane: `rows` x `columns` x `inner` symbols in memory order, each below `levels`. For the weight of a
 * convolution these are outputs, inputs and kernel positions; codecs may use that for their contexts. */
typedef struct {
    uint32_t rows, columns, inner;
    uint32_t levels; /* 1..256 */
    uint32_t zero;   /* the symbol that means 0.0; `levels` or more if there is none */
} smidgen_plane;

/* Codecs: the number names the bytes for ever. */
enum {
    SMIDGEN_RAW = 0,
    SMIDGEN_BITPACK = 1,
    SMIDGEN_HUFFMAN = 2,
    SMIDGEN_RELATIVE = 3,
    SMIDGEN_RANS = 4,
    SMIDGEN_ADAPTIVE = 5,
    SMIDGEN_TEXT = 6,
    SMIDGEN_MIXED = 7,
    SMIDGEN_MIXED64 = 8,
    SMIDGEN_LINES = 9
};

/* Bytes of scratch memory, aligned for uint64_t, that coding this plane needs, in either direction. */
size_t smidgen_scratch(int codec, const smidgen_plane *plane);

/* A size that the encoded plane never exceeds. */
size_t smidgen_bound(int codec, const smidgen_plane *plane);

/* Encodes all symbols of the plane. Returns the size, or a negative code. */
int64_t smidgen_encode(int codec, const smidgen_plane *plane, const uint8_t *symbols, uint8_t *out, size_t capacity,
                       void *scratch);

/* Decodes exactly the symbols of the plane from exactly `size` bytes. Returns 0, or a negative code; the symbols
 * written by a call that fails are all below 256 but mean nothing. */
int smidgen_decode(int codec, const smidgen_plane *plane, const uint8_t *data, size_t size, uint8_t *symbols,
                   void *scratch);

/* CRC-32 (ISO-HDLC, as in zlib and PNG), continued from `crc`; start with 0. */
uint32_t smidgen_crc32(uint32_t crc, const uint8_t *data, size_t size);

/* Sections of a file, in this order; files of version 1 have no program. */
enum {
    SMIDGEN_METADATA = 0,
    SMIDGEN_LABELS = 1,
    SMIDGEN_GRAPH = 2,
    SMIDGEN_INDEX = 3,
    SMIDGEN_PAYLOAD = 4,
    SMIDGEN_PROGRAM = 5,
    SMIDGEN_SECTIONS = 6
};

typedef struct {
    uint32_t codec;
    uint64_t offset; /* of the stored bytes in the file */
    uint64_t stored; /* bytes in the file */
    uint64_t size;   /* bytes once decoded */
} smidgen_section;

typedef struct {
    smidgen_section sections[6];
    uint32_t version;
    uint32_t memory, work; /* bytes that smidgen_load asks for; 0 without a program */
} smidgen_file;

/* Why a file or an index was refused. */
enum {
    SMIDGEN_BAD_MAGIC = -10,
    SMIDGEN_BAD_VERSION = -11,
    SMIDGEN_BAD_LENGTH = -12,
    SMIDGEN_BAD_CHECKSUM = -13,
    SMIDGEN_BAD_SECTION = -14,
    SMIDGEN_BAD_TENSOR = -15,
    SMIDGEN_BAD_LIMIT = -16,
    SMIDGEN_BAD_PROGRAM = -17
};

/* Checks the container: everything but the content of the sections. Returns 0 or a negative code. */
int smidgen_open(const uint8_t *data, size_t size, smidgen_file *file);

/* Decodes a section (all but the payload, which is not coded) to its `size` bytes. `scratch` has 3 MiB, aligned for
 * uint64_t. Returns 0 or a negative code. */
int smidgen_read_section(const uint8_t *data, const smidgen_file *file, int section, uint8_t *out, void *scratch);

/* How a tensor's values follow from its planes. */
enum { SMIDGEN_ARRAY = 0, SMIDGEN_AFFINE = 1, SMIDGEN_TABLE = 2, SMIDGEN_TRELLIS = 3, SMIDGEN_TRELLIS64 = 4 };

typedef struct {
    uint32_t name, name_size; /* offset of the name in the index, and its bytes */
    uint32_t rule;
    uint32_t type; /* of an array's elements; docs/format.md */
    uint32_t rank;
    uint32_t shape[8];
    uint64_t elements;
    int32_t first, step, levels; /* of a code: plane symbol i stands for first + step * i */
    uint32_t zero;               /* the plane symbol that means 0.0, or 256 */
    uint32_t axis;               /* 255: none */
    uint32_t rows, columns;      /* shape of the rule's parameters */
    uint32_t blocks;             /* how many planes follow each other in the payload */
    uint32_t codec[16];
    uint64_t offset[16]; /* in the payload */
    uint64_t stored[16];
} smidgen_tensor;

/* Reads the record at `*position` of a decoded index, and the payload up to `*payload`; moves both on, and adds to
 * `*symbols`. Returns 1, 0 at the end of the index, or a negative code. `limit` is what smidgen_limit gave for the file. */
int smidgen_next(const uint8_t *index, size_t size, size_t *position, uint64_t *payload, uint64_t *symbols,
                 uint64_t limit, smidgen_tensor *tensor);

/* The most symbols, all planes together, that a file of this many bytes may claim. */
uint64_t smidgen_limit(uint64_t file_size);

/* The plane of block `i`: shape, levels and zero, as the codecs take it. */
smidgen_plane smidgen_block(const smidgen_tensor *tensor, uint32_t i);

/* The levels (multiples of the scale) that the symbols of a trellis stand for, rows x columns in memory order, and the
 * grids that they were taken from. `kinds` is the number of states, 8 or 64. Symbols are within -16383..16383. `states`
 * is scratch for `columns` bytes. */
void smidgen_trellis_levels(uint32_t kinds, uint32_t rows, uint32_t columns, const int16_t *symbols, int16_t *levels,
                            uint8_t *grids, uint8_t *states);

/* How to choose the symbols of a trellis of 64 states. With two errors, in weights of the same column (input) or row
 * (output), the later one can make up for the earlier: feedback[earlier x size + later] of the earlier error is added to
 * what the later aims at; column by column, and within a column row by row. What is minimised is the squared distance from the aim, times
 * the harm of its column and of its row, plus the cost of the symbol. */
typedef struct {
    uint32_t rows, columns;
    float scale;
    int32_t limit;     /* symbols lie within -limit..limit, at least 1 */
    const float *cost; /* of the symbols -limit..limit on grid 0, then on grid 1 */
    const float *column_feedback, *column_harm;
    const float *row_feedback, *row_harm;
} smidgen_squeeze;

/* All arrays hold columns one after another, each of `rows` numbers: `weights`; `targets`, which are the weights plus the
 * feedback of columns before those of this call, and are changed; and what is made, `symbols` and `errors` (weight minus
 * value). `aims` is scratch for `rows` numbers, `paths` for 64 times as many. */
void smidgen_trellis_squeeze(const smidgen_squeeze *squeeze, const float *weights, float *targets, int16_t *symbols,
                             float *errors, float *aims, int16_t *paths);

/* Ways to compute; all give the same bits. */
enum {
    SMIDGEN_PORTABLE = 0,
    SMIDGEN_VECTOR = 1,     /* vectors of 128 bits: NEON, WebAssembly, SSE2 */
    SMIDGEN_AVX2 = 2,
    SMIDGEN_AVX512_VNNI = 3
};

/* Whether this processor can compute in this way. */
int smidgen_can(int way);

/* The fastest way that this processor has. */
int smidgen_best_way(void);

/* A network that is ready to run. It lies in memory of the caller, and is run by one caller at a time. */
typedef struct smidgen_network smidgen_network;

typedef struct {
    uint32_t channels, height, width; /* of the input */
    uint32_t outputs;                 /* numbers that a run gives */
    uint32_t picture;                 /* 1: the file says how a picture becomes the input */
    uint32_t bicubic;                 /* resampling of pictures: 0 bilinear, 1 bicubic */
    uint32_t probabilities;           /* 1: the numbers are probabilities, 0: they are scores */
    uint32_t map_height, map_width;   /* of what smidgen_map gives; 0 if it gives nothing */
    uint32_t operations;
    uint32_t way;
    uint64_t memory, work; /* bytes that loading took of both */
} smidgen_facts;

/* Makes a file's network ready to run: decodes its weights, and packs them for a way to compute.
 *
 * `memory` belongs to the network from then on, `work` is free again afterwards; both are aligned to 64 bytes, and
 * smidgen_open says how many are needed. The file itself is needed no longer. Returns 0; SMIDGEN_USAGE if the file has no
 * program or the processor not this way; SMIDGEN_SPACE if one of both is too small; or another negative code. */
int smidgen_load(const uint8_t *data, size_t size, int way, void *memory, size_t memory_size, void *work,
                 size_t work_size, smidgen_network **network);

/* How much memory and work a file's network needs at most, on any processor: what a file's header says. Both buffers as
 * for smidgen_load, which is done three times; SMIDGEN_SPACE if one is too small. */
int smidgen_needs(const uint8_t *data, size_t size, void *memory, size_t memory_size, void *work, size_t work_size,
                  uint64_t needs[2]);

/* What is known about a network. */
void smidgen_about(const smidgen_network *network, smidgen_facts *facts);

/* Threads that help to load and run networks; they wait where `memory` of the caller lies. */
typedef struct smidgen_team smidgen_team;

/* Bytes that a team of so many threads, the caller among them, takes; at most 64 threads. */
size_t smidgen_team_size(uint32_t threads);

/* Starts all but one of the threads. Returns NULL if the platform has none to give. `memory` is aligned to 64 bytes. */
smidgen_team *smidgen_team_start(void *memory, uint32_t threads);
void smidgen_team_stop(smidgen_team *team);

/* As smidgen_load, with a team: as many of its threads decode at once as `work` has room for, of which each needs what
 * smidgen_open says, made a multiple of 64. The network and the memory that it takes are the same. */
int smidgen_load_with(const uint8_t *data, size_t size, int way, smidgen_team *team, void *memory, size_t memory_size,
                      void *work, size_t work_size, smidgen_network **network);

/* The network's answer for one input: floats of channels x height x width in, `outputs` floats out. Without a team
 * (NULL) the caller's thread computes alone. */
void smidgen_run(smidgen_network *network, smidgen_team *team, const float *input, float *output);

/* The same for a picture: height x width pixels of 3 bytes in RGB. Returns 0, or SMIDGEN_USAGE if the file does not say
 * how a picture becomes the input. */
int smidgen_run_picture(smidgen_network *network, smidgen_team *team, const uint8_t *pixels, float *output);

/* Where the network looked in the run before: what each of map_height x map_width places gave to an output, which is the
 * mean of these numbers (before a softmax). Such a map is there where the network ends in a mean over all pixels, or in
 * that and a linear layer (Zhou et al., arXiv 1512.04150), and has 2 to 4096 places. Returns 0, or SMIDGEN_USAGE if there is none or no such output. */
int smidgen_map(smidgen_network *network, uint32_t output, float *map);

/* Another size for a picture of 3 bytes a pixel, as Pillow up to 12.1 makes it: bilinear or bicubic, over as many pixels as one
 * of the result covers, rows first. Sizes are 1..16384; `out` has new_height x new_width pixels. `scratch` has
 * smidgen_resize_scratch bytes, aligned for uint64_t; for other sizes that is 0. */
size_t smidgen_resize_scratch(uint32_t width, uint32_t height, uint32_t new_width, uint32_t new_height, int bicubic);
void smidgen_resize(const uint8_t *pixels, uint32_t width, uint32_t height, uint8_t *out, uint32_t new_width,
                    uint32_t new_height, int bicubic, void *scratch);

/* The softmax of `count` finite scores, in place. */
void smidgen_softmax(float *scores, uint32_t count);

/* END */

#endif
