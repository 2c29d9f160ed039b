/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The recorded pass of n tokens: its commands, to be replayed with other inputs. Where the host may have to act it is
 * cut into streams: after a layer's router has chosen, and after its experts have run.
 *
 *     [0] inputs, embed, attention 0 | [1] experts 0 | [2] combine 0, attention 1 | [3] experts 1 | ...
 *     | [2L] combine L - 1
 *
 * A single token whose experts all have slots needs no host: all of that is stream 0. What is wanted of the last
 * layer's result are streams of their own, of which one runs behind these.
 */
#ifndef SCORIA_RECORDING_H
#define SCORIA_RECORDING_H

#include "session_memory.h"

/* What a pass ends with: the best of a token's logits, or some tokens' logits, in host memory. */
enum output { OUTPUT_TOP, OUTPUT_LOGITS, N_OUTPUTS, OUTPUT_NONE = N_OUTPUTS };

struct recording {
    const struct model *model;
    const struct session_memory *memory;
    const struct exchange *exchange; /* its own */
    uint32_t n;                      /* 0: nothing is recorded */
    uint32_t n_seen;                 /* positions of the cache that it may see */
    double piece_work;               /* gpu->piece_work then */
    bool is_merged;                  /* a single token without the host */
    struct commands *streams;        /* (2 * n_layers + 1), of which are used: */
    uint32_t n_streams;
    struct commands outputs[N_OUTPUTS]; /* of a single token: recorded with the streams */
    uint64_t submitted;                 /* the last submission of any of it, to wait for */
};

/* Borrows all of them. */
bool recording_init(struct recording *r, struct gpu *gpu, const struct model *m, const struct session_memory *memory,
                    const struct exchange *exchange, struct sc_error *e) SC_CHECK;
void recording_finish(struct recording *r); /* accepts a zeroed struct; the device is done with it */

/* Records n tokens behind n_past others, unless that is what is there. The device is done with what it replaces. */
bool recording_make(struct recording *r, uint32_t n, uint32_t n_past, bool is_merged, struct sc_error *e) SC_CHECK;

/* Of several tokens: records the output of n of them from `first` on, of OUTPUT_TOP the one token `first`. */
bool recording_output(struct recording *r, enum output output, uint32_t first, uint32_t n, struct sc_error *e) SC_CHECK;

#endif
