/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small files under the user's cache folder. Each is written through a temporary file and carries a checksum, so that
 * what is read back is what was written, or nothing. Losing one costs time and no more: nothing here is an error.
 */
#ifndef SCORIA_CACHE_FILE_H
#define SCORIA_CACHE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CACHE_PATH_BYTES = 4096 };

/*
 * The path of the file `name` in cache_dir; NULL: $XDG_CACHE_HOME/scoria or ~/.cache/scoria; "": none. "" where there
 * is no such folder.
 */
void cache_file_path(char path[CACHE_PATH_BYTES], const char *cache_dir, const char *name);

/* What the file holds behind its magic of 8 characters; NULL if nothing that can be trusted. The caller frees. */
uint8_t *cache_file_read(const char *path, const char *magic, size_t max_bytes, size_t *size_bytes);

/* Makes the folders too. False if it could not be written. */
bool cache_file_write(const char *path, const char *magic, const void *bytes, size_t size_bytes);

/* FNV-1a of some more bytes; start with CACHE_HASH_START. */
#define CACHE_HASH_START UINT64_C(0xcbf29ce484222325)
uint64_t cache_hash(uint64_t hash, const void *bytes, size_t size_bytes);

#endif
