/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One GGUF file: mapped, parsed and checked by itself. A model is one part, or a split set of them (gguf.c).
 */
#ifndef SCORIA_PART_H
#define SCORIA_PART_H

#include "gguf.h"
#include "mapping.h"

struct part {
    char *path;
    struct mapping map;
    uint32_t version;
    struct sc_gguf_value *values; /* in the file's order */
    size_t n_values;
    struct sc_gguf_tensor *tensors; /* in the file's order; `file` is left 0 */
    size_t n_tensors;
    uint64_t size_bytes; /* of the file; of one that may end after its header, what it would be with its tensors */
};

/*
 * header_only: the tensors' bytes need not be there, and data is left NULL; all else is checked as ever. Call
 * part_finish also when it failed.
 */
bool part_init(struct part *p, const char *path, bool header_only, struct sc_error *e) SC_CHECK;
void part_finish(struct part *p); /* accepts a zeroed struct */

/*
 * Pointers to values or tensors in order of their names, for bsearch. Both structs begin with their name, so a pointer
 * to either is a pointer to a string. Sorting, unlike hashing, has no bad case that a hostile file could build.
 */
int name_compare(const void *a, const void *b); /* of two `const struct sc_gguf_string *const *` */

#endif
