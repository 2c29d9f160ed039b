/* SPDX-License-Identifier: Apache-2.0 */
/* The table of variants. A new one is a row here, its kernel a line in shaders/CMakeLists.txt. */
#include "variants.h"

const char *const family_names[N_FAMILIES] = {
    [FAMILY_MATVEC] = "matvec",
    [FAMILY_MATMUL_FEW] = "matmul_few",
    [FAMILY_MATMUL] = "matmul",
    [FAMILY_QKV] = "qkv",
    [FAMILY_GATE_UP] = "gate_up",
    [FAMILY_DOWN] = "down",
    [FAMILY_ROUTER] = "router",
    [FAMILY_MATMUL_EXACT] = "matmul_exact",
    [FAMILY_ATTENTION] = "attention",
    [FAMILY_ATTENTION_MANY] = "attention_many",
    [FAMILY_ROWS] = "norms, choices, sums",
};

/* Up to two tiles of 8, whose second finds the weights in the caches; a tile of 32 or more would be half empty. */
enum { FEW_COLUMNS = 16 };

enum family family_for(uint32_t n_columns)
{
    return n_columns <= 1 ? FAMILY_MATVEC : n_columns <= FEW_COLUMNS ? FAMILY_MATMUL_FEW : FAMILY_MATMUL;
}

bool family_has_cache(enum family family)
{
    return family == FAMILY_ATTENTION || family == FAMILY_ATTENTION_MANY;
}

/*
 * Roundings of a term. The weights have none: a block's value is exact in fp32 or rounded once, in the reference's
 * dequantizer just as in the kernel's. Nor has the first addition to a sum, whose start is 0, or that of a lane without
 * parts. Multiply-adds that a compiler fuses round less.
 */

/* The product, 3 additions of quads, one for each of the lane's parts but the first, 3 over the components, one for
 * each other lane. */
static uint32_t matvec_roundings(const struct variant *v, uint32_t cols)
{
    const uint32_t parts = cols / 16, lanes = v->constants[CONSTANT_LANES];
    const uint32_t parts_of_lane = (parts + lanes - 1) / lanes, lanes_with_parts = lanes < parts ? lanes : parts;
    return 1 + 3 + (parts_of_lane - 1) + 3 + (lanes_with_parts - 1);
}

/* The product, 3 additions in a quad's dot, one for each of the lane's quads but the first, one for each other lane. */
static uint32_t matmul_few_roundings(const struct variant *v, uint32_t cols)
{
    const uint32_t parts = cols / 16, lanes = v->constants[CONSTANT_LANES];
    const uint32_t parts_of_lane = (parts + lanes - 1) / lanes, lanes_with_parts = lanes < parts ? lanes : parts;
    return 1 + 3 + (4 * parts_of_lane - 1) + (lanes_with_parts - 1);
}

/* The product, an addition for each column but the first. */
static uint32_t matmul_roundings(const struct variant *v, uint32_t cols)
{
    (void)v;
    return 1 + (cols - 1);
}

/* Products of halves are exact in fp32; an addition for each column, which matrix units may cut instead of round. */
static uint32_t matmul_cm_roundings(const struct variant *v, uint32_t cols)
{
    (void)v;
    return 2 * cols;
}

/* The product, 3 additions in a quad's dot, one of two quads, two for each part but the very first. */
static uint32_t matmul_rows_roundings(const struct variant *v, uint32_t cols)
{
    (void)v;
    return 1 + 3 + 1 + (2 * (cols / 16) - 1);
}

/* As matvec_q8's, but for an addition for each scale of 16 columns but the first. */
static uint32_t matmul_q8_roundings(const struct variant *v, uint32_t cols)
{
    (void)v;
    return 3 + 1 + 5 + (cols / 16 - 1);
}

enum { NEEDS_OF_ROWS = NEEDS_PROCESSOR | NEEDS_BALLOT | NEEDS_8_LANES };

