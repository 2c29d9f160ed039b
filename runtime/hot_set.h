/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the policy has learned of a model's experts, kept for the next start in the user's cache folder. A file that is
 * missing, damaged or of another model is as good as none.
 */
#ifndef SCORIA_HOT_SET_H
#define SCORIA_HOT_SET_H

#include "cache_file.h"
#include "gguf.h"
#include "policy.h"

struct hot_set {
    uint64_t model;              /* hash of what the model's files say of themselves, and of its first router */
    char path[CACHE_PATH_BYTES]; /* "": it is not kept */
};

/* cache_dir as in sc_engine_params. A header without weights keeps none. */
void hot_set_init(struct hot_set *h, const char *cache_dir, const struct sc_gguf *g);

/*
 * The policy begins with a tenth of the counts that were saved, and keeps them all for the next save. False, and the
 * policy as it was, if there are none.
 */
bool hot_set_restore(const struct hot_set *h, struct policy *p);

/* Of each expert the larger count, this run's or the one kept of earlier runs. False if it could not be written. */
bool hot_set_save(const struct hot_set *h, const struct policy *p);

#endif
