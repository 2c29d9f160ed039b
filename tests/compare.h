/* SPDX-License-Identifier: Apache-2.0 */
/* How far logits are from those of a reference. */
#ifndef SCORIA_TESTS_COMPARE_H
#define SCORIA_TESTS_COMPARE_H

#include <stddef.h>
#include <stdint.h>

struct bound {
    double kl;     /* most Kullback-Leibler divergence, in nats, of a token's distribution from the reference's */
    double margin; /* where the reference's first two logits differ by more, the arg max is the same */
};

extern const struct bound exact_bound; /* of whole models in f32: 1e-5 and 1e-3 */

struct difference {
    double worst_kl; /* NaN if anything is not finite */
    size_t worst_row;
    size_t n_wrong; /* rows whose arg max differs although the margin decides it */
};

struct difference logits_compare(const double *want, const float *got, size_t n, uint32_t n_vocab, double margin);

#endif
