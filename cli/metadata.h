/* SPDX-License-Identifier: Apache-2.0 */
/* Metadata values of a GGUF file for people and for JSON. Arrays and long texts are shortened. */
#ifndef SCORIA_CLI_METADATA_H
#define SCORIA_CLI_METADATA_H

#include <jansson.h>

#include "gguf.h"

void metadata_print(const struct sc_gguf_value *v);

/* An object: key -> value; of an array {"type", "n_elements", "first"}. */
json_t *metadata_to_json(const struct sc_gguf *g);

#endif
