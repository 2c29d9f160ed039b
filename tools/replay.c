/* SPDX-License-Identifier: Apache-2.0 */
#include "replay.h"

#include <stdlib.h>
#include <string.h>

#include "belady.h"
#include "policy.h"

/* What an expert must have done to stay: the latest use, or the most uses. */
struct plain {
    uint64_t *value; /* (n_layers, n_experts) */
    uint64_t clock;
    bool by_count;
};

/* The coldest slot that the layer's own choice does not need; POLICY_NONE: there is none. */
static uint32_t plain_victim(const struct plain *x, const struct policy *p)
{
    uint32_t best = POLICY_NONE;
    for (uint32_t i = 0; i < p->n_slots; i++) {
        if (p->owner[i] == POLICY_NONE)
            return i;
        if (!p->held[i] && (best == POLICY_NONE || x->value[p->owner[i]] < x->value[p->owner[best]]))
            best = i;
    }
    return best;
}

struct run {
    const struct routing_file *file;
    enum replay_path path;
    struct policy policy; /* also the directory of the slots for LRU and LFU */
    struct plain *plain;  /* NULL: the policy itself decides */
    struct replay *sum;
};

/* Brings the layer's missing experts into slots; what does not fit at once comes in waves. */
static void upload_missing(struct run *run, uint32_t layer, const uint32_t *n_uses, bool is_prompt)
{
    struct policy *p = &run->policy;
    const uint32_t n = run->file->n_experts;
    for (uint32_t i = 0; i < n; i++)
        if (n_uses[i] && p->slot_of[layer * n + i] != POLICY_NONE)
            policy_hold(p, p->slot_of[layer * n + i]);
    for (uint32_t i = 0; i < n; i++) {
        if (!n_uses[i] || p->slot_of[layer * n + i] != POLICY_NONE)
            continue;
        uint32_t slot = run->plain ? plain_victim(run->plain, p) : policy_victim(p, layer * n + i);
        if (slot == POLICY_NONE) {
            policy_release(p, layer);
            slot = run->plain ? plain_victim(run->plain, p) : policy_victim(p, layer * n + i);
        }
        policy_place(p, layer * n + i, slot);
        policy_hold(p, slot);
        *(is_prompt ? &run->sum->n_prompt_uploads : &run->sum->n_uploads) += 1;
    }
    policy_release(p, layer);
}

static void run_layer(struct run *run, const struct routing_pass *pass, uint32_t layer)
{
    const uint32_t n = run->file->n_experts;
    uint32_t n_uses[SC_MAX_EXPERTS], n_hits = 0;
    routing_file_count(run->file, pass, layer, n_uses);
    for (uint32_t i = 0; i < n; i++) {
        if (!n_uses[i])
            continue;
        const uint32_t index = layer * n + i;
        n_hits += run->policy.slot_of[index] != POLICY_NONE;
        policy_count(&run->policy, index, n_uses[i], pass->n_tokens);
        if (run->plain)
            run->plain->value[index] = run->plain->by_count ? run->plain->value[index] + 1 : ++run->plain->clock;
    }
    if (pass->n_tokens == 1) {
        run->sum->n_uses += run->file->n_used;
        run->sum->n_hits += n_hits;
        run->sum->n_with_hits[n_hits]++;
    }
    if (run->plain || run->path == REPLAY_DEMAND || pass->n_tokens > 1)
        upload_missing(run, layer, n_uses, pass->n_tokens > 1);
}

static void run_pass(struct run *run, const struct routing_pass *pass)
{
    uint32_t index, slot;
    policy_begin(&run->policy, run->plain ? 1 : pass->n_tokens);
    if (!run->plain && run->path == REPLAY_PROMOTE && pass->n_tokens == 1)
        while (policy_promote(&run->policy, &index, &slot)) {
            policy_place(&run->policy, index, slot);
            run->sum->n_uploads++;
        }
    for (uint32_t l = 0; l < run->file->n_layers; l++)
        run_layer(run, pass, l);
    run->sum->n_tokens += pass->n_tokens == 1;
}

