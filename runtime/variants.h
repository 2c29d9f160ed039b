/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Families of kernels and their variants. A family is one thing to compute, a matrix times a vector say; its variants
 * compute it from the same arguments, and differ in what they need from a device and in how fast they are there.
 */
#ifndef SCORIA_VARIANTS_H
#define SCORIA_VARIANTS_H

#include "gpu.h"

enum family { FAMILY_MATVEC, FAMILY_MATMUL, N_FAMILIES };

struct variant {
    const char *name;
    enum kernel first;     /* for weights of type f32; those of the other types follow in order of ggml's ids */
    uint32_t tile_rows;    /* of the matrix, that a workgroup computes; matvec: that a thread computes */
    uint32_t tile_columns; /* matmul: tokens of a workgroup */
    bool (*runs_on)(const struct sc_device_info *device);
};

/* The family's variant for this device. */
const struct variant *variant_of(const struct gpu *gpu, enum family family);

/* The kernel for weights of `type`, of those from `first` on that were compiled for every type. */
enum kernel kernel_of_type(enum kernel first, enum sc_type type);

#endif
