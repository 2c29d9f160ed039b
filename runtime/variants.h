/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Families of kernels and their variants. A family is one thing to compute, a matrix times a vector say; its variants
 * compute it from the same arguments, and differ in what they need from a device and in how fast they are there. The
 * table is families.c; which variant a device uses for which matrix is decided here.
 */
#ifndef SCORIA_VARIANTS_H
#define SCORIA_VARIANTS_H

#include <stdbool.h>

#include "kernels.h"
#include "scoria.h"
#include "types.h"

struct gpu;

enum family {
    FAMILY_MATVEC, /* a matrix times one column, a few, many */
    FAMILY_MATMUL_FEW,
    FAMILY_MATMUL,
    FAMILY_QKV, /* this and three that follow: of a single token, fused, made of the same pieces as matvec */
    FAMILY_GATE_UP,
    FAMILY_DOWN,
    FAMILY_ROUTER,
    FAMILY_MATMUL_EXACT, /* as MATMUL_FEW, but for products that are never rounded */
    FAMILY_ATTENTION, /* of few queries, over a cache that may be cut into pieces; of many; their type is the cache's */
    FAMILY_ATTENTION_MANY,
    FAMILY_ROWS, /* norm, SwiGLU, the router's choice, the experts' sum: one kernel each, tested together */
    N_FAMILIES
};

/* What a variant needs of a device beyond what every device has. families.c has them in words. */
enum need {
    NEEDS_PROCESSOR = 1 << 0, /* it is fast on CPUs that drive Vulkan, and nowhere else */
    NEEDS_BALLOT = 1 << 1,
    NEEDS_8_LANES = 1 << 2, /* subgroups of 8 or more */
    NEEDS_FP16 = 1 << 3,
    NEEDS_INTEGER_DOT = 1 << 4,
    NEEDS_MATRIX_16X16X16 = 1 << 5,
    NEEDS_MATRIX_8X8X8 = 1 << 6,
    NEEDS_MATRIX_2 = 1 << 7,
    NEEDS_32_KIB = 1 << 8, /* of shared memory */
};

/* What a variant rounds activations to before it multiplies them. It is only taken where that is allowed. */
enum rounding { ROUNDS_NOTHING, ROUNDS_TO_F16, ROUNDS_TO_Q8 };

enum { MAX_VARIANTS = 32 }; /* of a family */

struct variant {
    const char *name;   /* among its family's */
    enum kernel kernel; /* the first of its line in shaders/CMakeLists.txt; the line's others are for other types */
    uint32_t constants[N_CONSTANTS]; /* CONSTANT_HEAD_DIM, if it is not 0, stands for the model's */
    uint32_t subgroup_size;          /* that the kernel must have, a workgroup being full subgroups; 0: any */
    uint32_t n_subgroups;            /* of that size, in a workgroup */
    uint32_t tile_rows;              /* of the matrix, that a workgroup computes; or queries, of attention */
    uint32_t tile_columns;           /* tokens of a workgroup; 0: one */
    uint32_t needs;                  /* enum need */
    enum rounding rounding;

    /* Roundings to fp32 that a term of a product's sum over `cols` columns goes through at most; first-order bound, see
     * self_test.c */
    uint32_t (*roundings)(const struct variant *v, uint32_t cols);
};

/* ---- families.c ---- */

extern const char *const family_names[N_FAMILIES];

/* The family for a matrix times so many columns; for experts' matrices, that each has on average. */
enum family family_for(uint32_t n_columns);

/* Whether the type of its kernels is the KV cache's, and not that of weights. */
bool family_has_cache(enum family family);

/* The family's variants, n of them: the best first where nothing was measured, the last ones run on every device. */
const struct variant *family_variants(enum family family, uint32_t *n);

/* What the device lacks that the variant needs, in words that follow "needs"; NULL if it lacks nothing. */
const char *variant_lacks(const struct variant *v, const struct sc_device_info *device);

/* ---- variants.c ---- */

/*
 * The fastest variant for a matrix (rows, cols), or heads of attention (attention_key), of those before `next` in the
 * table; the others were not timed yet.
 */
struct tuned {
    uint32_t family, type, rows, cols, variant, next;
    float seconds; /* that it took; 0: none was timed */
};

enum { MAX_TUNED = 128 };

/* What was found out about a device. Bit t stands for weights of type t. */
struct findings {
    uint32_t passed[N_FAMILIES][MAX_VARIANTS]; /* the variant computes rightly */
    uint32_t failed[N_FAMILIES][MAX_VARIANTS]; /* it does not */
    struct tuned tuned[MAX_TUNED];
    uint32_t n_tuned;
};

/* A test that began, and how many times in a row it did without an end. */
struct begun_test {
    uint32_t family, variant, type, n;
};

/* Part of struct gpu. All 0: of each family the first variant that it can run. */
struct choices {
    struct findings findings;
    struct begun_test begun;    /* the last one */
    char begun_path[4096];      /* where it is kept: findings.h; "": nowhere */
    uint8_t forced[N_FAMILIES]; /* 1 + the variant to use whatever else is known; 0: none */
    bool may_round;             /* variants may round activations */
    bool ignores_tuned;         /* the table's order decides, whatever was measured */
};

/* The family whose timings stand for this one's: of fused kernels their pieces are timed, of kin the one that rounds.
 */
enum family family_timed(enum family family);

/*
 * The variant for a matrix (rows, cols) of this type, or for heads of attention; there always is one. What was the
 * fastest is taken once it is known to be right; of (0, 0) nothing is ever timed.
 */
const struct variant *variant_of(const struct gpu *gpu, enum family family, enum sc_type type, uint32_t rows,
                                 uint32_t cols);

/* The variant's kernel for weights of this type, which it has: variant_has_type. */
struct program variant_program(const struct variant *v, enum sc_type type);
bool variant_has_type(const struct variant *v, enum sc_type type);

/* Whether the device may use the variant for weights of this type, as far as is known. */
bool variant_is_usable(const struct gpu *gpu, enum family family, uint32_t variant, enum sc_type type);

/* Of the kernels that were compiled for every type, from `first` on, the one for weights of `type`. */
enum kernel kernel_of_type(enum kernel first, enum sc_type type);

#endif
