/* SPDX-License-Identifier: Apache-2.0 */
/* What generation reads of each kind of memory, and how near it comes to what that memory allows. */
#ifndef SCORIA_CLI_TIERS_H
#define SCORIA_CLI_TIERS_H

#include <stdbool.h>

#include "plan.h"

struct tiers {
    double vram, ram, disk; /* bytes per second; disk is 0 where the file is mapped and nobody knows */
    double hit_rate;        /* experts found on the device; 1 in a dense model */
    double bound;           /* the share of the bound that is reached: seconds at least over seconds */
};

/* Of what the stats count since their reset. False if they count no token of decode. */
bool tiers_of(struct tiers *t, const struct sc_plan *plan, const struct sc_stats *s);

#endif
