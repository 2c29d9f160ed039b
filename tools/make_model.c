/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes a random model of architecture llama, for measurements:
 *
 *     make_model OUT.gguf [preset=8x7b|8x22b|7b|30b-a3b] [header] [KEY=NUMBER | type=NAME]...
 *
 * The keys are the numbers of struct model_spec; what is not given keeps the preset's value, or else the default there.
 * `header` leaves the weights away: `scoria plan` and `scoria bench --synthetic` take such a file.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model_builder.h"

static uint32_t *number_of(struct model_spec *s, const char *key, size_t length)
{
    const struct {
        const char *name;
        uint32_t *value;
    } keys[] = {
        {"d", &s->d},           {"ff", &s->ff},
        {"layers", &s->layers}, {"heads", &s->heads},
        {"kv", &s->kv},         {"experts", &s->experts},
        {"used", &s->used},     {"vocab", &s->vocab},
        {"ctx", &s->n_ctx},     {"head_dim", &s->head_dim},
        {"window", &s->window},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (strlen(keys[i].name) == length && memcmp(keys[i].name, key, length) == 0)
            return keys[i].value;
    return NULL;
}

static bool set(struct model_spec *s, const char *argument)
{
    const char *equals = strchr(argument, '=');
    if (strcmp(argument, "header") == 0)
        return s->header_only = true;
    if (strncmp(argument, "preset=", 7) == 0)
        return model_preset(s, equals + 1);
    if (!equals)
        return false;
    if (strncmp(argument, "type=", 5) == 0) {
        s->type = equals + 1;
        return true;
    }
    uint32_t *value = number_of(s, argument, (size_t)(equals - argument));
    char *end;
    unsigned long n = strtoul(equals + 1, &end, 10);
    if (!value || *end || end == equals + 1 || n > UINT32_MAX)
        return false;
    *value = (uint32_t)n;
    return true;
}

int main(int argc, char **argv)
{
    struct model_spec spec = {.seed = 1};
    if (argc < 2) {
        fprintf(stderr, "usage: make_model OUT.gguf [KEY=VALUE]...\n");
        return 2;
    }
    for (int i = 2; i < argc; i++)
        if (!set(&spec, argv[i])) {
            fprintf(stderr, "make_model: %s is not KEY=NUMBER, type=NAME, preset=NAME (which comes first) or header\n",
                    argv[i]);
            return 2;
        }
    if (!model_write(argv[1], &spec)) {
        fprintf(stderr, "make_model: cannot write %s\n", argv[1]);
        return 1;
    }
    return 0;
}