/*
 * With an RMSNorm of x: it multiplies x by its weight, and the sum by 1 / rms, whose sum of squares is a matvec's sum
 * with every rounding halved by the root; division and sqrt promise 2.5 and 4.5 ulp, a rounding is half of one.
 */
static uint32_t normed_roundings(const struct variant *v, uint32_t cols)
{
    const uint32_t sum = matvec_roundings(v, cols);
    return sum + 2 + (sum + 1) / 2 + 2 * (3 + 5);
}

/* cols: of all the experts together, whose sums a lane does not separate. The product with the expert's weight too. */
static uint32_t down_roundings(const struct variant *v, uint32_t cols)
{
    return matvec_roundings(v, cols) + 1;
}

/*
 * Of activations rounded to 8 bits, beside what that rounding is off by: a unit's sum of bytes is exact; its scale and
 * its minimum, their difference, the step of x and the step's own division (2.5 ulp); an addition for each of the
 * lane's units but the first, of 32 columns or more, 3 over the components, one for each other lane.
 */
static uint32_t matvec_q8_roundings(const struct variant *v, uint32_t cols)
{
    const uint32_t units = (cols + 31) / 32, lanes = v->constants[CONSTANT_LANES];
    const uint32_t units_of_lane = (units + lanes - 1) / lanes, lanes_with_units = lanes < units ? lanes : units;
    return 3 + 1 + 5 + (units_of_lane - 1) + 3 + (lanes_with_units - 1);
}

/* quantize.comp's norm: a sum of squares by 64 threads, a quad each at a time, and its mean, halved by the root. */
static uint32_t normed_q8_roundings(const struct variant *v, uint32_t cols)
{
    const uint32_t squares = 1 + 3 + (cols + 255) / 256 + 63 + 2 * 3;
    return matvec_q8_roundings(v, cols) + 2 + (squares + 1) / 2 + 2 * (3 + 5);
}

static uint32_t down_q8_roundings(const struct variant *v, uint32_t cols)
{
    return matvec_q8_roundings(v, cols) + 1;
}

/* Of 64 threads so many share a row, and each works on so many rows. */
#define MATVEC(first_, lanes, rows, is_magic, roundings_) \
    .kernel = first_, .constants[CONSTANT_LANES] = lanes, .constants[CONSTANT_MAGIC] = is_magic, \
    .tile_rows = 64 / lanes * rows, .roundings = roundings_

/*
 * On a processor a thread is a lane of a vector and a load a gather: the fewer share a row, the fewer sums to merge.
 * And there a kernel that applies an RMSNorm loses more by loading its weights beside x than a kernel of its own costs.
 */
