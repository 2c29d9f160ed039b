/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels.h"

#include "spirv.inc"

const struct kernel_info kernel_infos[N_KERNELS] = {
#define KERNEL(id, name, spirv, args_size) {name, spirv, sizeof(spirv), args_size},
#include "kernels.inc"
#undef KERNEL
};
