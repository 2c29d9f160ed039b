/* SPDX-License-Identifier: Apache-2.0 */
/* What a run cost: speeds, staging, placement. */
#ifndef SCORIA_CLI_REPORT_H
#define SCORIA_CLI_REPORT_H

#include <jansson.h>

#include "scoria.h"

/* One line of speeds on standard error, with the device, and one about the experts if any were looked up. */
void report_print(const struct sc_engine *engine, const struct sc_stats *s);

/* Objects: "timings", "stats", "placement", "device". */
json_t *report_timings(const struct sc_engine *engine, const struct sc_stats *s);
json_t *report_stats(const struct sc_stats *s);
json_t *report_placement(const struct sc_placement *p);

#endif
