/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels that were compiled into this build, in the order of the table in CMakeLists.txt. */
#ifndef SCORIA_KERNELS_H
#define SCORIA_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "args.h"

enum kernel {
#define KERNEL(id, name, spirv, args_size) KERNEL_##id,
#include "kernels.inc"
#undef KERNEL
    N_KERNELS
};

struct kernel_info {
    const char *name;
    const uint32_t *spirv;
    size_t spirv_size_bytes;
    uint32_t args_size_bytes; /* of its push constants */
};

extern const struct kernel_info kernel_infos[N_KERNELS];

#endif
