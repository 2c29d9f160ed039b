/* SPDX-License-Identifier: Apache-2.0 */
/* Curves over a common x as an SVG picture. */
#ifndef SCORIA_CURVE_H
#define SCORIA_CURVE_H

#include <stddef.h>

#include "error.h"

struct curve {
    const char *name;
    const double *y; /* (n) */
};

/* The next 1, 2 or 5 times a power of ten, times 5: whose fifths are round. */
double curve_round_up(double most);

/* n >= 2 ascending x, above 0 and logarithmic if log_x; y from 0 to y_max. */
bool curve_write(const char *path, const char *title, const char *x_name, const double *x, size_t n, bool log_x,
                 double y_max, const struct curve *curves, size_t n_curves, struct sc_error *e) SC_CHECK;

#endif
