/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers as people write them, read strictly: the whole text must be the number, and within the range. */
#ifndef SCORIA_CLI_NUMBER_H
#define SCORIA_CLI_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct integers {
    int64_t *values; /* (n), owned: integers_finish */
    size_t n;
};

bool number_integer(const char *text, int64_t min, int64_t max, int64_t *out);
bool number_real(const char *text, double min, double max, double *out);

/* Bytes: "800M", "12G", "1.5GiB", "24GB". K, M, G, T and KiB... are powers of 1024, KB... of 1000, in any case. */
bool number_size(const char *text, uint64_t *out);

/* Appends the integers of size_bytes bytes of text: separated by commas or white space, brackets are ignored. */
bool number_integers(const char *text, size_t size_bytes, int64_t min, int64_t max, struct integers *list);
void integers_finish(struct integers *list);

/* "512 B", "1.50 GiB": for people. out has at least 32 bytes; returns out. */
const char *number_bytes(char *out, uint64_t bytes);

/* "46.7 B", "980 K": parameters, for people. */
const char *number_count(char *out, uint64_t count);

#endif
