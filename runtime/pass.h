/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pass takes up to n_batch tokens through all layers, by the commands of a recording (recording.h).
 *
 * With every expert in a slot its streams follow each other at once. Otherwise experts that no slot holds are either
 * uploaded before their layer's experts run, or, for one token or a few, computed by the CPU while the GPU runs the
 * others: then stream 2l + 2 waits for the host. The recordings of single tokens are made once and replayed for ever,
 * the two in turn; that of a batch is replayed as long as its size and its depth stay about the same.
 *
 * Who asks for the best token alone is taken to go on with it: the device begins the next pass with that token before
 * the host has seen it. If that is the next pass indeed, it is under way when it is asked for; if not, what it computed
 * is overwritten, and nothing is begun like that before the caller has gone on with a best token again.
 */
#ifndef SCORIA_PASS_H
#define SCORIA_PASS_H

#include "engine.h"
#include "pace.h"
#include "recording.h"

struct pass {
    struct sc_engine *engine;
    struct session_memory memory;
    double *frequencies; /* (n_rot / 2) what a pair of dimensions turns by per position, in radians */
    struct recording single[EXCHANGE_BATCH], batch;
    uint32_t turn;                  /* which of single comes next */
    struct commands **list;         /* scratch: a recording's streams and an output */
    struct submission *submissions; /* as many */
    struct pace pace;               /* of passes of more than one token */
    uint64_t submitted;             /* the last submission of the pass, to wait for */
    uint64_t waited;                /* the last that was waited for */
    uint64_t *computed;             /* (n_layers) the submission of the layer's experts */
    uint32_t n_unread;              /* tokens of a pass whose choices the host has not read yet */
    double wait_seconds;            /* layers waited for the upload of experts */

    /* the last pass */
    struct recording *recording;
    enum output output; /* which one has been submitted with it */
    uint32_t end;       /* tokens in the sequence behind it */
    sc_token best;      /* of its logits; -1: not known */

    uint32_t ahead;      /* tokens behind which a pass is under way that nobody has asked for yet; 0: none */
    bool is_followed;    /* the caller went on with the best token, or has had no occasion */
    double seen;         /* when the host last saw the end of a single token's pass; 0: other passes came behind it */
    double idle_seconds; /* at most so long the device waited for the host between single tokens */
};

/* Allocates everything and compiles all kernels. Borrows the engine. */
bool pass_init(struct pass *p, struct sc_engine *engine, struct sc_error *e) SC_CHECK;
void pass_finish(struct pass *p); /* waits for the device; accepts a zeroed struct */

/*
 * Computes n tokens (1 to n_batch) that follow n_past others; of OUTPUT_TOP the n_top best will be wanted. The device
 * may still be at it when this returns.
 */
bool pass_run(struct pass *p, const sc_token *tokens, uint32_t n, uint32_t n_past, enum output output, uint32_t n_top,
              struct sc_error *e) SC_CHECK;

/* Logits (n, n_vocab) of n of the pass's tokens, from `first` on, if it was run for them. */
bool pass_logits(struct pass *p, uint32_t first, uint32_t n, float *logits, struct sc_error *e) SC_CHECK;

/* The *n best candidates for what follows the pass's last token, if it was run for as many; *n becomes how many there
 * are. */
bool pass_top(struct pass *p, struct sc_candidate *top, size_t *n, struct sc_error *e) SC_CHECK;

/* Waits until the device is done with the pass. */
bool pass_wait(struct pass *p, struct sc_error *e) SC_CHECK;

/* After a failure: waits until the device is done with everything, and forgets what was begun unasked. */
void pass_abandon(struct pass *p);

#endif
