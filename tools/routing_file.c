/* SPDX-License-Identifier: Apache-2.0 */
#include "routing_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "routing_trace.h"

enum { HEADER_BYTES = 20, MAX_LAYERS = 4096 };
static const size_t MAX_BYTES = (size_t)1 << 30;

static bool read_all(struct routing_file *r, const char *path, size_t *n, struct sc_error *e)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return sc_fail(e, SC_IO, "%s: %s", path, strerror(errno));
    size_t room = 0;
    bool ok = true;
    while (ok && !feof(f)) {
        if (*n == room) {
            room = room ? 2 * room : 1 << 16;
            uint8_t *more = room <= MAX_BYTES ? realloc(r->bytes, room) : NULL;
            if (!more) {
                ok = sc_fail_memory(e, path);
                break;
            }
            r->bytes = more;
        }
        *n += fread(r->bytes + *n, 1, room - *n, f);
        if (ferror(f))
            ok = sc_fail(e, SC_IO, "%s: %s", path, strerror(errno));
    }
    fclose(f);
    return ok;
}

/* The ids of one token in one layer exist and are distinct. */
static bool is_choice(const struct routing_file *r, const uint8_t *ids)
{
    for (uint32_t i = 0; i < r->n_used; i++)
        if (ids[i] >= r->n_experts || memchr(ids, ids[i], i))
            return false;
    return true;
}

/* The pass that begins at `at`; moves it behind. */
static bool read_pass(const struct routing_file *r, struct routing_pass *pass, size_t *at, size_t n, const char *path,
                      struct sc_error *e)
{
    const uint64_t left = n - *at;
    const uint64_t per_token = 4 + (uint64_t)r->n_layers * r->n_used;
    if (left < 4 || (left - 4) / per_token < load_u32(r->bytes + *at))
        return sc_fail(e, SC_BAD_FILE, "%s ends in the middle of a pass", path);
    pass->n_tokens = load_u32(r->bytes + *at);
    if (pass->n_tokens == 0)
        return sc_fail(e, SC_BAD_FILE, "%s: pass %zu has no tokens", path, r->n_passes);
    pass->tokens = r->bytes + *at + 4;
    pass->ids = pass->tokens + 4 * (size_t)pass->n_tokens;
    for (size_t i = 0; i < (size_t)r->n_layers * pass->n_tokens; i++)
        if (!is_choice(r, pass->ids + i * r->n_used))
            return sc_fail(e, SC_BAD_FILE, "%s: pass %zu chooses experts that do not exist, or one twice", path,
                           r->n_passes);
    *at += 4 + (size_t)(pass->n_tokens * per_token);
    return true;
}

static bool parse(struct routing_file *r, size_t n, const char *path, struct sc_error *e)
{
    if (n < HEADER_BYTES || memcmp(r->bytes, ROUTING_TRACE_MAGIC, 8) != 0)
        return sc_fail(e, SC_BAD_FILE, "%s is not a routing trace", path);
    r->n_layers = load_u32(r->bytes + 8);
    r->n_experts = load_u32(r->bytes + 12);
    r->n_used = load_u32(r->bytes + 16);
    if (!r->n_layers || r->n_layers > MAX_LAYERS || r->n_experts > SC_MAX_EXPERTS || !r->n_used ||
        r->n_used > SC_MAX_EXPERTS_USED || r->n_used > r->n_experts)
        return sc_fail(e, SC_BAD_FILE, "%s: %u layers of %u experts of which %u are used make no sense", path,
                       r->n_layers, r->n_experts, r->n_used);
    size_t room = 0;
    for (size_t at = HEADER_BYTES; at < n; r->n_passes++) {
        if (r->n_passes == room) {
            room = room ? 2 * room : 256;
            struct routing_pass *more = realloc(r->passes, room * sizeof(*more));
            if (!more)
                return sc_fail_memory(e, path);
            r->passes = more;
        }
        if (!read_pass(r, &r->passes[r->n_passes], &at, n, path, e))
            return false;
    }
    return true;
}

bool routing_file_init(struct routing_file *r, const char *path, struct sc_error *e)
{
    size_t n = 0;
    memset(r, 0, sizeof(*r));
    if (read_all(r, path, &n, e) && parse(r, n, path, e))
        return true;
    routing_file_finish(r);
    return false;
}

void routing_file_finish(struct routing_file *r)
{
    free(r->passes);
    free(r->bytes);
    memset(r, 0, sizeof(*r));
}

void routing_file_count(const struct routing_file *r, const struct routing_pass *pass, uint32_t layer, uint32_t *n_uses)
{
    const size_t n = (size_t)pass->n_tokens * r->n_used;
    memset(n_uses, 0, r->n_experts * sizeof(*n_uses));
    for (size_t i = 0; i < n; i++)
        n_uses[pass->ids[layer * n + i]]++;
}
