/* SPDX-License-Identifier: Apache-2.0 */
#include "pass_staged.h"

#include "clock.h"
#include "host_experts.h"

/* The distinct experts that the pass's n tokens chose in this layer, into ids, ascending. */
static uint32_t chosen_experts(const struct pass *p, uint32_t layer, uint32_t n, uint32_t ids[SC_MAX_EXPERTS])
{
    const struct config *c = &p->engine->config;
    const uint32_t *choice = session_choice(&p->memory, layer);
    bool chosen[SC_MAX_EXPERTS] = {false};
    for (uint32_t i = 0; i < n * c->n_experts_used; i++)
        chosen[choice[i]] = true;
    uint32_t n_ids = 0;
    for (uint32_t id = 0; id < c->n_experts; id++)
        if (chosen[id])
            ids[n_ids++] = id;
    return n_ids;
}

bool pass_lose_uploads(struct pass *p)
{
    experts_forget(&p->engine->model.experts);
    return false;
}

/* Layers whose slots later layers may take once the device has computed them, oldest first. */
struct in_flight {
    uint32_t first, end;
};

/*
 * Makes room for experts of this layer by giving up those of layers in flight: of all but the one before, which
 * computes while this one's are copied, and of that too if it must be. Returns how many can be had at once.
 */
static uint32_t make_room(struct pass *p, struct in_flight *f, uint32_t layer, uint32_t *ids, uint32_t n_ids)
{
    struct sc_engine *engine = p->engine;
    struct experts *x = &engine->model.experts;
    uint32_t n = experts_wave(x, layer, ids, n_ids);
    for (; f->first < f->end && (n < n_ids || f->first + 1 < layer); n = experts_wave(x, layer, ids, n_ids)) {
        upload_after(&engine->upload, p->computed[f->first]);
        experts_release(x, f->first++);
    }
    return n;
}

/* What the wave lacks is on its way when this returns. Cancelled, what has come stays. */
static bool bring_wave(struct pass *p, uint32_t layer, const uint32_t *ids, uint32_t n, bool only, struct sc_error *e)
{
    struct upload *u = &p->engine->upload;
    struct experts *x = &p->engine->model.experts;
    bool goes_on = true;
    for (uint32_t i = 0; i < n && goes_on; i++) {
        if (!experts_bring(x, u, layer, ids[i], e))
            return pass_lose_uploads(p);
        goes_on = pace_tell(&p->pace, e);
    }
    if ((goes_on && !experts_list(x, u, layer, ids, n, only, e)) || !upload_flush(u, e))
        return pass_lose_uploads(p);
    return goes_on;
}

/* Uploads experts of the layer and runs them: in waves if they are more than the slots for them. */
static bool fetch_experts(struct pass *p, struct in_flight *f, uint32_t layer, uint32_t *ids, uint32_t n_ids,
                          struct sc_error *e)
{
    struct experts *x = &p->engine->model.experts;
    experts_want(x, layer, ids, n_ids);
    for (uint32_t first = 0, n_wave; first < n_ids; first += n_wave) {
        const double start = clock_seconds();
        n_wave = make_room(p, f, layer, ids + first, n_ids - first);
        if (!bring_wave(p, layer, ids + first, n_wave, n_wave < n_ids, e))
            return false;
        p->wait_seconds += clock_seconds() - start;
        if (!pass_submit(p, 2 * layer + 1, 2 * layer + 2, e))
            return false;
        if (first + n_wave < n_ids) {
            if (!pass_wait(p, e))
                return false;
            experts_release(x, layer);
        }
    }
    p->computed[layer] = p->submitted;
    f->end = layer + 1;
    return true;
}

bool pass_run_uploading(struct pass *p, uint32_t n, uint32_t n_streams, struct sc_error *e)
{
    const struct config *c = &p->engine->config;
    const bool ahead = expert_cost_upload_ahead(c, n);
    struct in_flight f = {0};
    for (uint32_t l = 0; l < c->n_layers; l++) {
        uint32_t ids[SC_MAX_EXPERTS], n_ids = c->n_experts;
        for (uint32_t i = 0; i < n_ids; i++)
            ids[i] = i;
        if (!pass_submit(p, 2 * l, 2 * l + 1, e))
            return false;
        if (!ahead) {
            if (!pass_wait(p, e) || !pass_take_choice(p, l, n, e))
                return false;
            while (f.first < f.end) /* the device is done with them too: their slots are no better than others */
                experts_release(&p->engine->model.experts, f.first++);
            n_ids = chosen_experts(p, l, n, ids);
        }
        if (!fetch_experts(p, &f, l, ids, n_ids, e))
            return false;
    }
    if (!pass_submit(p, 2 * c->n_layers, n_streams, e))
        return false;
    p->n_unread = ahead ? n : 0;
    return true;
}

bool pass_run_with_host(struct pass *p, uint32_t n, uint32_t n_streams, struct sc_error *e)
{
    struct sc_engine *engine = p->engine;
    struct gpu *gpu = engine->gpu;
    const uint32_t n_layers = engine->config.n_layers;
    const uint64_t signalled = gpu->host_signalled;
    struct experts *x = &engine->model.experts;
    if (!(engine->path == PATH_HOST ? experts_hide(x, &engine->upload, e) : experts_promote(x, &engine->upload, e)) ||
        !upload_flush(&engine->upload, e))
        return pass_lose_uploads(p);
    const uint32_t device_experts = engine->path == PATH_HOST ? 0 : 1;
    for (uint32_t i = 0; i <= 2 * n_layers; i++)
        p->submissions[i] = (struct submission){.streams = p->list + i,
                                                .n_streams = i == 2 * n_layers ? n_streams - i
                                                             : i % 2 == 1      ? device_experts
                                                                               : 1,
                                                .wait_host = i % 2 == 0 && i > 0 ? signalled + i / 2 : 0};
    if (!gpu_submit_chain(gpu, p->submissions, 2 * n_layers + 1, e))
        return false;
    p->submitted = p->submissions[2 * n_layers].value;

    /* on a queue that they share, copies stand behind the layers that wait for the host */
    const bool beside = gpu->transfer.handle != gpu->compute.handle;
    bool ok = true;
    for (uint32_t l = 0; l < n_layers && ok; l++) {
        ok = gpu_wait(gpu, p->submissions[2 * l].value, e) && pass_take_choice(p, l, n, e);
        ok = ok && host_experts_run(engine->host_experts, l, n, &p->memory, e);
        ok = ok && gpu_signal(gpu, signalled + l + 1, e);
        ok = ok && (!beside || experts_send(x, &engine->upload, e) || pass_lose_uploads(p));
        ok = ok && pace_report(&p->pace, (double)(l + 1) / n_layers, e);
    }
    while (ok && !experts_are_sent(x))
        ok = experts_send(x, &engine->upload, e) || pass_lose_uploads(p);
    if (!ok) { /* let go what still waits for the host, step by step: the validation layer loses count otherwise */
        struct sc_error ignored = {0};
        for (uint32_t l = 0; l < n_layers; l++) {
            const bool waited = gpu_wait(gpu, 0, &ignored), signal = gpu_signal(gpu, signalled + l + 1, &ignored);
            (void)waited, (void)signal; /* the last signal alone would do */
        }
    }
    return ok;
}
