/* SPDX-License-Identifier: Apache-2.0 */
#include "compare.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

const struct bound exact_bound = {.kl = 1e-5, .margin = 1e-3};

static double log_sum_exp(const double *x, size_t n)
{
    double most = x[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        most = fmax(most, x[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp(x[i] - most);
    return most + log(sum);
}

/* The row's KL divergence; sets *wrong if its arg max is another although the margin decides it. */
static double compare_row(const double *want, const double *got, size_t n, double margin, bool *wrong)
{
    const double want_norm = log_sum_exp(want, n), got_norm = log_sum_exp(got, n);
    size_t best = 0, got_best = 0;
    double second = -INFINITY, kl = 0;
    for (size_t i = 0; i < n; i++) {
        const double p = want[i] - want_norm;
        kl += exp(p) * (p - (got[i] - got_norm));
        if (got[i] > got[got_best])
            got_best = i;
        if (i > 0 && want[i] > want[best]) {
            second = want[best];
            best = i;
        } else if (i > 0 && want[i] > second) {
            second = want[i];
        }
    }
    *wrong = got_best != best && want[best] - second > margin;
    return kl;
}

struct difference logits_compare(const double *want, const float *got, size_t n, uint32_t n_vocab, double margin)
{
    struct difference d = {0};
    double *row = malloc(n_vocab * sizeof *row);
    if (!row)
        abort();
    for (size_t t = 0; t < n; t++) {
        bool finite = true, wrong;
        for (uint32_t i = 0; i < n_vocab; i++) {
            row[i] = (double)got[t * n_vocab + i];
            finite = finite && isfinite(row[i]) && isfinite(want[t * n_vocab + i]);
        }
        const double kl = finite ? compare_row(want + t * n_vocab, row, n_vocab, margin, &wrong) : (wrong = true, NAN);
        d.n_wrong += wrong;
        if (!(kl <= d.worst_kl) && !isnan(d.worst_kl)) {
            d.worst_kl = kl;
            d.worst_row = t;
        }
    }
    free(row);
    return d;
}
