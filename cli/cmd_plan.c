/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "engine.h"
#include "output.h"
#include "plan.h"
#include "report.h"
#include "scoria.h"
#include "table.h"
#include "terminal.h"

enum { CELL_SIZE = 160, N_TIERS = 4 };

static const char *const way_names[SC_N_WAYS] = {
    [SC_WAY_DEVICE] = "GPU, experts uploaded", [SC_WAY_BOTH] = "GPU and CPU together", [SC_WAY_CPU] = "experts on CPU"};
static const char *const way_words[SC_N_WAYS] = {
    [SC_WAY_DEVICE] = "device", [SC_WAY_BOTH] = "both", [SC_WAY_CPU] = "cpu"};
static const char *const link_names[] = {
    [SC_LINK_VRAM] = "the device's memory and kernels",
    [SC_LINK_RAM] = "RAM and the CPU's kernels",
    [SC_LINK_TRANSFER] = "the link to the device",
    [SC_LINK_DISK] = "the disk",
    [SC_LINK_ROUND_TRIP] = "the host and the device waiting for each other",
};
static const char *const link_words[] = {[SC_LINK_VRAM] = "vram",
                                         [SC_LINK_RAM] = "ram",
                                         [SC_LINK_TRANSFER] = "transfer",
                                         [SC_LINK_DISK] = "disk",
                                         [SC_LINK_ROUND_TRIP] = "round_trip"};

/* ---- for people ---- */

static void print_size(const char *where, const char *what, uint64_t bytes)
{
    char size[32];
    output_printf("  %-6s%-38s %10s\n", where, what, number_bytes(size, bytes));
}

static void print_model(const struct sc_plan *p)
{
    char size[32], all[32], active[32], budget[32];
    output_printf("%s%s%s parameters", p->model_name, *p->model_name ? ": " : "", number_count(all, p->n_parameters));
    if (p->n_active_parameters < p->n_parameters)
        output_printf(", %s of them active", number_count(active, p->n_active_parameters));
    output_printf(", %s%s\n", number_bytes(size, p->model_bytes), p->has_weights ? "" : " (only its header is here)");
    output_printf("%s, %s to be used, %" PRIu32 " CPU threads\n\n", p->device.name,
                  number_bytes(budget, p->placement.budget_bytes), p->n_threads);
}

static void print_placement(const struct sc_plan *p)
{
    const struct sc_placement *m = &p->placement;
    char text[CELL_SIZE];
    const bool is_short = p->ram_needed_bytes > p->ram_available_bytes;
    print_size("VRAM", "dense weights", m->dense_bytes);
    snprintf(text, sizeof text, "KV cache of %" PRIu32 " tokens", p->n_ctx);
    print_size("", text, m->kv_bytes);
    snprintf(text, sizeof text, "activations of %" PRIu32 " tokens", p->n_batch);
    print_size("", text, m->activation_bytes);
    print_size("", "buffers to and from the host", m->staging_bytes);
    if (!m->n_experts_total)
        return;
    snprintf(text, sizeof text, "%" PRIu32 " of %" PRIu32 " experts", m->n_slots, m->n_experts_total);
    print_size("", text, m->expert_bytes);
    if (p->ram_needed_bytes)
        print_size("RAM",
                   is_short               ? "experts, as many as there is room for"
                   : p->way == SC_WAY_CPU ? "all experts, for the CPU"
                                          : "the other experts",
                   is_short ? p->ram_available_bytes : p->ram_needed_bytes);
    if (is_short)
        print_size("disk", "the rest of them", p->ram_needed_bytes - p->ram_available_bytes);
}

static void rate(char *out, double bytes_per_second)
{
    snprintf(out, CELL_SIZE, "%.1f", bytes_per_second * 1e-9);
}

