/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device and one piece of mapped memory for tests of operations. Everything in it that is not handed out or not yet
 * written is poison: bytes of 0xFF, which are NaN as f32, f16 and bf16, and an id beyond everything. A case lays its
 * tensors into the memory, fills the inputs, says what may be written, records, and runs; then every byte that may not
 * be written must be what it was: guards before and after each tensor, inputs, rows that must stay.
 */
#ifndef SCORIA_TESTS_OP_DEVICE_H
#define SCORIA_TESTS_OP_DEVICE_H

#include "op_cases.h"
#include "ops.h"

enum { OP_MAX_WRITES = 400 };

struct op_device {
    struct gpu *gpu;
    struct commands commands;
    struct buffer memory;
    uint8_t *before; /* what the memory held when the commands were submitted */
    size_t used;     /* bytes of the memory */
    struct {
        size_t from, to;
    } writes[OP_MAX_WRITES];
    uint32_t n_writes;
    struct tensor scratch; /* of the commands; may always be written */
    uint64_t seed;         /* the generator's state */
    struct sc_error error;
};

/* cmocka's set-up and tear-down of a group: *state is the struct op_device. */
int op_device_create(void **state);
int op_device_destroy(void **state);

/* The family's variant number `variant`, used from now on, or NULL if the device cannot run it with weights of this
 * type. */
const struct variant *op_use_variant(struct op_device *d, enum family family, uint32_t variant, enum sc_type type);

/*
 * Whether the case of this number is for this variant: all are for the one that the device takes unasked and for the
 * one that GPUs do; half of them for matvec's and matmul_few's first in whole numbers; half of those of some types for
 * each of the others.
 */
bool op_takes_case(const struct op_device *d, enum family family, uint32_t variant, enum sc_type type, size_t number);

/* How many kernels of products with a matrix are compiled; and that one more is since there were n: the variant's for
 * this type. */
uint32_t op_n_compiled(const struct op_device *d);
void op_check_compiled(const struct op_device *d, uint32_t n, const struct variant *v, const struct sc_type_info *type);

/* Forgets the tensors of the case before, and begins recording. */
void op_begin(struct op_device *d, uint64_t seed);

/* Poisoned memory for a matrix, between guards. Begins on a multiple of 16 bytes, and of no more. */
struct tensor op_tensor(struct op_device *d, enum sc_type type, uint32_t rows, uint32_t cols);

/* The same, with weights of this fill, as layout.h lays them out; and n of a matrix's rows from `first` on as floats.
 */
struct tensor op_weights(struct op_device *d, enum sc_type type, uint32_t rows, uint32_t cols, enum op_fill fill);
void op_expand(const struct op_device *d, struct tensor w, uint32_t first, uint32_t n, float *values);

/* The same, with normally distributed values (f32 only). */
struct tensor op_random(struct op_device *d, uint32_t rows, uint32_t cols, float sigma);

/* The same with whole multiples of a 64th up to 127 of them, among every 4 one of 127: what no variant rounds. */
struct tensor op_whole(struct op_device *d, uint32_t rows, uint32_t cols);

/* The routing of n tokens: their ids are to be filled in. */
struct routing op_routing(struct op_device *d, uint32_t n, uint32_t n_used, uint32_t n_experts);

/* op_group for matrices that are all alike, and what it may write. */
void op_group_all(struct op_device *d, struct routing r, struct expert_tensor w);

/* What the device sees at this address, and what was there before the last op_run. */
void *op_host(const struct op_device *d, VkDeviceAddress address);
float *op_floats(const struct op_device *d, struct tensor t);
uint32_t *op_words(const struct op_device *d, struct tensor t);
const float *op_floats_before(const struct op_device *d, struct tensor t);

/* The kernels may write the tensor, or these of its rows. */
void op_writes(struct op_device *d, struct tensor t);
void op_writes_rows(struct op_device *d, struct tensor t, uint32_t first, uint32_t n);

/* Ends recording, submits, waits; false and d->error if that fails. */
bool op_run(struct op_device *d) SC_CHECK;

/* The same recording once more; op_begin_replayed begins one that may be run again. */
void op_begin_replayed(struct op_device *d, uint64_t seed);
bool op_run_again(struct op_device *d) SC_CHECK;

/* Compares results with a reference, and keeps how close the worst came to its bound. */
struct op_judge {
    const struct op_device *device;
    char what[160]; /* the case in words */
    uint64_t seed;
    uint64_t n_cases, n_values;
    double worst; /* of |got - want| / bound */
    char worst_at[160];
};

/* A new case: begins recording and says what it is. */
void op_case(struct op_judge *j, struct op_device *d, uint64_t seed, const char *format, ...) SC_PRINTF(4, 5);

/* Runs what is recorded and fails the test if that fails or if a byte changed that may not. */
void op_judge_run(struct op_judge *j, struct op_device *d);

/* Fails the test unless |got - want| <= bound, with the case, its seed and where it was; NaN fails. */
void op_judge_value(struct op_judge *j, uint32_t row, uint32_t col, double got, double want, double bound);
void op_judge_word(struct op_judge *j, uint32_t row, uint32_t col, uint32_t got, uint32_t want);

/* Prints the counts and the worst, behind what was tested. */
void op_judge_report(const struct op_judge *j, const char *format, ...) SC_PRINTF(2, 3);

#endif
