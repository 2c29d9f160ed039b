/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels.h"

#include "spirv.inc"

const struct kernel_info kernel_infos[N_KERNELS] = {
#define KERNEL(id, name, spirv, spirv_size, args_size, type) {name, spirv, spirv_size, args_size, type},
#include "kernels.inc"
#undef KERNEL
};
