/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replays recorded routing through caches of expert slots, and counts what decode finds there. All begin as the runtime
 * does on its first start: every slot holds some expert, as many of each layer.
 * The ways of the runtime: REPLAY_PROMOTE, misses run on the CPU and what has earned it is uploaded between tokens;
 * REPLAY_DEMAND, each miss is uploaded before its layer runs. LRU, LFU and the optimum upload (or may upload) at every
 * miss.
 */
#ifndef SCORIA_REPLAY_H
#define SCORIA_REPLAY_H

#include "config.h"
#include "routing_file.h"

enum replay_path { REPLAY_PROMOTE, REPLAY_DEMAND, REPLAY_N_PATHS };
enum replay_cache { REPLAY_LRU, REPLAY_LFU, REPLAY_OURS, REPLAY_FIXED, REPLAY_PRICED, REPLAY_BELADY, REPLAY_N_CACHES };

/* What REPLAY_PRICED pays for an upload, in hits: RAM is about three times as fast as PCIe 4.0 x16. */
enum { REPLAY_PRICE = 3 };

struct replay {
    uint64_t n_tokens, n_uses, n_hits, n_uploads;  /* of decode */
    uint64_t n_prompt_uploads;                     /* of the prompts between */
    uint64_t n_with_hits[SC_MAX_EXPERTS_USED + 1]; /* layers of decode in which so many of the n_used were hits */
};

/*
 * Three know the future. FIXED has the best choice of experts that stay for ever. BELADY gives up what is needed last;
 * where misses may run on the CPU it also may leave a miss outside. PRICED does the same when uploads are not free.
 * Adds to *sum.
 */
bool replay_run(const struct routing_file *r, enum replay_path path, enum replay_cache cache, uint32_t n_slots,
                struct replay *sum, struct sc_error *e) SC_CHECK;

#endif
