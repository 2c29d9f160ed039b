/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads parts of files into memory in the background: threads that sleep in the kernel, several reads at a time, in the
 * order in which they were asked for. One thread at a time may call these functions.
 */
#ifndef SCORIA_READER_H
#define SCORIA_READER_H

#include <stdint.h>

#include "error.h"

enum { READ_ALIGNMENT = 4096, MAX_READ_RANGES = 3 };

/*
 * Bytes of a file. Whatever lies in the same block of READ_ALIGNMENT bytes comes along: offset and `to` are multiples
 * of it, and there is room for size_bytes rounded up to it.
 */
struct read_range {
    int fd;
    uint64_t offset;
    uint64_t size_bytes;
    uint8_t *to;
};

struct read_job {
    struct read_range ranges[MAX_READ_RANGES];
    uint32_t n_ranges;

    /* the reader's own, under its lock */
    struct read_job *next;
    uint32_t range;       /* in which the next read begins, and where */
    uint64_t begun_bytes; /* of that range */
    uint32_t n_running;
    bool done;
    int failure;           /* errno, or READ_ENDED; 0: none */
    uint32_t failed_range; /* in which it happened first */
    uint64_t failed_at;    /* offset in its file */
};
enum { READ_ENDED = -1 }; /* the file is shorter than it was */

struct reader;

/* cached: what has been read may stay in the system's cache too. */
struct reader *reader_create(bool cached, struct sc_error *e) SC_CHECK;
void reader_destroy(struct reader *r); /* what has not begun is not read; accepts NULL */

/* Fill in the ranges and nothing else. The job, its memory and its files stay where they are until it is done. */
void reader_start(struct reader *r, struct read_job *job);
bool reader_is_done(struct reader *r, struct read_job *job);

/* Waits, and lets no other job go before this one. False: see job->failure. */
bool reader_wait(struct reader *r, struct read_job *job);

uint64_t reader_total_bytes(struct reader *r); /* read so far */

#endif
