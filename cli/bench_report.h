/* SPDX-License-Identifier: Apache-2.0 */
/* What `scoria bench` prints of its tests: rows of a table as they are known, or one JSON list at the end. */
#ifndef SCORIA_CLI_BENCH_REPORT_H
#define SCORIA_CLI_BENCH_REPORT_H

#include <jansson.h>

#include "options.h"
#include "plan.h"
#include "scoria.h"
#include "table.h"

enum { BENCH_COLUMNS = 11, BENCH_MAX_RUNS = 1000 };

struct bench_result {
    bool is_prompt;                 /* a prompt of n tokens at once, or n tokens one by one */
    size_t n, depth, n_runs;        /* depth: tokens in the context before */
    double seconds[BENCH_MAX_RUNS]; /* (n_runs) */
};

struct bench_report {
    const struct options *o;
    const struct sc_plan *plan; /* NULL: none could be made, and there are no columns of tiers */
    const struct sc_engine *engine;
    const struct sc_session *session; /* its statistics are those of the test */
    enum option_format format;
    struct column columns[BENCH_COLUMNS];
    json_t *list; /* owned: the results, for JSON */
};

/* The caller sets plan, engine and session before the first test. */
void bench_report_init(struct bench_report *b, const struct options *o);
void bench_report_add(struct bench_report *b, const struct bench_result *r);
void bench_report_finish(struct bench_report *b, bool ok); /* prints the JSON if all went well */

#endif
