/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pass takes up to n_batch tokens through all layers. Its commands are streams, cut where the host may act: after a
 * layer's router has chosen, and after its experts have run.
 *
 *     [0] inputs, embed, attention 0 | [1] experts 0 | [2] combine 0, attention 1 | [3] experts 1 | ...
 *     | [2L] combine L - 1 | [2L + 1] logits of a single token
 *
 * With every expert in a slot the streams follow each other at once. Otherwise experts that no slot holds are either
 * uploaded before their layer's experts run, or, for one token or a few, computed by the CPU while the GPU runs the
 * others: then stream 2l + 2 waits for the host. The streams of single tokens are recorded once and replayed for ever;
 * those of a batch are replayed as long as its size and its depth stay about the same.
 */
#ifndef SCORIA_PASS_H
#define SCORIA_PASS_H

#include "engine.h"
#include "pace.h"
#include "session_memory.h"

/* The recorded pass of n tokens. */
struct recording {
    uint32_t n;        /* 0: nothing is recorded */
    uint32_t n_seen;   /* positions of the cache that it may see, its own included */
    double piece_work; /* gpu->piece_work then */
    bool is_merged;    /* as activations.is_merged */
    struct commands *streams;
};

struct pass {
    struct sc_engine *engine;
    struct session_memory memory;
    double *frequencies; /* (n_rot / 2) what a pair of dimensions turns by per position, in radians */
    struct recording single, batch;
    uint32_t n_streams;             /* of a recording */
    struct commands **list;         /* (n_streams) scratch */
    struct submission *submissions; /* (n_streams) scratch */
    struct commands output;         /* logits of some tokens of a batch, recorded when asked for */
    struct pace pace;               /* of passes of more than one token */
    uint64_t submitted;             /* the last submission, to wait for */
    uint64_t *computed;             /* (n_layers) the submission of the layer's experts */
    uint32_t n_unread;              /* tokens of a pass whose choices the host has not read yet */
    double wait_seconds;            /* layers waited for the upload of experts */
};

/* Allocates everything and compiles all kernels. Borrows the engine. */
bool pass_init(struct pass *p, struct sc_engine *engine, struct sc_error *e) SC_CHECK;
void pass_finish(struct pass *p); /* waits for the device; accepts a zeroed struct */

/*
 * Computes n tokens (1 to n_batch) that follow n_past others, and with_logits of a single one its logits too. The
 * device may still be at it when this returns.
 */
bool pass_run(struct pass *p, const sc_token *tokens, uint32_t n, uint32_t n_past, bool with_logits,
              struct sc_error *e) SC_CHECK;

/* Logits (n, n_vocab) of n of the pass's n_pass tokens, from `first` on. */
bool pass_logits(struct pass *p, uint32_t n_pass, uint32_t first, uint32_t n, float *logits,
                 struct sc_error *e) SC_CHECK;

/* Waits until the device is done with the pass. */
bool pass_wait(struct pass *p, struct sc_error *e) SC_CHECK;

#endif
