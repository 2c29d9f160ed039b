/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* O_DIRECT, madvise, MAP_ANONYMOUS */
#include "ram_pool.h"

#include <fcntl.h>
#include <float.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "printable.h"
#include "reader.h"

static const uint32_t NOBODY = UINT32_MAX;
/* The share of passes that use an expert is averaged over about 1 / (1 - DECAY) of them. */
static const float DECAY = 0.95f;

enum slot_state { SLOT_EMPTY, SLOT_READING, SLOT_READY };

struct ram_slot {
    enum slot_state state;
    uint32_t owner; /* unless it is empty */
    uint32_t n_pins;
    bool awaited; /* read ahead, and not used yet in this pass or the one before */
    uint64_t awaited_since;
    struct read_job job;
    uint8_t *data;
};

struct ram_pool {
    struct ram_pool_params params;
    struct reader *reader;
    uint8_t *memory;
    uint64_t slot_bytes, memory_bytes;
    struct ram_slot *slots; /* (n_slots) */
    uint32_t *slot_of;      /* (n_layers * n_experts) or NOBODY */
    bool *dropped;          /* (n_layers * n_experts) and not pinned since */
    float *uses;            /* (n_layers * n_experts) decayed count of the passes that used it */
    uint64_t pass;
    float n_passes;      /* decayed count of them */
    uint32_t next_layer; /* after that which the pass is at */
    bool is_locked;
};

static uint64_t round_up(uint64_t n)
{
    return (n + READ_ALIGNMENT - 1) / READ_ALIGNMENT * READ_ALIGNMENT;
}

static void list_matrices(const struct expert_weights *x, const struct weight *out[3])
{
    out[0] = &x->gate;
    out[1] = &x->up;
    out[2] = &x->down;
}

/* Bytes of the file's blocks that a matrix touches. */
static uint64_t covered_bytes(const struct weight *w)
{
    return round_up(w->offset % READ_ALIGNMENT + w->size_bytes);
}

uint64_t ram_pool_slot_bytes(const struct weights *w, const struct config *c)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < c->n_layers * c->n_experts; i++) {
        const struct weight *matrices[3];
        list_matrices(&w->layers[i / c->n_experts].experts[i % c->n_experts], matrices);
        const uint64_t bytes = covered_bytes(matrices[0]) + covered_bytes(matrices[1]) + covered_bytes(matrices[2]);
        if (bytes > most)
            most = bytes;
    }
    return most;
}

static const struct expert_weights *expert_at(const struct ram_pool *p, uint32_t index)
{
    const uint32_t n_experts = p->params.config->n_experts;
    return &p->params.weights->layers[index / n_experts].experts[index % n_experts];
}

