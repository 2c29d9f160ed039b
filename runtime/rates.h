/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this machine really gives: its device, its processor and the link between them, measured once with experts of
 * the model's own shape and types, then kept in the cache folder. Weights are random; the model's file is not read.
 */
#ifndef SCORIA_RATES_H
#define SCORIA_RATES_H

#include "config.h"
#include "cpu_pool.h"
#include "gpu.h"

/*
 * All finite and more than 0. Bytes are bytes of weights as they lie in memory, per second. "Experts of one token" go
 * through memory once; for a group of them small enough to run together, time includes all but the submission.
 */
struct rates {
    double device_read;      /* a kernel reads device memory, bytes/s */
    double device_expert;    /* the device computes experts of one token, bytes/s */
    double device_batch;     /* and of RATES_DEVICE_BATCH tokens each, FLOP/s */
    double host_read;        /* the pool's threads read host memory, bytes/s */
    double host_expert;      /* the CPU computes experts of one token, bytes/s */
    double host_batch_small; /* of RATES_SMALL_BATCH tokens each, FLOP/s */
    double host_batch;       /* of RATES_HOST_BATCH tokens each, FLOP/s */
    double upload;           /* host to device as upload.h does it: the caller's copy into the ring included, bytes/s */
    double transfer;         /* page-locked host memory to device, bytes/s */
    double round_trip;       /* seconds from a result of the device to the host and back to work that waited for it */

    /* at the same time */
    double device_beside_host;   /* device_expert while the CPU computes experts */
    double host_beside_device;   /* host_expert meanwhile */
    double transfer_beside_host; /* transfer while the CPU computes experts */
    double host_beside_transfer; /* host_expert meanwhile */
};

enum { RATES_DEVICE_BATCH = 128, RATES_SMALL_BATCH = 16, RATES_HOST_BATCH = 64 };

/*
 * Unless `anew`, fills *r with the values of an earlier call for the same device, driver, processor, threads and kind
 * of experts, made by this process or found in cache_dir (as in sc_engine_params). Else measures and keeps them there;
 * the next process believes them if they were steady, since what is measured while others use the machine must not
 * decide for ever. Takes some tenths of a second on a GPU and up to 1 GB of host memory, and of device memory no more
 * than half of what the budget has left; all of it is given back. No other work may be on the device.
 */
bool rates_get(struct rates *r, struct gpu *gpu, const struct weights *w, const struct config *c, struct cpu_pool *pool,
               const char *cache_dir, bool anew, struct sc_error *e) SC_CHECK;

/* Measures, whatever the cache holds, and keeps nothing. *steady: runs of the same work took about the same time. */
bool rates_measure(struct rates *r, bool *steady, struct gpu *gpu, const struct weights *w, const struct config *c,
                   struct cpu_pool *pool, struct sc_error *e) SC_CHECK;

/* Whether the values can be true: finite, positive, and of this world. */
bool rates_are_plausible(const struct rates *r);

#endif