/* Is it in a slot in the beginning? As policy_choose chooses when nothing is known. */
static bool is_there(const struct routing_file *r, uint32_t index, uint32_t n_slots)
{
    return index % r->n_experts * r->n_layers + index / r->n_experts < n_slots;
}

static bool run_online(const struct routing_file *r, enum replay_path path, enum replay_cache cache, uint32_t n_slots,
                       struct replay *sum, struct sc_error *e)
{
    struct plain plain = {.by_count = cache == REPLAY_LFU};
    struct run run = {.file = r, .path = path, .plain = cache == REPLAY_OURS ? NULL : &plain, .sum = sum};
    plain.value = calloc((size_t)r->n_layers * r->n_experts, sizeof(*plain.value));
    const bool ok =
        plain.value ? policy_init(&run.policy, r->n_layers, r->n_experts, n_slots, e) : sc_fail_memory(e, "the replay");
    for (uint32_t i = 0, slot = 0; ok && i < r->n_layers * r->n_experts; i++)
        if (is_there(r, i, n_slots))
            policy_place(&run.policy, i, slot++);
    for (size_t i = 0; ok && i < r->n_passes; i++)
        run_pass(&run, &r->passes[i]);
    policy_finish(&run.policy);
    free(plain.value);
    return ok;
}

/* All uses in a row, as those who know the future see them. */
static bool run_clairvoyant(const struct routing_file *r, enum replay_path path, enum replay_cache cache,
                            uint32_t n_slots, struct replay *sum, struct sc_error *e)
{
    const uint32_t n_all = r->n_layers * r->n_experts;
    size_t n = 0, n_max = n_slots;
    for (size_t i = 0; i < r->n_passes; i++) {
        const size_t most = (size_t)r->passes[i].n_tokens * r->n_used;
        n_max += r->n_layers * (most < r->n_experts ? most : r->n_experts);
    }
    struct belady_use *uses = calloc(n_max + 1, sizeof(*uses));
    if (!uses)
        return sc_fail_memory(e, "the replay");
    uint32_t n_uses[SC_MAX_EXPERTS];
    for (uint32_t i = 0; i < n_all; i++)
        if (is_there(r, i, n_slots))
            uses[n++] = (struct belady_use){.index = i, .group = UINT32_MAX};
    for (size_t i = 0; i < r->n_passes; i++)
        for (uint32_t l = 0; l < r->n_layers; l++) {
            const struct routing_pass *pass = &r->passes[i];
            routing_file_count(r, pass, l, n_uses);
            for (uint32_t id = 0; id < r->n_experts; id++)
                if (n_uses[id])
                    uses[n++] = (struct belady_use){.index = l * r->n_experts + id,
                                                    .group = (uint32_t)i * r->n_layers + l,
                                                    .counts = pass->n_tokens == 1};
        }
    const bool ok = cache == REPLAY_FIXED    ? belady_fixed(uses, n, n_all, n_slots, e)
                    : cache == REPLAY_PRICED ? belady_priced(uses, n, n_all, n_slots, REPLAY_PRICE, e)
                                             : belady_run(uses, n, n_all, n_slots, path == REPLAY_PROMOTE, e);
    uint32_t n_hits = 0;
    for (size_t i = 0; ok && i < n; i++) {
        if (!uses[i].counts) {
            sum->n_prompt_uploads += uses[i].is_upload;
            continue;
        }
        sum->n_uses++;
        sum->n_hits += uses[i].is_hit;
        sum->n_uploads += uses[i].is_upload;
        n_hits += uses[i].is_hit;
        if (i + 1 == n || uses[i + 1].group != uses[i].group) {
            sum->n_with_hits[n_hits]++;
            n_hits = 0;
        }
    }
    for (size_t i = 0; i < r->n_passes; i++)
        sum->n_tokens += r->passes[i].n_tokens == 1;
    free(uses);
    return ok;
}

bool replay_run(const struct routing_file *r, enum replay_path path, enum replay_cache cache, uint32_t n_slots,
                struct replay *sum, struct sc_error *e)
{
    return cache < REPLAY_FIXED ? run_online(r, path, cache, n_slots, sum, e)
                                : run_clairvoyant(r, path, cache, n_slots, sum, e);
}