static bool allocate(struct ram_pool *p, struct sc_error *e)
{
    const struct config *c = p->params.config;
    const size_t n_experts = (size_t)c->n_layers * c->n_experts;
    p->slots = calloc(p->params.n_slots, sizeof(*p->slots));
    p->slot_of = calloc(n_experts, sizeof(*p->slot_of));
    p->dropped = calloc(n_experts, sizeof(*p->dropped));
    p->uses = calloc(n_experts, sizeof(*p->uses));
    if (!p->slots || !p->slot_of || !p->dropped || !p->uses)
        return sc_fail_memory(e, "the experts in RAM");
    memset(p->slot_of, 0xff, n_experts * sizeof(*p->slot_of));

    p->slot_bytes = ram_pool_slot_bytes(p->params.weights, c);
    p->memory_bytes = p->slot_bytes * p->params.n_slots;
    void *memory = mmap(NULL, p->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return sc_fail(e, SC_OUT_OF_MEMORY, "not enough memory for %u experts of %.1f MB in RAM", p->params.n_slots,
                       (double)p->slot_bytes / 1e6);
    p->memory = memory;
    (void)madvise(memory, p->memory_bytes, MADV_HUGEPAGE);
    p->is_locked = p->params.lock && mlock(memory, p->memory_bytes) == 0;
    for (uint32_t i = 0; i < p->params.n_slots; i++)
        p->slots[i].data = p->memory + p->slot_bytes * i;
    return true;
}

struct ram_pool *ram_pool_create(const struct ram_pool_params *params, struct sc_error *e)
{
    struct ram_pool *p = calloc(1, sizeof(*p));
    if (!p) {
        sc_fail_memory(e, "the experts in RAM");
        return NULL;
    }
    p->params = *params;
    p->reader = allocate(p, e) ? reader_create(params->cached, e) : NULL;
    if (!p->reader) {
        ram_pool_destroy(p);
        return NULL;
    }
    /* past the system's cache: it would hold a second copy. Where the file system refuses, reader.c empties it. */
    for (size_t i = 0; !params->cached && i < sc_gguf_n_files(params->gguf); i++) {
        const int fd = sc_gguf_file_descriptor(params->gguf, i);
        (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT);
    }
    return p;
}

void ram_pool_destroy(struct ram_pool *p)
{
    if (!p)
        return;
    reader_destroy(p->reader); /* first: it writes to the slots */
    if (p->memory)
        munmap(p->memory, p->memory_bytes);
    free(p->slots);
    free(p->slot_of);
    free(p->dropped);
    free(p->uses);
    free(p);
}

bool ram_pool_is_locked(const struct ram_pool *p)
{
    return p->is_locked;
}

void ram_pool_begin(struct ram_pool *p)
{
    const struct config *c = p->params.config;
    p->pass++;
    p->next_layer = 0;
    p->n_passes = p->n_passes * DECAY + 1;
    for (uint32_t i = 0; i < c->n_layers * c->n_experts; i++)
        p->uses[i] *= DECAY;
}

static void vacate(struct ram_pool *p, struct ram_slot *s)
{
    if (s->state != SLOT_EMPTY)
        p->slot_of[s->owner] = NOBODY;
    s->state = SLOT_EMPTY;
    s->awaited = false;
}

/* What has become of a slot whose reading is over. */
static bool settle(struct ram_pool *p, struct ram_slot *s)
{
    if (s->job.failure)
        vacate(p, s);
    else
        s->state = SLOT_READY;
    return s->state == SLOT_READY;
}

static bool finish_reading(struct ram_pool *p, struct ram_slot *s)
{
    (void)reader_wait(p->reader, &s->job);
    return settle(p, s);
}

/* In how many layers the slot's expert will be used, as far as can be told; an empty slot's never. */
static float layers_until_use(const struct ram_pool *p, const struct ram_slot *s)
{
    const uint32_t n_layers = p->params.config->n_layers;
    if (s->state == SLOT_EMPTY)
        return FLT_MAX;
    if (ram_pool_is_dropped(p, s->owner))
        return FLT_MAX / 2;
    const uint32_t layer = s->owner / p->params.config->n_experts;
    const bool is_over = layer < p->next_layer; /* for this pass, which then counts */
    const float n_passes = is_over ? p->n_passes : p->n_passes - 1;
    const float passes_per_use = n_passes / (p->uses[s->owner] + 0.001f);
    return (passes_per_use > 1 ? passes_per_use - 1 : 0) * (float)n_layers +
           (float)(layer - p->next_layer + (is_over ? n_layers : 0));
}

/* What a slot is needed for, and whom that may cost: one that this pass is done with; one that is not awaited; any. */
enum need { TO_READ_AHEAD, TO_READ, TO_USE };

/* The slot that is best given to another expert; NULL: all are in use. */
static struct ram_slot *find_victim(struct ram_pool *p, enum need need)
{
    const float soonest = need == TO_READ_AHEAD ? (float)(p->params.config->n_layers - p->next_layer) : 0;
    struct ram_slot *best = NULL;
    float longest = -1;
    for (uint32_t i = 0; i < p->params.n_slots; i++) {
        struct ram_slot *s = &p->slots[i];
        if (s->state == SLOT_READING && reader_is_done(p->reader, &s->job))
            (void)settle(p, s);
        const bool awaited = s->awaited && s->awaited_since + 1 >= p->pass;
        if (s->state == SLOT_READING || s->n_pins || (awaited && need != TO_USE))
            continue;
        const float layers = layers_until_use(p, s);
        if (layers >= soonest && layers > longest) {
            best = s;
            longest = layers;
        }
    }
    return best;
}

static void start_reading(struct ram_pool *p, struct ram_slot *s, uint32_t index)
{
    const struct weight *matrices[3];
    uint8_t *to = s->data;
    vacate(p, s);
    list_matrices(expert_at(p, index), matrices);
    s->job.n_ranges = 3;
    for (uint32_t m = 0; m < 3; m++) {
        const struct weight *w = matrices[m];
        const uint64_t before = w->offset % READ_ALIGNMENT;
        s->job.ranges[m] = (struct read_range){.fd = sc_gguf_file_descriptor(p->params.gguf, w->file),
                                               .offset = w->offset - before,
                                               .size_bytes = before + w->size_bytes,
                                               .to = to};
        to += covered_bytes(w);
    }
    s->owner = index;
    s->state = SLOT_READING;
    p->slot_of[index] = (uint32_t)(s - p->slots);
    reader_start(p->reader, &s->job);
}

/* Makes the expert awaited, wherever it can be had from. */
static bool await(struct ram_pool *p, uint32_t index, enum need need)
{
    struct ram_slot *s = p->slot_of[index] != NOBODY ? &p->slots[p->slot_of[index]] : find_victim(p, need);
    if (!s)
        return false;
    if (p->slot_of[index] == NOBODY)
        start_reading(p, s, index);
    s->awaited = true;
    s->awaited_since = p->pass;
    return true;
}

void ram_pool_want(struct ram_pool *p, uint32_t index)
{
    p->next_layer = index / p->params.config->n_experts + 1;
    p->uses[index] += 1;
    (void)await(p, index, TO_READ);
}

bool ram_pool_prefetch(struct ram_pool *p, uint32_t index)
{
    return await(p, index, TO_READ_AHEAD);
}

/* Where an expert without a slot may go; waits if reading ahead has taken all that is not pinned. */
static struct ram_slot *make_room(struct ram_pool *p)
{
    struct ram_slot *s = find_victim(p, TO_READ);
    if (!s)
        s = find_victim(p, TO_USE);
    for (uint32_t i = 0; !s && i < p->params.n_slots; i++)
        if (p->slots[i].state == SLOT_READING && !p->slots[i].n_pins) {
            (void)reader_wait(p->reader, &p->slots[i].job);
            s = find_victim(p, TO_USE);
        }
    return s;
}

/* The tensor that a place in a file belongs to, for the user. */
static struct sc_gguf_string tensor_at(const struct sc_gguf *g, uint32_t file, uint64_t offset)
{
    for (size_t i = 0; i < sc_gguf_n_tensors(g); i++) {
        const struct sc_gguf_tensor *t = sc_gguf_tensor(g, i);
        if (t->file == file && offset >= t->offset && offset - t->offset < t->size_bytes)
            return t->name;
    }
    return (struct sc_gguf_string){"", 0};
}

static bool fail_reading(const struct ram_pool *p, const struct read_job *job, uint32_t index, struct sc_error *e)
{
    const struct sc_gguf *g = p->params.gguf;
    const struct weight *matrices[3];
    list_matrices(expert_at(p, index), matrices);
    const struct weight *w = matrices[job->failed_range];
    const struct sc_gguf_string name = tensor_at(g, w->file, w->offset);
    const struct printable_path path = sc_printable_path(sc_gguf_file_path(g, w->file));
    const struct printable tensor = sc_printable(name.data, name.size_bytes);
    if (job->failure == READ_ENDED)
        return sc_fail(e, SC_IO, "%s was truncated while it was in use: tensor %s is no longer all there", path.text,
                       tensor.text);
    return sc_fail(e, SC_IO, "%s: tensor %s cannot be read: %s", path.text, tensor.text, strerror(job->failure));
}

bool ram_pool_pin(struct ram_pool *p, uint32_t index, struct expert_weights *out, struct sc_error *e)
{
    struct ram_slot *s = p->slot_of[index] != NOBODY ? &p->slots[p->slot_of[index]] : NULL;
    if (s && s->state == SLOT_READING && !finish_reading(p, s))
        s = NULL; /* what was only a hint may have failed long ago */
    if (!s) {
        s = make_room(p);
        if (!s)
            return sc_fail(e, SC_INVALID_ARGUMENT, "a pass needs more experts at once than the %u that RAM holds",
                           p->params.n_slots);
        start_reading(p, s, index);
    }
    if (s->state == SLOT_READING && !finish_reading(p, s))
        return fail_reading(p, &s->job, index, e);
    s->n_pins++;
    s->awaited = false;
    p->dropped[index] = false;

    *out = *expert_at(p, index);
    out->gate.data = s->job.ranges[0].to + out->gate.offset % READ_ALIGNMENT;
    out->up.data = s->job.ranges[1].to + out->up.offset % READ_ALIGNMENT;
    out->down.data = s->job.ranges[2].to + out->down.offset % READ_ALIGNMENT;
    return true;
}

void ram_pool_unpin(struct ram_pool *p, uint32_t index)
{
    p->slots[p->slot_of[index]].n_pins--;
}

void ram_pool_drop(struct ram_pool *p, uint32_t index)
{
    p->dropped[index] = true;
}

bool ram_pool_is_dropped(const struct ram_pool *p, uint32_t index)
{
    const uint32_t *slot_of = p->params.device->slot_of;
    return p->dropped[index] && slot_of && slot_of[index] != POLICY_NONE;
}

uint64_t ram_pool_read_bytes(const struct ram_pool *p)
{
    return reader_total_bytes(p->reader);
}
