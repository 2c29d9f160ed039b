/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCORIA_VALUE_H
#define SCORIA_VALUE_H

#include "gguf.h"

/* Bytes of one value of this type in a file; 0 for strings and arrays, which have no fixed size, and for unknown types.
 */
size_t value_size(enum sc_gguf_value_type type);

#endif
