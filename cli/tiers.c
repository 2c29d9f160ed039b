/* SPDX-License-Identifier: Apache-2.0 */
#include "tiers.h"

bool tiers_of(struct tiers *t, const struct sc_plan *plan, const struct sc_stats *s)
{
    const double seconds = s->decode_seconds, n = (double)s->n_decode_tokens;
    const double looked_up = (double)(s->expert_hits + s->expert_misses), on_host = (double)s->expert_host_runs;
    const double used = n * plan->n_layers * (plan->n_experts ? plan->n_experts_used : 1);

    if (n < 1 || !(seconds > 0))
        return false;
    t->hit_rate = looked_up > 0 ? (double)s->expert_hits / looked_up : plan->hit_rate;
    t->vram = (n * plan->dense_token_bytes + (used - on_host) * plan->expert_bytes) / seconds;
    t->ram = (on_host * plan->expert_bytes + (double)s->uploaded_bytes) / seconds;
    t->disk = (double)s->disk_bytes / seconds;
    t->bound = sc_plan_bound(plan, t->hit_rate) * n / seconds;
    return true;
}
