/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was found out about a device's kernels, kept for the next start: for the same device, driver, kernels and table
 * of variants. It is kept in the cache folder, and for other engines of this process also without one. A hash tells a
 * damaged file; whoever can write whole files there is the user, and can at worst have a variant used that was never
 * tested.
 */
#ifndef SCORIA_FINDINGS_H
#define SCORIA_FINDINGS_H

#include "gpu.h"

/* Fills gpu->choices.findings with what is kept; with nothing where nothing can be trusted. cache_dir: as in scoria.h.
 */
void findings_load(struct gpu *gpu, const char *cache_dir);

/* Not being able to write is no error: the next start finds out again. */
void findings_save(const struct gpu *gpu, const char *cache_dir);

/* Forgets what this process keeps; a file stays. */
void findings_forget(struct gpu *gpu);

#endif
