/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of split models: "PREFIX-00002-of-00003.gguf", parts counted from 1.
 */
#ifndef SCORIA_SPLIT_H
#define SCORIA_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct split_name {
    size_t prefix_bytes; /* of the path, up to the hyphen before the number */
    uint32_t number;
    uint32_t count;
};

/* False if the path does not end like the name of a part. */
bool split_parse(const char *path, struct split_name *out);

/* The path of another part, for the caller to free; NULL if memory ran out. */
char *split_path(const char *path, const struct split_name *name, uint32_t number);

#endif
