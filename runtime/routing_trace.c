/* SPDX-License-Identifier: Apache-2.0 */
#include "routing_trace.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "printable.h"

static_assert(SC_MAX_EXPERTS <= UINT8_MAX + 1, "an id is a byte");

struct routing_trace {
    FILE *file;
    struct printable_path path;
    uint32_t n_layers, n_used, n_tokens;
    uint8_t *pass; /* what the file has of a pass */
    uint8_t *ids;  /* in pass, after the tokens */
    int failure;   /* the first errno, 0: none */
};

static uint8_t *put_u32(uint8_t *to, uint32_t value)
{
    for (uint32_t i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> 8 * i);
    return to + 4;
}

static void write_bytes(struct routing_trace *t, const uint8_t *bytes, size_t n)
{
    errno = 0;
    if (!t->failure && fwrite(bytes, 1, n, t->file) != n)
        t->failure = errno ? errno : EIO;
}

struct routing_trace *routing_trace_create(const char *path, const struct config *c, uint32_t n_most,
                                           struct sc_error *e)
{
    struct routing_trace *t = calloc(1, sizeof(*t));
    if (t) {
        t->n_layers = c->n_layers;
        t->n_used = c->n_experts_used;
        t->path = sc_printable_path(path);
        t->pass = malloc(4 + (size_t)n_most * (4 + (size_t)c->n_layers * c->n_experts_used));
    }
    if (!t || !t->pass) {
        sc_fail_memory(e, "the routing trace");
        routing_trace_destroy(t, e);
        return NULL;
    }
    t->file = fopen(path, "wb");
    if (!t->file) {
        sc_fail(e, SC_IO, "%s cannot be written: %s", t->path.text, strerror(errno));
        routing_trace_destroy(t, e);
        return NULL;
    }
    uint8_t header[20];
    memcpy(header, ROUTING_TRACE_MAGIC, 8);
    put_u32(put_u32(put_u32(header + 8, c->n_layers), c->n_experts), c->n_experts_used);
    write_bytes(t, header, sizeof(header));
    if (!routing_trace_flush(t, e)) {
        routing_trace_destroy(t, e);
        return NULL;
    }
    return t;
}

bool routing_trace_flush(struct routing_trace *t, struct sc_error *e)
{
    if (t && !t->failure && fflush(t->file) != 0)
        t->failure = errno;
    return !t || !t->failure || sc_fail(e, SC_IO, "%s cannot be written: %s", t->path.text, strerror(t->failure));
}

bool routing_trace_destroy(struct routing_trace *t, struct sc_error *e)
{
    if (!t)
        return true;
    const bool ok = !t->file || fclose(t->file) == 0 || t->failure;
    if (!ok)
        sc_fail(e, SC_IO, "%s cannot be written: %s", t->path.text, strerror(errno));
    free(t->pass);
    free(t);
    return ok;
}

void routing_trace_begin(struct routing_trace *t, const sc_token *tokens, uint32_t n_tokens)
{
    t->n_tokens = n_tokens;
    t->ids = put_u32(t->pass, n_tokens);
    for (uint32_t i = 0; i < n_tokens; i++)
        t->ids = put_u32(t->ids, (uint32_t)tokens[i]);
}

void routing_trace_layer(struct routing_trace *t, uint32_t layer, const uint32_t *ids)
{
    const size_t n = (size_t)t->n_tokens * t->n_used;
    uint8_t *to = t->ids + layer * n;
    for (size_t i = 0; i < n; i++)
        to[i] = (uint8_t)ids[i];
    if (layer + 1 == t->n_layers)
        write_bytes(t, t->pass, (size_t)(to + n - t->pass));
}
