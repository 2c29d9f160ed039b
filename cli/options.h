/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flags of all commands in one table: how they are written, what values they take, what the help says. A command
 * lists those that it takes; for it the others do not exist.
 */
#ifndef SCORIA_CLI_OPTIONS_H
#define SCORIA_CLI_OPTIONS_H

#include "number.h"

struct command;

enum option_id {
    OPTION_MODEL,
    OPTION_PROMPT,
    OPTION_FILE,
    OPTION_SYSTEM,
    OPTION_TEMPLATE,
    OPTION_PREDICT,
    OPTION_IGNORE_EOS,
    OPTION_DISPLAY_PROMPT,
    OPTION_NO_DISPLAY_PROMPT,
    OPTION_CONTEXT,
    OPTION_UBATCH,
    OPTION_BATCH,
    OPTION_TEMPERATURE,
    OPTION_TOP_K,
    OPTION_TOP_P,
    OPTION_MIN_P,
    OPTION_REPEAT_PENALTY,
    OPTION_REPEAT_LAST_N,
    OPTION_SEED,
    OPTION_BENCH_MODEL,
    OPTION_BENCH_PROMPT,
    OPTION_BENCH_GENERATE,
    OPTION_BENCH_DEPTH,
    OPTION_BENCH_CONTEXT,
    OPTION_REPETITIONS,
    OPTION_NO_WARMUP,
    OPTION_FORMAT,
    OPTION_SYNTHETIC,
    OPTION_CURVE,
    OPTION_SVG,
    OPTION_KERNELS,
    OPTION_SHAPE,
    OPTION_TYPES,
    OPTION_VARIANTS,
    OPTION_IDS,
    OPTION_DECODE_IDS,
    OPTION_NO_BOS,
    OPTION_SPECIAL,
    OPTION_METADATA,
    OPTION_TENSORS,
    OPTION_TOKENS,
    OPTION_DECODE,
    OPTION_OUTPUT,
    OPTION_DEVICE,
    OPTION_VRAM,
    OPTION_RAM,
    OPTION_NO_MMAP,
    OPTION_MLOCK,
    OPTION_KV,
    OPTION_CPU_EXPERTS,
    OPTION_THREADS,
    OPTION_ACTIVATIONS,
    OPTION_NO_AUTOTUNE,
    OPTION_NO_HOT_SET,
    OPTION_ROUTING_TRACE,
    OPTION_DEVICES_DEVICE,
    OPTION_SELF_TEST,
    OPTION_JSON,
    OPTION_LOG_LEVEL,
    OPTION_HELP,
    N_OPTIONS
};

/* The flags that every command with an engine takes, for their lists. */
#define OPTIONS_ENGINE \
    OPTION_UBATCH, OPTION_BATCH, OPTION_DEVICE, OPTION_VRAM, OPTION_RAM, OPTION_NO_MMAP, OPTION_MLOCK, OPTION_KV, \
        OPTION_CPU_EXPERTS, OPTION_THREADS, OPTION_ACTIVATIONS, OPTION_NO_AUTOTUNE

#define OPTIONS_SAMPLING \
    OPTION_TEMPERATURE, OPTION_TOP_K, OPTION_TOP_P, OPTION_MIN_P, OPTION_REPEAT_PENALTY, OPTION_REPEAT_LAST_N, \
        OPTION_SEED

enum option_format { FORMAT_MD, FORMAT_CSV, FORMAT_JSON };

struct options {
    bool given[N_OPTIONS]; /* on the command line; the others hold their defaults */

    const char *model, *device, *prompt, *file, *system, *chat_template, *output, *routing_trace, *svg, *shape,
        *types; /* NULL: not given */
    int64_t predict, context, ubatch, batch, top_k, repeat_last_n, repetitions, threads;
    int64_t seed; /* -1: random */
    double temperature, top_p, min_p, repeat_penalty;
    uint64_t vram_bytes, ram_bytes; /* 0: not given */
    /* enums: sc_kv_type, sc_cpu_experts, sc_activations, sc_log_level, option_format */
    int kv, cpu_experts, activations, log_level, format;
    bool no_mmap, mlock, synthetic, curve, kernels, variants, self_test, no_autotune, no_hot_set;
    bool ignore_eos, display_prompt, no_display_prompt, no_warmup, ids, decode, no_bos, special, metadata, tensors,
        json;
    struct integers bench_prompt, bench_generate, bench_depth, tokens;

    const char **arguments; /* (n_arguments) the words that belong to no flag, in order; they borrow from argv */
    size_t n_arguments;
};

enum option_result { OPTIONS_OK, OPTIONS_HELP, OPTIONS_WRONG };

/*
 * Reads the words after the command's name. OPTIONS_HELP: the help is on standard output. OPTIONS_WRONG: one sentence
 * is on standard error. To be finished in every case.
 */
enum option_result options_init(struct options *o, const struct command *command, int argc, char **argv);
void options_finish(struct options *o);

/* The word of `words` (n_words) that `word` was most likely meant to be, NULL if none is near. */
const char *options_nearest(const char *word, const char *const *words, size_t n_words);

#endif
