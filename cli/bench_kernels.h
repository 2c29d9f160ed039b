/* SPDX-License-Identifier: Apache-2.0 */
/* `scoria bench --kernels`: single operations at the shapes of known models. */
#ifndef SCORIA_CLI_BENCH_KERNELS_H
#define SCORIA_CLI_BENCH_KERNELS_H

#include "options.h"

int bench_kernels(const struct options *o); /* returns an exit status */

#endif
