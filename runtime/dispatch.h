/* SPDX-License-Identifier: Apache-2.0 */
/* What every operation is made of: the check of its shapes, the size of its grid, what it reads and writes. */
#ifndef SCORIA_DISPATCH_H
#define SCORIA_DISPATCH_H

#include "ops.h"
#include "variants.h"

static inline struct access reads(struct tensor t)
{
    return (struct access){.address = t.address, .size_bytes = tensor_size_bytes(&t)};
}

static inline struct access writes(struct tensor t)
{
    return (struct access){.address = t.address, .size_bytes = tensor_size_bytes(&t), .write = true};
}

static inline uint32_t groups(uint64_t n, uint32_t size)
{
    return (uint32_t)((n + size - 1) / size);
}

enum { WORKGROUP = 64 }; /* threads of most kernels */

/* One dimension of a dispatch holds at least 65535 workgroups and often no more: spreads n over x and z. */
enum { MAX_GROUPS = 32768 };

static inline uint32_t spread_x(uint32_t n)
{
    return n < MAX_GROUPS ? n : MAX_GROUPS;
}

static inline uint32_t spread_z(uint32_t n)
{
    return groups(n, MAX_GROUPS);
}

/*
 * An operation of so many multiply-adds is several dispatches, of so many of its tiles each, so that none takes the
 * device for long. Each element is computed by one of them: the result's bits are the same.
 */
uint32_t op_slice(const struct commands *c, double work, uint32_t n_tiles);

/* The loader has checked the file's shapes, so a wrong one here is a bug; but asserts may be compiled out. */
static inline bool shapes_fit(struct commands *c, bool fit, const char *op)
{
    if (!fit)
        sc_fail(&c->error, SC_INVALID_ARGUMENT, "%s was called with shapes that do not fit", op);
    return fit && !c->error.code;
}

/*
 * What the variant's kernel reads in x's place: x itself, or what a dispatch before it makes of x in the stream's
 * scratch memory, unless it still lies there: q, k and v have the same x. norm is NULL if the operation has none.
 */
struct access input_of(struct commands *c, const struct variant *v, struct tensor x, const struct norm *norm);

#define DISPATCH_PROGRAM(c, program, args, x, y, z, ...) \
    commands_dispatch(c, program, args, (const struct access[]){__VA_ARGS__}, \
                      sizeof((const struct access[]){__VA_ARGS__}) / sizeof(struct access), x, y, z)

/* For kernels without variants. */
#define DISPATCH(c, kernel_, args, x, y, z, ...) \
    DISPATCH_PROGRAM(c, (struct program){.kernel = kernel_}, args, x, y, z, __VA_ARGS__)

#endif
