/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A GGUF model as it lies on disk: metadata and tensors as views into read-only mappings of its files.
 *
 * Versions 2 and 3, little endian, one file or a split set ("name-00001-of-00003.gguf"; any member may be named).
 * Nothing in the file is trusted: after sc_gguf_open succeeded every view lies inside its mapping, every count and
 * product has been checked, names are unique, and every tensor's bytes are all there. If a file is truncated later, or
 * its disk fails, views of what is lost read as zeros and sc_gguf_check fails (guard.h has the signal handler).
 * Source: the GGUF specification (docs/gguf.md of ggml).
 */
#ifndef SCORIA_GGUF_H
#define SCORIA_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "types.h"

enum { SC_GGUF_MAX_DIMS = 4 };

enum sc_gguf_value_type {
    SC_GGUF_U8 = 0,
    SC_GGUF_I8 = 1,
    SC_GGUF_U16 = 2,
    SC_GGUF_I16 = 3,
    SC_GGUF_U32 = 4,
    SC_GGUF_I32 = 5,
    SC_GGUF_F32 = 6,
    SC_GGUF_BOOL = 7,
    SC_GGUF_STRING = 8,
    SC_GGUF_ARRAY = 9,
    SC_GGUF_U64 = 10,
    SC_GGUF_I64 = 11,
    SC_GGUF_F64 = 12,
};

/* Bytes inside the mapping; not 0-terminated, may hold any byte. */
struct sc_gguf_string {
    const char *data;
    size_t size_bytes;
};

/* One metadata entry. An array's elements are read with sc_gguf_array_*. */
struct sc_gguf_value {
    struct sc_gguf_string key;
    enum sc_gguf_value_type type;
    enum sc_gguf_value_type element_type; /* of an array */
    uint64_t n_elements;                  /* of an array; 1 otherwise */
    const uint8_t *data;                  /* unaligned little-endian bytes; of a string its text */
    size_t size_bytes;                    /* of data */
};

struct sc_gguf_tensor {
    struct sc_gguf_string name;
    uint32_t type;   /* ggml's id; may be one that sc_type_info lacks, then data is NULL and size_bytes 0 */
    uint32_t n_dims; /* 1 to 4 */
    uint64_t shape[SC_GGUF_MAX_DIMS]; /* slowest dimension first; the file's order is reversed here and nowhere else */
    const uint8_t *data;
    uint64_t size_bytes;
    uint64_t offset; /* of data in its file */
    uint32_t file;   /* which member of the split set: index for sc_gguf_file_path */
};

struct sc_gguf;

/* Opens and maps the model with all its parts. The caller owns the result; views die with it. */
struct sc_gguf *sc_gguf_open(const char *path, struct sc_error *e) SC_CHECK;
void sc_gguf_close(struct sc_gguf *g); /* accepts NULL */

/*
 * Opens only the header: the files may end after it, and tensors that are there are not read. Everything in the header
 * is checked as ever. The tensors' data is made up: vectors are ones, the rest zeros until sc_gguf_fabricate.
 */
struct sc_gguf *sc_gguf_open_header(const char *path, struct sc_error *e) SC_CHECK;
bool sc_gguf_is_header(const struct sc_gguf *g); /* opened so */

/*
 * Fills the tensors of an opened header with small random weights, in at most memory_bytes of memory: where that is
 * less than the model, the same memory appears in several tensors, so that caches may seem better than they are.
 * *distinct_bytes is how much there is. progress, which may be NULL, cancels by returning false.
 */
bool sc_gguf_fabricate(struct sc_gguf *g, uint64_t memory_bytes, uint32_t n_threads,
                       bool (*progress)(void *user, uint64_t done, uint64_t total), void *user,
                       uint64_t *distinct_bytes, struct sc_error *e) SC_CHECK;

/* Fails if a view that was read since the model was opened may have held zeros instead of the file's bytes. */
bool sc_gguf_check(const struct sc_gguf *g, struct sc_error *e) SC_CHECK;

const char *sc_gguf_path(const struct sc_gguf *g); /* as given to sc_gguf_open */
uint32_t sc_gguf_version(const struct sc_gguf *g);
uint64_t sc_gguf_size_bytes(const struct sc_gguf *g); /* of all files together, as large as their headers say */
size_t sc_gguf_n_files(const struct sc_gguf *g);
const char *sc_gguf_file_path(const struct sc_gguf *g, size_t index);
int sc_gguf_file_descriptor(const struct sc_gguf *g, size_t index); /* open for reading until sc_gguf_close */

/* The mapped file from its first byte; NULL: its tensors' bytes are not there. */
const void *sc_gguf_file_data(const struct sc_gguf *g, size_t index, uint64_t *size_bytes);

/* Keeps the file's bytes in RAM as long as the model is open. False: the system does not allow it. */
bool sc_gguf_lock(const struct sc_gguf *g, size_t file);

/* Hints about bytes of a file: they will be read through the mapping soon; or RAM may forget them. */
void sc_gguf_prefetch(const struct sc_gguf *g, size_t file, uint64_t offset, uint64_t size_bytes);
void sc_gguf_forget(const struct sc_gguf *g, size_t file, uint64_t offset, uint64_t size_bytes);

size_t sc_gguf_n_values(const struct sc_gguf *g);
const struct sc_gguf_value *sc_gguf_value(const struct sc_gguf *g, size_t index);
const struct sc_gguf_value *sc_gguf_find_value(const struct sc_gguf *g, const char *key); /* NULL if absent */

/* Of all files together, in one array: t - sc_gguf_tensor(g, 0) is the index of t. */
size_t sc_gguf_n_tensors(const struct sc_gguf *g);
const struct sc_gguf_tensor *sc_gguf_tensor(const struct sc_gguf *g, size_t index);
const struct sc_gguf_tensor *sc_gguf_find_tensor(const struct sc_gguf *g, const char *name); /* NULL if absent */

/*
 * Typed reading. Each returns false without touching *out when the value is NULL, of another kind, or does not fit:
 * any integer type is accepted where an integer is asked for, any number where a float is.
 */
bool sc_gguf_read_u64(const struct sc_gguf_value *v, uint64_t *out);
bool sc_gguf_read_f64(const struct sc_gguf_value *v, double *out);
bool sc_gguf_read_bool(const struct sc_gguf_value *v, bool *out);
bool sc_gguf_read_string(const struct sc_gguf_value *v, struct sc_gguf_string *out);

/* The element at `index` of an array of numbers. */
bool sc_gguf_array_f64(const struct sc_gguf_value *v, uint64_t index, double *out);
bool sc_gguf_array_i64(const struct sc_gguf_value *v, uint64_t index, int64_t *out);

/*
 * Fills out[n_elements] with the strings of an array of strings in one pass (they have no fixed size, so there is no
 * reading by index). False if v is no array of strings.
 */
bool sc_gguf_array_strings(const struct sc_gguf_value *v, struct sc_gguf_string *out);

#endif
