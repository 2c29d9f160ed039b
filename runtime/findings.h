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

/*
 * Around what may take the process or the whole device with it: the first runs of a variant. Between the two a file
 * tells of it, and a lost device is no end; findings_load takes a variant that ended two starts in a row for one that
 * has failed.
 */
void findings_begin_test(struct gpu *gpu, enum family family, uint32_t variant, enum sc_type type);
void findings_end_test(struct gpu *gpu, enum sc_code outcome);

/* Forgets what this process keeps; a file stays. */
void findings_forget(struct gpu *gpu);

#endif
