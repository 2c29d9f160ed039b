/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "engine.h"
#include "findings.h"
#include "self_test.h"

static uint32_t bit(const struct weight *w)
{
    return w->size_bytes ? UINT32_C(1) << w->type : 0;
}

/* Which types of weights each family will meet. */
static void find_types(uint32_t types[N_FAMILIES], const struct sc_engine *engine)
{
    const struct weights *w = &engine->weights;
    uint32_t all = bit(&w->output);
    for (uint32_t l = 0; l < engine->config.n_layers; l++) {
        const struct layer_weights *x = &w->layers[l];
        const struct expert_weights *any = &x->experts[0];
        all |= bit(&x->attn_q) | bit(&x->attn_k) | bit(&x->attn_v) | bit(&x->attn_output) | bit(&x->router) |
               bit(&any->gate) | bit(&any->up) | bit(&any->down);
    }
    for (enum family family = 0; family < N_FAMILIES; family++)
        types[family] = all;
}

bool engine_choose_kernels(struct sc_engine *engine, struct sc_error *e)
{
    const struct sc_engine_params *p = &engine->params;
    uint32_t types[N_FAMILIES];
    find_types(types, engine);
    findings_load(engine->gpu, p->cache_dir);
    const bool ok = self_test(engine->gpu, types, p->log, p->user, e);
    findings_save(engine->gpu, p->cache_dir);
    return ok;
}
