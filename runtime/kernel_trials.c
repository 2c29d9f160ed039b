/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_trials.h"

#include <string.h>

#include "random_blocks.h"

enum { MAX_TABLES = 64, MAX_COUNTERS = 4096 }; /* one token's, of as many heads as a file may say */

static const uint64_t CHUNK_BYTES = 1 << 20;
static const float SIGMA_WEIGHTS = 0.02f, SIGMA_VALUES = 1;

struct head {
    struct step step;
    uint32_t done[MAX_COUNTERS]; /* of attention */
    uint32_t tokens[KERNEL_MAX_TOKENS];
    uint32_t ids[KERNEL_MAX_TOKENS * SC_MAX_EXPERTS_USED];
    uint64_t slots[MAX_TABLES][SC_MAX_EXPERTS];
};

static_assert(sizeof(struct head) <= 1 << 20, "the staging buffer holds it");

/* Puts what op_group makes behind the head; returns where it ends. */
static VkDeviceAddress place_groups(struct routing *r, const struct kernel_shape *s, uint32_t n, VkDeviceAddress at)
{
    struct tensor *all[] = {&r->first, &r->pairs, &r->tiles, &r->grids};
    const struct tensor words = {.type = SC_F32, .rows = 1};
    r->first = r->pairs = r->tiles = r->grids = words;
    r->first.cols = s->n_experts + 1;
    r->pairs.cols = n * s->n_used;
    r->tiles.rows = 3 * op_max_tiles(n * s->n_used, s->n_experts);
    r->tiles.cols = 2;
    r->grids.rows = 3;
    r->grids.cols = 4;
    for (uint32_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        all[i]->address = at;
        at += (tensor_size_bytes(all[i]) + 255) / 256 * 256;
    }
    return at;
}

static uint64_t head_bytes(void)
{
    const struct kernel_shape most = {.n_experts = SC_MAX_EXPERTS, .n_used = SC_MAX_EXPERTS_USED};
    struct routing r;
    return place_groups(&r, &most, KERNEL_MAX_TOKENS, sizeof(struct head));
}

uint64_t kernel_trials_bytes(const struct gpu *gpu, uint64_t wanted_bytes)
{
    const uint64_t free_bytes = gpu_free_bytes(gpu) / 2, largest = gpu->max_allocation - BUFFER_PADDING_BYTES;
    const uint64_t bytes = wanted_bytes < free_bytes ? wanted_bytes : free_bytes;
    return bytes < largest ? bytes : largest;
}

bool kernel_trials_init(struct kernel_trials *k, struct gpu *gpu, uint64_t wanted_bytes, struct sc_error *e)
{
    const uint64_t bytes = kernel_trials_bytes(gpu, wanted_bytes);
    *k = (struct kernel_trials){.gpu = gpu};
    return commands_init(&k->commands, gpu, e) &&
           buffer_init(gpu, &k->staging, MEMORY_UPLOAD, CHUNK_BYTES, "the benchmark", e) &&
           buffer_init(gpu, &k->weights, MEMORY_DEVICE, bytes, "the benchmark's weights", e) &&
           buffer_init(gpu, &k->head, MEMORY_DEVICE, head_bytes(), "the benchmark", e);
}

void kernel_trials_finish(struct kernel_trials *k)
{
    if (!k->gpu)
        return;
    buffer_finish(k->gpu, &k->head);
    buffer_finish(k->gpu, &k->values);
    buffer_finish(k->gpu, &k->weights);
    buffer_finish(k->gpu, &k->staging);
    commands_finish(&k->commands);
    *k = (struct kernel_trials){0};
}

static bool run(struct kernel_trials *k, struct sc_error *e)
{
    struct commands *list = &k->commands;
    uint64_t value = 0;
    return commands_end(list, e) && gpu_submit(k->gpu, &list, 1, &value, e) && gpu_wait(k->gpu, value, e);
}

/* Random blocks, which repeat: with zeros many a device is faster than with what is real. Scales that lie apart
   (layout.h) are whatever bytes lie there, which takes no longer. */
static bool fill(struct kernel_trials *k, const struct buffer *to, uint64_t offset, uint64_t size_bytes,
                 enum sc_type type, float sigma, struct sc_error *e)
{
    const uint64_t chunk = CHUNK_BYTES / kernel_unit(type) * kernel_unit(type);
    random_fill(k->staging.mapped, type, chunk, sigma, 1);
    commands_begin(&k->commands, false);
    for (uint64_t at = 0; at < size_bytes; at += chunk)
        commands_copy(&k->commands, &k->staging, 0, to, offset + at, size_bytes - at < chunk ? size_bytes - at : chunk);
    return run(k, e);
}

bool kernel_trials_fill(struct kernel_trials *k, enum sc_type type, struct sc_error *e)
{
    return fill(k, &k->weights, 0, k->weights.size_bytes, type, SIGMA_WEIGHTS, e);
}

/* Halves also for q8_0, whose rows have their scales in a place of their own: any of them is a scale, or two bytes. */
bool kernel_trials_fill_cache(struct kernel_trials *k, enum sc_type type, struct sc_error *e)
{
    return fill(k, &k->weights, 0, k->weights.size_bytes, type == SC_Q8_0 ? SC_F16 : type, SIGMA_VALUES, e);
}

