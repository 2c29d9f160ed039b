/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* O_DIRECT */
#include "disk_rate.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "clock.h"
#include "reader.h"

/* What an NVMe drive of these years gives. */
static const double USUAL_RATE = 3e9;

enum { N_PIECES = 16, PIECE_BYTES = 4 << 20 };

/* Pieces from all over the file at once. */
static double read_pieces(struct reader *r, int fd, uint64_t file_bytes, uint8_t *memory)
{
    struct read_job jobs[N_PIECES];
    bool ok = true;
    const double start = clock_seconds();
    for (uint32_t i = 0; i < N_PIECES; i++) {
        memset(&jobs[i], 0, sizeof(jobs[i]));
        jobs[i].n_ranges = 1;
        jobs[i].ranges[0] = (struct read_range){.fd = fd,
                                                .offset = file_bytes / N_PIECES * i / READ_ALIGNMENT * READ_ALIGNMENT,
                                                .size_bytes = PIECE_BYTES,
                                                .to = memory + (size_t)i * PIECE_BYTES};
        reader_start(r, &jobs[i]);
    }
    for (uint32_t i = 0; i < N_PIECES; i++)
        ok = reader_wait(r, &jobs[i]) && ok;
    const double seconds = clock_seconds() - start;
    return ok && seconds > 0 ? (double)N_PIECES * PIECE_BYTES / seconds : 0;
}

static double measure(const struct sc_gguf *g)
{
    const int fd = sc_gguf_file_descriptor(g, 0), flags = fcntl(fd, F_GETFL);
    struct stat file;
    struct sc_error ignored = {0};
    if (fstat(fd, &file) != 0 || file.st_size < (off_t)N_PIECES * (PIECE_BYTES + READ_ALIGNMENT) || flags < 0 ||
        fcntl(fd, F_SETFL, flags | O_DIRECT) != 0)
        return 0;
    struct reader *r = reader_create(false, &ignored);
    uint8_t *memory = aligned_alloc(READ_ALIGNMENT, (size_t)N_PIECES * PIECE_BYTES);
    const double rate = r && memory ? read_pieces(r, fd, (uint64_t)file.st_size, memory) : 0;
    reader_destroy(r);
    free(memory);
    (void)fcntl(fd, F_SETFL, flags);
    return rate;
}

double disk_rate(const struct sc_gguf *g, bool *is_measured)
{
    const double rate = measure(g);
    if (is_measured)
        *is_measured = rate > 0;
    return rate > 0 ? rate : USUAL_RATE;
}
