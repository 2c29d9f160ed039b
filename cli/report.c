/* SPDX-License-Identifier: Apache-2.0 */
#include "report.h"

#include <inttypes.h>
#include <stdio.h>

#include "number.h"
#include "output.h"
#include "terminal.h"

static double rate(uint64_t n, double seconds)
{
    return n && seconds > 0 ? (double)n / seconds : 0;
}

static double gigabytes_per_second(const struct sc_engine *engine, const struct sc_stats *s)
{
    return (double)sc_engine_token_bytes(engine) * rate(s->n_decode_tokens, s->decode_seconds) * 1e-9;
}

static void print_experts(const struct sc_engine *engine, const struct sc_stats *s)
{
    const struct sc_placement *p = sc_engine_placement(engine);
    uint64_t n = s->expert_hits + s->expert_misses;
    char moved[32], budget[32], on_host[80] = "";

    if (!n)
        return;
    if (s->expert_host_runs)
        snprintf(on_host, sizeof on_host, ", %" PRIu64 " on the CPU in %.2f s", s->expert_host_runs, s->host_seconds);
    terminal_note("experts: %" PRIu32 " slots for %" PRIu32 " (device memory %s); %" PRIu64 " hits, %" PRIu64
                  " misses (%.1f %% hits)%s, %s moved, %.2f s lost waiting for uploads",
                  p->n_slots, p->n_experts_total, number_bytes(budget, p->budget_bytes), s->expert_hits,
                  s->expert_misses, 100 * (double)s->expert_hits / (double)n, on_host,
                  number_bytes(moved, s->uploaded_bytes), s->wait_seconds);
    if (s->disk_bytes)
        terminal_note("disk: %s of experts read, %.2f s lost waiting for them; RAM holds %" PRIu32 " of them (%s)",
                      number_bytes(moved, s->disk_bytes), s->disk_seconds, p->n_ram_slots,
                      number_bytes(budget, p->ram_bytes));
}

void report_print(const struct sc_engine *engine, const struct sc_stats *s)
{
    char prefill[80] = "", decode[120] = "";

    if (s->n_prefill_tokens)
        snprintf(prefill, sizeof prefill, "prefill: %" PRIu64 " tokens, %.2f t/s", s->n_prefill_tokens,
                 rate(s->n_prefill_tokens, s->prefill_seconds));
    if (s->n_decode_tokens)
        snprintf(decode, sizeof decode, "decode: %" PRIu64 " tokens, %.2f t/s, %.2f GB/s", s->n_decode_tokens,
                 rate(s->n_decode_tokens, s->decode_seconds), gigabytes_per_second(engine, s));
    const struct sc_device_info *device = sc_engine_device(engine);
    terminal_note("%s%s%s; on %s%s", prefill,
                  *prefill && *decode   ? "; "
                  : *prefill || *decode ? ""
                                        : "nothing was computed",
                  decode, device->name,
                  device->kind == SC_DEVICE_CPU ? ", which is the CPU behind a Vulkan driver" : "");
    print_experts(engine, s);
}

json_t *report_timings(const struct sc_engine *engine, const struct sc_stats *s)
{
    json_t *timings = json_object();

    json_put(timings, "prefill_tokens", json_count(s->n_prefill_tokens));
    json_put(timings, "prefill_seconds", json_number(s->prefill_seconds));
    json_put(timings, "prefill_tokens_per_second", json_number(rate(s->n_prefill_tokens, s->prefill_seconds)));
    json_put(timings, "decode_tokens", json_count(s->n_decode_tokens));
    json_put(timings, "decode_seconds", json_number(s->decode_seconds));
    json_put(timings, "decode_tokens_per_second", json_number(rate(s->n_decode_tokens, s->decode_seconds)));
    json_put(timings, "decode_gigabytes_per_second", json_number(gigabytes_per_second(engine, s)));
    return timings;
}

json_t *report_stats(const struct sc_stats *s)
{
    json_t *stats = json_object();

    json_put(stats, "expert_hits", json_count(s->expert_hits));
    json_put(stats, "expert_misses", json_count(s->expert_misses));
    json_put(stats, "expert_host_runs", json_count(s->expert_host_runs));
    json_put(stats, "host_seconds", json_number(s->host_seconds));
    json_put(stats, "uploaded_bytes", json_count(s->uploaded_bytes));
    json_put(stats, "wait_seconds", json_number(s->wait_seconds));
    json_put(stats, "idle_seconds", json_number(s->idle_seconds));
    json_put(stats, "disk_bytes", json_count(s->disk_bytes));
    json_put(stats, "disk_seconds", json_number(s->disk_seconds));
    json_put(stats, "longest_piece_seconds", json_number(s->longest_piece_seconds));
    json_put(stats, "submits", json_count(s->n_submits));
    json_put(stats, "dispatches_per_token", json_count(s->n_dispatches));
    json_put(stats, "barriers_per_token", json_count(s->n_barriers));
    return stats;
}

json_t *report_placement(const struct sc_placement *p)
{
    json_t *placement = json_object();

    json_put(placement, "budget_bytes", json_count(p->budget_bytes));
    json_put(placement, "minimum_bytes", json_count(p->minimum_bytes));
    json_put(placement, "dense_bytes", json_count(p->dense_bytes));
    json_put(placement, "expert_bytes", json_count(p->expert_bytes));
    json_put(placement, "kv_bytes", json_count(p->kv_bytes));
    json_put(placement, "activation_bytes", json_count(p->activation_bytes));
    json_put(placement, "staging_bytes", json_count(p->staging_bytes));
    json_put(placement, "slot_bytes", json_count(p->slot_bytes));
    json_put(placement, "n_slots", json_count(p->n_slots));
    json_put(placement, "n_experts_total", json_count(p->n_experts_total));
    json_put(placement, "n_ram_slots", json_count(p->n_ram_slots));
    json_put(placement, "ram_bytes", json_count(p->ram_bytes));
    return placement;
}