/* What a token moves, and what the links were measured to carry. */
static void print_links(const struct sc_plan *p)
{
    const struct sc_plan_rates *r = &p->rates;
    struct column columns[] = {
        {"a token reads", 14, false}, {"MB", 10, true}, {"link: GB/s", 10, true}, {"with experts", 12, true}};
    const struct {
        const char *name;
        double bytes, read, experts;
    } rows[N_TIERS] = {
        {"from VRAM", p->vram_token_bytes, r->vram_read, r->vram_experts},
        {"from RAM", p->ram_token_bytes, r->ram_read, r->ram_experts},
        {"from disk", p->disk_token_bytes, r->disk_read, 0},
        {"RAM to VRAM", p->way == SC_WAY_DEVICE ? p->ram_token_bytes : 0, r->transfer, r->upload},
    };
    char cells[4][CELL_SIZE];
    const char *row[4] = {cells[0], cells[1], cells[2], cells[3]};
    output_printf("\n");
    table_header(TABLE_PLAIN, columns, N_ELEMENTS(columns));
    for (int i = 0; i < N_TIERS; i++) {
        snprintf(cells[0], CELL_SIZE, "%s", rows[i].name);
        snprintf(cells[1], CELL_SIZE, "%.1f", rows[i].bytes * 1e-6);
        rate(cells[2], rows[i].read);
        cells[3][0] = 0;
        if (rows[i].experts > 0)
            rate(cells[3], rows[i].experts);
        else
            snprintf(cells[3], CELL_SIZE, "%s", p->disk_is_measured ? "" : "assumed");
        table_row(TABLE_PLAIN, columns, N_ELEMENTS(columns), row);
    }
}

static void print_speeds(const struct sc_plan *p)
{
    struct column columns[] = {{"generation", 24, false}, {"t/s", 10, true}, {"bound", 10, true}, {"", 0, false}};
    char cells[2][CELL_SIZE], size[32];
    const bool is_resident = p->hit_rate >= 1;
    output_printf("\n");
    table_header(TABLE_PLAIN, columns, N_ELEMENTS(columns));
    for (int way = 0; way < SC_N_WAYS; way++) {
        if (is_resident && (way == SC_WAY_BOTH || !p->n_experts) && way != (int)p->way)
            continue;
        const char *row[] = {is_resident && way == SC_WAY_DEVICE ? "GPU, which holds it all" : way_names[way], cells[0],
                             cells[1], way == (int)p->way ? "<- this way" : ""};
        snprintf(cells[0], CELL_SIZE, "%.2f", 1 / p->seconds[way]);
        snprintf(cells[1], CELL_SIZE, "%.2f", 1 / p->bound_seconds[way]);
        table_row(TABLE_PLAIN, columns, N_ELEMENTS(columns), row);
    }
    output_printf("\nGeneration is limited by %s", link_names[p->link]);
    if (p->n_experts && !is_resident && p->way != SC_WAY_CPU)
        output_printf("; %.0f %% of the experts are found on the device", 100 * p->hit_rate);
    output_printf(".\nA prompt: %.1f t/s in micro-batches of %" PRIu32 ", limited by %s.\n",
                  p->n_batch / p->prompt_seconds, p->n_batch, link_names[p->prompt_link]);
    if (!is_resident)
        output_printf("With %s on the device it would hold everything: %.2f t/s.\n",
                      number_bytes(size, p->resident_budget_bytes), 1 / p->resident_seconds);
    if (p->ram_needed_bytes > p->ram_available_bytes)
        output_printf("With %s more RAM nothing would come from disk.\n",
                      number_bytes(size, p->ram_needed_bytes - p->ram_available_bytes));
}

/* ---- for programs ---- */

static json_t *rates_to_json(const struct sc_plan_rates *r)
{
    json_t *rates = json_object();
    json_put(rates, "vram_read", json_number(r->vram_read));
    json_put(rates, "vram_experts", json_number(r->vram_experts));
    json_put(rates, "ram_read", json_number(r->ram_read));
    json_put(rates, "ram_experts", json_number(r->ram_experts));
    json_put(rates, "upload", json_number(r->upload));
    json_put(rates, "transfer", json_number(r->transfer));
    json_put(rates, "disk_read", json_number(r->disk_read));
    json_put(rates, "device_flops", json_number(r->device_flops));
    json_put(rates, "host_flops", json_number(r->host_flops));
    json_put(rates, "round_trip_seconds", json_number(r->round_trip));
    return rates;
}

