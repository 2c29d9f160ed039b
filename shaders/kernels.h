/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels that were compiled into this build, in the order of the table in CMakeLists.txt. */
#ifndef SCORIA_KERNELS_H
#define SCORIA_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "args.h"

enum kernel {
#define KERNEL(id, name, spirv, spirv_size, args_size, type) KERNEL_##id,
#include "kernels.inc"
#undef KERNEL
    N_KERNELS
};

struct kernel_info {
    const char *name;
    const uint32_t *spirv; /* NULL: the glslang of this build could not compile it */
    size_t spirv_size_bytes;
    uint32_t args_size_bytes; /* of its push constants */
    int type;                 /* which weight type it was compiled for, in order of ggml's ids; -1: for any */
};

extern const struct kernel_info kernel_infos[N_KERNELS];

/* A kernel and how it is to be compiled. 32-bit members only: programs are compared as bytes. */
struct program {
    enum kernel kernel;
    uint32_t constants[N_CONSTANTS]; /* specialization constants (args.h); 0: the value that stands in the shader */
    uint32_t subgroup_size;          /* full subgroups of this size; 0: as the driver likes */
};

#endif