#define FOR_PROCESSORS(kernel_, roundings_) \
    {.name = "2 lanes, 8 rows", \
     MATVEC(KERNEL_##kernel_##_ROWS8_F32, 2, 8, 0, roundings_), \
     .constants[CONSTANT_IS_NORMED] = 1, \
     .needs = NEEDS_OF_ROWS}, \
    { \
        .name = "2 lanes", MATVEC(KERNEL_##kernel_##_F32, 2, 2, 0, roundings_), .constants[CONSTANT_IS_NORMED] = 1, \
        .needs = NEEDS_PROCESSOR \
    }

/* For GPUs; which is best depends on the matrix, on what conversions cost, and on how much of x passes through the
 * caches. */
#define FOR_GPUS(kernel_, lanes, rows, words, roundings_) \
    {.name = words, MATVEC(KERNEL_##kernel_##_F32, lanes, rows, 0, roundings_)}, \
    { \
        .name = words ", magic", MATVEC(KERNEL_##kernel_##_F32, lanes, rows, 1, roundings_) \
    }

#define IN_FP32(kernel_, roundings_) \
    FOR_PROCESSORS(kernel_, roundings_), FOR_GPUS(kernel_, 32, 2, "32 lanes", roundings_), \
        FOR_GPUS(kernel_##_ROWS4, 32, 4, "32 lanes, 4 rows", roundings_), \
        FOR_GPUS(kernel_, 16, 2, "16 lanes", roundings_), \
        FOR_GPUS(kernel_##_ROWS4, 16, 4, "16 lanes, 4 rows", roundings_), \
        FOR_GPUS(kernel_, 64, 2, "64 lanes", roundings_), FOR_GPUS(kernel_, 8, 2, "8 lanes", roundings_)

/* Where conversions and not the bytes of the weights bind; x is rounded, and normed, by a kernel of its own. */
#define INTEGER_DOT(kernel_, lanes, roundings_) \
    { \
        .name = #lanes " lanes, integer dot", MATVEC(KERNEL_##kernel_##_Q8_Q4_0, lanes, 2, 0, roundings_), \
        .constants[CONSTANT_IS_NORMED] = 1, .needs = NEEDS_INTEGER_DOT, .rounding = ROUNDS_TO_Q8 \
    }

#define IN_Q8(kernel_, roundings_) \
    INTEGER_DOT(kernel_, 16, roundings_), INTEGER_DOT(kernel_, 8, roundings_), INTEGER_DOT(kernel_, 32, roundings_)

/* One order for all of them: variant_of takes what was measured of matvec for the others, too; so with matmul_few. */
static const struct variant matvec[] = {IN_FP32(MATVEC, matvec_roundings), IN_Q8(MATVEC, matvec_q8_roundings)};
static const struct variant qkv[] = {IN_FP32(QKV, normed_roundings), IN_Q8(QKV, normed_q8_roundings)};
static const struct variant gate_up[] = {IN_FP32(GATE_UP, normed_roundings), IN_Q8(GATE_UP, normed_q8_roundings)};
static const struct variant down[] = {IN_FP32(DOWN, down_roundings), IN_Q8(DOWN, down_q8_roundings)};
static const struct variant router[] = {IN_FP32(ROUTER, normed_roundings)}; /* no choice should hang on a rounding */

#define MATMUL_FEW(first_, lanes, roundings_) \
    .kernel = first_, .constants = {[CONSTANT_LANES] = lanes}, .tile_rows = 64 / lanes * 2, .tile_columns = 8, \
    .roundings = roundings_

#define FEW_IN_FP32 \
    {.name = "a row a lane", \
     .kernel = KERNEL_MATMUL_ROWS_FEW_F32, \
     .tile_rows = 64, \
     .tile_columns = 8, \
     .needs = NEEDS_OF_ROWS, \
     .roundings = matmul_rows_roundings}, \
        {.name = "32 lanes", MATMUL_FEW(KERNEL_MATMUL_FEW_F32, 32, matmul_few_roundings)}, \
    { \
        .name = "16 lanes", MATMUL_FEW(KERNEL_MATMUL_FEW_F32, 16, matmul_few_roundings) \
    }

#define FEW_IN_Q8(lanes) \
    { \
        .name = #lanes " lanes, integer dot", MATMUL_FEW(KERNEL_MATMUL_FEW_Q8_Q4_0, lanes, matvec_q8_roundings), \
        .needs = NEEDS_INTEGER_DOT, .rounding = ROUNDS_TO_Q8 \
    }

static const struct variant matmul_few[] = {FEW_IN_FP32, FEW_IN_Q8(32), FEW_IN_Q8(16)};
static const struct variant matmul_exact[] = {FEW_IN_FP32}; /* of routers, too */

/* Subgroups of so many lanes, 128 threads in all, share the pieces of 64 x 64. */
#define MATMUL_CM(size, lanes) \
    .kernel = KERNEL_MATMUL_CM##size##_F32, .subgroup_size = lanes, .n_subgroups = 128 / lanes, \
    .constants = {[CONSTANT_FRAGMENTS] = (64 / size) * (64 / size) * lanes / 128}, .tile_rows = 64, \
    .tile_columns = 64, .rounding = ROUNDS_TO_F16, .roundings = matmul_cm_roundings

#define MATMUL_CM2(columns) \
    .kernel = KERNEL_MATMUL_CM2_F32, .constants = {[CONSTANT_COLUMNS] = columns}, .tile_rows = MATRIX_2_ROWS, \
    .tile_columns = columns, .rounding = ROUNDS_TO_F16, .roundings = matmul_cm_roundings

static const struct variant matmul[] = {
    {.name = "a row a lane",
     .kernel = KERNEL_MATMUL_ROWS_F32,
     .tile_rows = 64,
     .tile_columns = 8,
     .needs = NEEDS_OF_ROWS,
     .roundings = matmul_rows_roundings},
    {.name = "matrices of workgroups, 128 columns", MATMUL_CM2(128), .needs = NEEDS_FP16 | NEEDS_MATRIX_2},
    {.name = "matrices of workgroups, 64 columns", MATMUL_CM2(64), .needs = NEEDS_FP16 | NEEDS_MATRIX_2},
    {.name = "matrices of 16, 32 lanes", MATMUL_CM(16, 32), .needs = NEEDS_FP16 | NEEDS_MATRIX_16X16X16},
    {.name = "matrices of 16, 64 lanes", MATMUL_CM(16, 64), .needs = NEEDS_FP16 | NEEDS_MATRIX_16X16X16},
    {.name = "matrices of 8, 8 lanes", MATMUL_CM(8, 8), .needs = NEEDS_FP16 | NEEDS_MATRIX_8X8X8},
    {.name = "tiles, integer dot",
     .kernel = KERNEL_MATMUL_Q8_Q4_0,
     .tile_rows = 64,
     .tile_columns = 64,
     .needs = NEEDS_INTEGER_DOT,
     .rounding = ROUNDS_TO_Q8,
     .roundings = matmul_q8_roundings},
    {.name = "tiles", .kernel = KERNEL_MATMUL_F32, .tile_rows = 64, .tile_columns = 32, .roundings = matmul_roundings},
    {.name = "tiles of 128 x 64",
     .kernel = KERNEL_MATMUL_LARGE_F32,
     .tile_rows = 128,
     .tile_columns = 64,
     .roundings = matmul_roundings},
};

#define ATTENTION \
    { \
        .name = "tiles of 8", .kernel = KERNEL_ATTENTION_F32, .tile_rows = 8 \
    }
#define ATTENTION_BROADCAST \
    { \
        .name = "broadcasts", .kernel = KERNEL_ATTENTION_BROADCAST_F32, .tile_rows = 8, .needs = NEEDS_OF_ROWS \
    }

/* Subgroups of so many lanes, 128 threads in all, share the pieces of 32 queries' 64 dimensions. */
#define ATTENTION_CM(size, lanes) \
    .kernel = KERNEL_ATTENTION_CM##size##_F16, .subgroup_size = lanes, .n_subgroups = 128 / lanes, \
    .constants = {[CONSTANT_FRAGMENTS] = (32 / size) * (64 / size) * lanes / 128, [CONSTANT_HEAD_DIM] = 128}, \
    .tile_rows = 32, .rounding = ROUNDS_TO_F16

enum { NEEDS_OF_CM = NEEDS_FP16 | NEEDS_32_KIB };

/* Of a token's heads, as many as share one of the cache's are in a tile, which is computed whole. */
static const struct variant attention[] = {
    ATTENTION_BROADCAST,
    ATTENTION,
    {.name = "tiles of 4", .kernel = KERNEL_ATTENTION_ROWS4_F32, .tile_rows = 4},
    {.name = "tiles of 4, 4 lanes", .kernel = KERNEL_ATTENTION_LANES4_F32, .tile_rows = 4},
};
static const struct variant attention_many[] = {
    ATTENTION_BROADCAST,
    {.name = "matrices of 16, 32 lanes", ATTENTION_CM(16, 32), .needs = NEEDS_OF_CM | NEEDS_MATRIX_16X16X16},
    {.name = "matrices of 16, 64 lanes", ATTENTION_CM(16, 64), .needs = NEEDS_OF_CM | NEEDS_MATRIX_16X16X16},
    {.name = "matrices of 8, 8 lanes", ATTENTION_CM(8, 8), .needs = NEEDS_OF_CM | NEEDS_MATRIX_8X8X8},
    {.name = "tiles of 32",
     .kernel = KERNEL_ATTENTION_TILE_F32,
     .constants = {[CONSTANT_HEAD_DIM] = 128},
     .tile_rows = 32},
    ATTENTION,
};

static const struct variant rows[] = {{.name = "plain", .kernel = KERNEL_RMS_NORM}};

#define VARIANTS(list) \
    { \
        list, sizeof(list) / sizeof((list)[0]) \
    }

static const struct {
    const struct variant *variants;
    uint32_t n;
} families[N_FAMILIES] = {
    [FAMILY_MATVEC] = VARIANTS(matvec),       [FAMILY_MATMUL_FEW] = VARIANTS(matmul_few),
    [FAMILY_MATMUL] = VARIANTS(matmul),       [FAMILY_QKV] = VARIANTS(qkv),
    [FAMILY_GATE_UP] = VARIANTS(gate_up),     [FAMILY_DOWN] = VARIANTS(down),
    [FAMILY_ROUTER] = VARIANTS(router),       [FAMILY_MATMUL_EXACT] = VARIANTS(matmul_exact),
    [FAMILY_ATTENTION] = VARIANTS(attention), [FAMILY_ATTENTION_MANY] = VARIANTS(attention_many),
    [FAMILY_ROWS] = VARIANTS(rows),
};

const struct variant *family_variants(enum family family, uint32_t *n)
{
    *n = families[family].n;
    return families[family].variants;
}

const char *variant_lacks(const struct variant *v, const struct sc_device_info *d)
{
    const struct {
        enum need need;
        bool has;
        const char *words;
    } needs[] = {
        {NEEDS_PROCESSOR, d->kind == SC_DEVICE_CPU, "a processor that drives Vulkan"},
        {NEEDS_8_LANES, d->min_subgroup_size >= 8, "subgroups of 8 lanes or more, and this device may have fewer"},
        {NEEDS_BALLOT, d->has_ballot, "broadcasts within a subgroup, which this driver lacks"},
        {NEEDS_FP16, d->has_fp16, "16-bit floats, which this driver lacks"},
        {NEEDS_INTEGER_DOT, d->has_integer_dot, "integer dot products, which this driver lacks"},
        {NEEDS_INTEGER_DOT, d->has_fast_integer_dot || d->kind == SC_DEVICE_CPU,
         "integer dot products in one instruction, which this device lacks"},
        {NEEDS_MATRIX_16X16X16, d->matrix_shapes & SC_MATRIX_16X16X16,
         "cooperative matrices of 16 x 16 x 16, which this driver lacks"},
        {NEEDS_MATRIX_8X8X8, d->matrix_shapes & SC_MATRIX_8X8X8,
         "cooperative matrices of 8 x 8 x 8, which this driver lacks"},
        {NEEDS_32_KIB, d->shared_bytes >= 32 << 10, "32 KiB of shared memory, which this device lacks"},
        {NEEDS_MATRIX_2, d->has_matrix_2, "cooperative matrices of workgroups, which this driver or program lacks"},
    };
    for (uint32_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++)
        if ((v->needs & needs[i].need) && !needs[i].has)
            return needs[i].words;
    if (v->subgroup_size && (!d->has_subgroup_size_control || v->subgroup_size < d->min_subgroup_size ||
                             v->subgroup_size > d->max_subgroup_size))
        return "subgroups of another size, which this driver does not give";
    if (v->n_subgroups > d->max_workgroup_subgroups)
        return "workgroups of more subgroups than this driver gives";
    if (!kernel_infos[v->kernel].spirv)
        return "a newer glslang than the one that this program was built with";
    return NULL;
}