static json_t *ways_to_json(const struct sc_plan *p)
{
    json_t *ways = json_object();
    for (int way = 0; way < SC_N_WAYS; way++) {
        json_t *one = json_object();
        json_put(one, "tokens_per_second", json_number(1 / p->seconds[way]));
        json_put(one, "bound_tokens_per_second", json_number(1 / p->bound_seconds[way]));
        json_put(ways, way_words[way], one);
    }
    return ways;
}

static json_t *to_json(const struct sc_plan *p)
{
    json_t *plan = json_object();
    json_put(plan, "model_name", json_word(p->model_name));
    json_put(plan, "model_bytes", json_count(p->model_bytes));
    json_put(plan, "n_parameters", json_count(p->n_parameters));
    json_put(plan, "n_active_parameters", json_count(p->n_active_parameters));
    json_put(plan, "has_weights", json_boolean(p->has_weights));
    json_put(plan, "device", json_word(p->device.name));
    json_put(plan, "driver", json_word(p->device.driver));
    json_put(plan, "n_ctx", json_count(p->n_ctx));
    json_put(plan, "n_ubatch", json_count(p->n_batch));
    json_put(plan, "n_threads", json_count(p->n_threads));
    json_put(plan, "placement", report_placement(&p->placement));
    json_put(plan, "ram_needed_bytes", json_count(p->ram_needed_bytes));
    json_put(plan, "ram_available_bytes", json_count(p->ram_available_bytes));
    json_put(plan, "rates", rates_to_json(&p->rates));
    json_put(plan, "disk_is_measured", json_boolean(p->disk_is_measured));
    json_put(plan, "hit_rate", json_number(p->hit_rate));
    json_put(plan, "vram_token_bytes", json_number(p->vram_token_bytes));
    json_put(plan, "ram_token_bytes", json_number(p->ram_token_bytes));
    json_put(plan, "disk_token_bytes", json_number(p->disk_token_bytes));
    json_put(plan, "ways", ways_to_json(p));
    json_put(plan, "way", json_word(way_words[p->way]));
    json_put(plan, "limited_by", json_word(link_words[p->link]));
    json_put(plan, "prompt_tokens_per_second", json_number(p->n_batch / p->prompt_seconds));
    json_put(plan, "prompt_limited_by", json_word(link_words[p->prompt_link]));
    json_put(plan, "resident_budget_bytes", json_count(p->resident_budget_bytes));
    json_put(plan, "resident_tokens_per_second", json_number(1 / p->resident_seconds));
    return plan;
}

static int run(const struct options *o)
{
    struct sc_engine_params params = engine_params(o, 0);
    struct sc_error e = {0};
    struct sc_plan plan;
    params.measure_anew = true;

    if (!sc_plan_make(&plan, &params, &e))
        return engine_failed(&e);
    if (o->json) {
        output_json(to_json(&plan));
        return EXIT_OK;
    }
    print_model(&plan);
    print_placement(&plan);
    print_links(&plan);
    print_speeds(&plan);
    return EXIT_OK;
}

static const enum option_id options[] = {
    OPTION_MODEL, OPTION_CONTEXT, OPTIONS_ENGINE, OPTION_LOG_LEVEL, OPTION_JSON,
};

const struct command command_plan = {
    .name = "plan",
    .summary = "predict how a model runs here: what goes where, how fast, what limits it",
    .usage = "-m MODEL [-c 4096] [--vram SIZE] [--ram SIZE] [--json] [FLAGS]",
    .details = "The file may end after its header. The machine is measured with made-up weights, which takes some "
               "seconds, and\n"
               "the rates are kept in the cache folder for other commands. t/s is what those rates give with Scoria's "
               "kernels,\n"
               "every expert being as likely as any other; bound is what the bare links would allow.\n",
    .options = options,
    .n_options = N_ELEMENTS(options),
    .run = run,
};
