/* SPDX-License-Identifier: Apache-2.0 */
/* Compiled pipelines on disk, so that only the first start of a new version or driver compiles. */
#ifndef SCORIA_PIPELINE_CACHE_H
#define SCORIA_PIPELINE_CACHE_H

#include "gpu.h"

/*
 * Makes gpu->cache from the file of this device and driver in cache_dir (NULL: the user's cache folder, "": no file). A
 * missing, foreign or damaged file counts as empty; only a driver that makes no cache at all is an error.
 */
bool pipeline_cache_load(struct gpu *gpu, const char *cache_dir, struct sc_error *e) SC_CHECK;

/* Writes it back if it grew, through a temporary file. Not being able to is no error: the next start compiles again. */
void pipeline_cache_save(struct gpu *gpu);

#endif
