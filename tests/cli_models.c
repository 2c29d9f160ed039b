/* SPDX-License-Identifier: Apache-2.0 */
#include "cli_models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model_builder.h"

char folder[FOLDER_SIZE];
char model[PATH_SIZE];
bool has_device;

const char *in_folder(const char *name)
{
    static char paths[8][PATH_SIZE];
    static unsigned next;
    char *path = paths[next++ % 8];

    snprintf(path, PATH_SIZE, "%s/%s", folder, name);
    return path;
}

char *file_read(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    char *data = NULL;

    if (!f)
        return NULL;
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    data = calloc(*n + 1, 1);
    if (!data || fread(data, 1, *n, f) != *n)
        abort();
    fclose(f);
    return data;
}

/* The vocabulary that model_fill makes, with a piece for the space. */
static void add_tokens(struct gguf_builder *b)
{
    static char text[320][8];
    const char *tokens[320] = {"<unk>", "<s>", "</s>"};

    for (int i = 3; i < 320; i++) {
        snprintf(text[i], sizeof text[i], i < 259 ? "<0x%02X>" : "w%d", i < 259 ? i - 3 : i);
        tokens[i] = text[i];
    }
    tokens[259] = "\xe2\x96\x81";
    gguf_builder_strings(b, "tokenizer.ggml.tokens", tokens, 320);
}

static bool write_models(void)
{
    const struct model_spec spec = {.seed = 1, .n_ctx = 512};
    const uint64_t shape[] = {4, 512, 256};
    struct gguf_builder b = {0};
    size_t n;

    add_tokens(&b);
    model_fill(&b, &spec);
    bool ok = gguf_builder_write(&b, model);
    gguf_builder_finish(&b);
    char *image = file_read(model, &n);
    ok = ok && file_write(in_folder("truncated.gguf"), image, n - n / 4) &&
         file_write(in_folder("header.gguf"), image, 40) && file_write(in_folder("empty.gguf"), "", 0) &&
         file_write(in_folder("text.gguf"), "this is no model", 16);
    free(image);

    b = (struct gguf_builder){0};
    gguf_builder_string(&b, "general.architecture", "mamba");
    model_fill(&b, &spec);
    ok = ok && gguf_builder_write(&b, in_folder("mamba.gguf"));
    gguf_builder_finish(&b);

    b = (struct gguf_builder){0};
    gguf_builder_tensor(&b, "blk.1.ffn_gate_exps.weight", 29, 3, shape); /* ggml's IQ1_M */
    model_fill(&b, &spec);
    ok = ok && gguf_builder_write(&b, in_folder("type.gguf"));
    gguf_builder_finish(&b);

    b = (struct gguf_builder){0};
    model_fill(&b, &(struct model_spec){.seed = 1, .n_ctx = 40});
    ok = ok && gguf_builder_write(&b, in_folder("short.gguf"));
    gguf_builder_finish(&b);

    b = (struct gguf_builder){.omit = "tokenizer.ggml.model"};
    model_fill(&b, &spec);
    ok = ok && gguf_builder_write(&b, in_folder("mute.gguf"));
    gguf_builder_finish(&b);
    return ok;
}

int cli_setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/scoria-test-cli.XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(model, sizeof model, "%s/model.gguf", folder);
    setenv("XDG_CACHE_HOME", folder, 1);
    setenv("XDG_STATE_HOME", folder, 1);
    unsetenv("NO_COLOR");
    if (!write_models())
        return -1;
    struct outcome o = RUN("devices");
    has_device = o.status == 0;
    if (!has_device)
        printf("tests that need a Vulkan device are skipped: %s", o.error ? o.error : "?\n");
    outcome_finish(&o);
    return 0;
}

int cli_teardown(void **state)
{
    char command[FOLDER_SIZE + 16];

    (void)state;
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    return system(command) ? -1 : 0;
}

struct outcome run_words(const char *input, size_t n_input, const char *const *words)
{
    return program_run(SCORIA_PROGRAM, words, input, n_input);
}

void check_failure(struct outcome o, int status, const char *text)
{
    const char *error = o.error ? o.error : "";
    size_t n = strlen(error);

    if (o.status != status || strncmp(error, "scoria: ", 8) || !strstr(error, text) || n < 2 ||
        strchr(error, '\n') != error + n - 1)
        fail_msg("status %d, not %d; standard error, where '%s' is expected: %s", o.status, status, text, error);
    outcome_finish(&o);
}

void check_success(const struct outcome *o)
{
    if (o->status)
        fail_msg("status %d: %s", o->status, o->error ? o->error : "");
}