struct kernel_trial kernel_trial_of(const struct kernel_shape *s, enum sc_type type, uint32_t n, uint32_t depth)
{
    const struct tensor words = {.type = SC_F32, .rows = 1};
    struct kernel_trial t = {
        .shape = s, .type = type, .n = n, .n_beside = 1, .depth = depth, .n_hit = s->n_used, .family = N_FAMILIES};
    t.tokens = t.step = t.done = t.routing.ids = t.routing.probs = words;
    t.tokens.rows = t.routing.ids.rows = t.routing.probs.rows = n;
    t.tokens.cols = 1;
    t.step.cols = sizeof(struct step) / sizeof(uint32_t);
    t.done.cols = MAX_COUNTERS;
    t.routing.ids.cols = t.routing.probs.cols = s->n_used;
    place_groups(&t.routing, s, n, 0);
    return t;
}

/* How many copies of a trial's weights, or of an expert, there are. */
static uint64_t n_copies(const struct kernel_trials *k, const struct kernel_trial *t)
{
    return t->weight_bytes ? k->weights.size_bytes / t->weight_bytes : 1;
}

/* Every token chooses n_used different experts, any of them alike; returns how many were chosen at all. */
static uint32_t choose(uint32_t *ids, const struct kernel_shape *s, uint32_t n)
{
    uint32_t order[SC_MAX_EXPERTS], n_hit = 0;
    bool hit[SC_MAX_EXPERTS] = {false};
    uint64_t random = 1;
    for (uint32_t e = 0; e < s->n_experts; e++)
        order[e] = e;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < s->n_used; j++) {
            const uint32_t other = j + (uint32_t)(random_u64(&random) % (s->n_experts - j)), id = order[other];
            order[other] = order[j];
            order[j] = id;
            *ids++ = id;
            n_hit += !hit[id];
            hit[id] = true;
        }
    return n_hit;
}

static bool prepare_head(struct kernel_trials *k, struct kernel_trial *t, uint64_t copies, struct sc_error *e)
{
    struct head *h = k->staging.mapped;
    const struct kernel_shape *s = t->shape;
    const VkDeviceAddress at = k->head.address;
    uint64_t random = 2;
    memset(h->done, 0, sizeof(h->done));
    h->step = (struct step){.n_past = t->depth, .n_tokens = t->n};
    for (uint32_t i = 0; i < t->n; i++)
        h->tokens[i] = (uint32_t)(random_u64(&random) % s->n_vocab);
    t->n_hit = choose(h->ids, s, t->n);
    for (uint64_t i = 0; i < (uint64_t)MAX_TABLES * s->n_experts; i++)
        h->slots[i / s->n_experts][i % s->n_experts] = k->weights.address + i % copies * t->weight_bytes;
    t->step.address = at + offsetof(struct head, step);
    t->done.address = at + offsetof(struct head, done);
    t->tokens.address = at + offsetof(struct head, tokens);
    t->routing.ids.address = at + offsetof(struct head, ids);
    t->routing.counter = at + offsetof(struct head, step) + offsetof(struct step, counter);
    t->routing.grids_buffer = &k->head;
    place_groups(&t->routing, s, t->n, at + sizeof(struct head));
    commands_begin(&k->commands, false);
    commands_copy(&k->commands, &k->staging, 0, &k->head, 0, sizeof(*h));
    t->commands = &k->commands;
    if (s->n_experts && t->n > 1)
        kernel_group(t);
    return run(k, e);
}

/* Half as much for scratch: an input rounded takes less, and one that is normed has weights as large beside it. */
uint64_t kernel_trials_value_bytes(const struct kernel_trial *measured)
{
    return measured->value_bytes + measured->value_bytes / 2;
}

static bool prepare_values(struct kernel_trials *k, const struct kernel_trial *measured, struct sc_error *e)
{
    const uint64_t bytes = kernel_trials_value_bytes(measured);
    if (k->values.size_bytes < bytes) {
        buffer_finish(k->gpu, &k->values);
        if (!buffer_init(k->gpu, &k->values, MEMORY_DEVICE, bytes, "the benchmark's activations", e))
            return false;
    }
    k->commands.scratch = (struct access){.address = k->values.address + measured->value_bytes,
                                          .size_bytes = k->values.size_bytes - measured->value_bytes};
    for (uint32_t i = 0; i < measured->n_used; i++) {
        const struct tensor *v = &measured->used[i];
        if (!fill(k, &k->values, v->address, tensor_size_bytes(v), v->type, SIGMA_VALUES, e))
            return false;
    }
    return true;
}

bool kernel_trials_prepare(struct kernel_trials *k, const struct kernel_op *op, struct kernel_trial *t,
                           struct sc_error *e)
{
    struct kernel_trial measured = *t;
    kernel_measure(op, &measured); /* from address 0 on, so that addresses are offsets */
    t->weight_bytes = measured.weight_bytes;
    if (!prepare_values(k, &measured, e) || !prepare_head(k, t, n_copies(k, &measured), e))
        return false;
    t->weight_bytes = 0;
    t->values = k->values.address;
    return true;
}

void kernel_trials_record(struct kernel_trials *k, const struct kernel_op *op, const struct kernel_trial *t,
                          uint32_t repeats)
{
    struct kernel_trial measured = *t;
    kernel_measure(op, &measured);
    for (uint32_t i = 0; i < repeats; i++, k->n_runs++) {
        struct kernel_trial one = *t;
        one.weights = k->weights.address + k->n_runs % n_copies(k, &measured) * measured.weight_bytes;
        one.slots =
            k->head.address + offsetof(struct head, slots) + k->n_runs % MAX_TABLES * SC_MAX_EXPERTS * sizeof(uint64_t);
        op->record(&one);
        commands_barrier(&k->commands);
    }
}
