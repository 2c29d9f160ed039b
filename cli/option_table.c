/* SPDX-License-Identifier: Apache-2.0 */
#include "option_table.h"

#include <stddef.h>

#include "scoria.h"

#define SWITCH(id, flags, field, help) \
    [id] = {id, OPTION_IS_SWITCH, flags, NULL, offsetof(struct options, field), 0, 0, false, help}
#define TEXT(id, flags, value, field, required, help) \
    [id] = {id, OPTION_IS_TEXT, flags, value, offsetof(struct options, field), 0, 0, required, help}
#define INTEGER(id, flags, value, field, min, max, help) \
    [id] = {id, OPTION_IS_INTEGER, flags, value, offsetof(struct options, field), min, max, false, help}
#define INTEGERS(id, flags, value, field, min, max, required, help) \
    [id] = {id, OPTION_IS_INTEGERS, flags, value, offsetof(struct options, field), min, max, required, help}
#define REAL(id, flags, value, field, min, max, help) \
    [id] = {id, OPTION_IS_REAL, flags, value, offsetof(struct options, field), min, max, false, help}
#define SIZE(id, flags, value, field, help) \
    [id] = {id, OPTION_IS_SIZE, flags, value, offsetof(struct options, field), 0, 0, false, help}
#define CHOICE(id, flags, value, field, help) \
    [id] = {id, OPTION_IS_CHOICE, flags, value, offsetof(struct options, field), 0, 0, false, help}

static const struct option rows[N_OPTIONS] = {
    TEXT(OPTION_MODEL, "-m --model", "FILE", model, true, "the model: a GGUF file, or any part of a split one"),
    TEXT(OPTION_PROMPT, "-p --prompt", "TEXT", prompt, false, "the prompt"),
    TEXT(OPTION_FILE, "-f --file", "FILE", file, false,
         "read the prompt from FILE, less one newline at its end;\n- is standard input"),
    TEXT(OPTION_SYSTEM, "-sys --system-prompt", "TEXT", system, false,
         "what the model is told before the first question"),
    TEXT(OPTION_TEMPLATE, "--chat-template", "NAME", chat_template, false,
         "how messages become tokens (default: what the file says;\na name that does not exist lists those that do)"),
    INTEGER(OPTION_PREDICT, "-n --predict --n-predict", "N", predict, -1, INT32_MAX,
            "generate at most N tokens; -1 (the default): until the\nmodel ends its text or the context is full"),
    SWITCH(OPTION_IGNORE_EOS, "--ignore-eos", ignore_eos, "go on when the model ends its text"),
    SWITCH(OPTION_DISPLAY_PROMPT, "--display-prompt", display_prompt,
           "print the prompt before the text, also into a pipe"),
    SWITCH(OPTION_NO_DISPLAY_PROMPT, "--no-display-prompt", no_display_prompt, "never print the prompt"),
    INTEGER(OPTION_CONTEXT, "-c --ctx-size", "N", context, 0, INT32_MAX,
            "tokens that the context holds; 0 (the default): 4096, or\nwhat the model was made for if that is less"),
    INTEGER(OPTION_UBATCH, "-ub --ubatch-size", "N", ubatch, 1, 8192,
            "most tokens computed in one pass (default: what suits the\ndevice and the budget)"),
    INTEGER(OPTION_BATCH, "-b --batch-size", "N", batch, 1, 8192,
            "for llama.cpp's users: lowers -ub when it is smaller"),
    REAL(OPTION_TEMPERATURE, "--temp", "T", temperature, 0, 100,
         "temperature (default 0.8); 0: always the likeliest token"),
    INTEGER(OPTION_TOP_K, "--top-k", "N", top_k, 0, INT32_MAX, "choose among the N likeliest (default 40); 0: all"),
    REAL(OPTION_TOP_P, "--top-p", "P", top_p, 0, 1,
         "choose among the likeliest that together have\nprobability P (default 0.95); 1: all"),
    REAL(OPTION_MIN_P, "--min-p", "P", min_p, 0, 1,
         "leave out what is less than P times as likely as the\nlikeliest (default 0.05); 0: nothing"),
    REAL(OPTION_REPEAT_PENALTY, "--repeat-penalty", "X", repeat_penalty, 0.01, 100,
         "make what was said less likely (default 1: off)"),
    INTEGER(OPTION_REPEAT_LAST_N, "--repeat-last-n", "N", repeat_last_n, -1, INT32_MAX,
            "how far back that looks (default 64); -1: the context"),
    INTEGER(OPTION_SEED, "-s --seed", "N", seed, -1, UINT32_MAX,
            "of the random choices: the same seed gives the same text;\n-1 (the default): another one each time"),
    TEXT(OPTION_BENCH_MODEL, "-m --model", "FILE", model, false, "the model; --kernels needs none"),
    INTEGERS(OPTION_BENCH_PROMPT, "-p --n-prompt", "LIST", bench_prompt, 0, 1 << 20, false,
             "prompt tokens, one test each (default 512); 0: none"),
    INTEGERS(OPTION_BENCH_GENERATE, "-n --n-gen", "LIST", bench_generate, 0, 1 << 20, false,
             "generated tokens, one test each (default 128); 0: none;\n--kernels: tokens at once (default 1,16,512)"),
    INTEGERS(OPTION_BENCH_DEPTH, "-d --n-depth", "LIST", bench_depth, 0, INT32_MAX, false,
             "tokens that are in the context before a test, whose time\ndoes not count; all tests at each (default 0)"),
    INTEGER(OPTION_BENCH_CONTEXT, "-c --ctx-size", "N", context, 0, INT32_MAX,
            "tokens that the context holds; 0 (the default): as many as\nthe longest test has"),
    INTEGER(OPTION_REPETITIONS, "-r --repetitions", "N", repetitions, 1, 1000, "measure each test N times (default 5)"),
    SWITCH(OPTION_NO_WARMUP, "--no-warmup", no_warmup, "do not run each test once before measuring"),
    CHOICE(OPTION_FORMAT, "-o --output", "md|csv|json", format, "how the table is written (default md)"),
    SWITCH(OPTION_SYNTHETIC, "--synthetic", synthetic,
           "make the weights up: the file needs no more than its\nheader; --ram bounds the memory that they take"),
    SWITCH(OPTION_CURVE, "--curve", curve,
           "prompts of 1, 2, 4, 8, 9, 12, 16 ... 4096 tokens, as many\nas the context holds, instead of -p and -n"),
    TEXT(OPTION_SVG, "--svg", "FILE", svg, false, "--curve: draw it into this file too"),
    SWITCH(OPTION_KERNELS, "--kernels", kernels, "measure single operations, without a model"),
    TEXT(OPTION_SHAPE, "--shape", "NAME", shape, false,
         "--kernels: of this model alone: 8x7b, 8x22b, 7b, 30b-a3b,\ntiny (default: all but tiny)"),
    TEXT(OPTION_TYPES, "--type", "LIST", types, false,
         "--kernels: with these weights (default q4_k,q6_k,q8_0), or\nall"),
    SWITCH(OPTION_VARIANTS, "--variants", variants, "--kernels: every variant that the device can run"),
    SWITCH(OPTION_IDS, "--ids", ids, "print nothing but the ids"),
    SWITCH(OPTION_DECODE_IDS, "--decode", decode, "the other way: from ids to text"),
    SWITCH(OPTION_NO_BOS, "--no-bos", no_bos, "do not begin with the model's begin-of-text token"),
    SWITCH(OPTION_SPECIAL, "--special", special,
           "read pieces such as </s> in the text as their tokens;\nwith --decode: print them"),
    SWITCH(OPTION_METADATA, "--metadata", metadata, "only the metadata"),
    SWITCH(OPTION_TENSORS, "--tensors", tensors, "only the tensors"),
    INTEGERS(OPTION_TOKENS, "--tokens", "LIST", tokens, 0, INT32_MAX, true, "token ids, separated by commas: 1,5,9"),
    SWITCH(OPTION_DECODE, "--decode", decode, "feed them one by one, as generation does"),
    TEXT(OPTION_OUTPUT, "-o --output", "FILE", output, true, "where the logits go; - is standard output"),
    TEXT(OPTION_DEVICE, "--device", "N|NAME", device, false,
         "the Vulkan device: its index or a part of its name, as\n'scoria devices' lists them (default: the best)"),
    SIZE(OPTION_VRAM, "--vram", "SIZE", vram_bytes,
         "take no more memory than this of the device, such as 12G\nor 800M (K, M, G: powers of 1024; KB, MB, GB: of "
         "1000)"),
    SIZE(OPTION_RAM, "--ram", "SIZE", ram_bytes,
         "keep no more than this of the experts in RAM, and read\nthe others from disk when they are needed (default: "
         "what\n"
         "RAM has free)"),
    SWITCH(OPTION_NO_MMAP, "--no-mmap", no_mmap,
           "read the experts into RAM at the start instead of through\nthe mapping"),
    SWITCH(OPTION_MLOCK, "--mlock", mlock, "let the system move nothing of them out of RAM"),
    CHOICE(
        OPTION_KV, "--kv", "f16|f32|q8_0", kv,
        "type of the keys and values that are kept (default f16);\nq8_0 takes 17/32 of f16's memory and rounds more"),
    CHOICE(OPTION_CPU_EXPERTS, "--cpu-experts", "auto|on|off|all", cpu_experts,
           "whether the CPU computes experts that --vram has no room\nfor while the GPU runs the others, or every one; "
           "auto (the\ndefault): where that is faster"),
    INTEGER(OPTION_THREADS, "-t --threads", "N", threads, 1, 1024, "CPU threads for experts (default: all it may use)"),
    CHOICE(
        OPTION_ACTIVATIONS, "--activations", "auto|f32", activations,
        "whether kernels may round activations to fewer bits before\nthey multiply; auto (the default): on GPUs, where "
        "that is\nfaster, never on a processor that drives Vulkan"),
    SWITCH(OPTION_NO_AUTOTUNE, "--no-autotune", no_autotune,
           "take the first kernels that the device can run instead of\ntiming them (GPUs, at the first start)"),
    SWITCH(OPTION_NO_HOT_SET, "--no-hot-set", no_hot_set,
           "do not begin with the experts that earlier runs used most,\nand do not keep those of this one"),
    TEXT(OPTION_ROUTING_TRACE, "--routing-trace", "FILE", routing_trace, false,
         "write which experts every token chose, for\ntools/simulate-experts"),
    TEXT(OPTION_DEVICES_DEVICE, "--device", "N|NAME", device, false,
         "only this one: its index or a part of its name; of several\nthe best"),
    SWITCH(OPTION_SELF_TEST, "--self-test", self_test,
           "test every kernel that the devices can run, whatever is\nkept, and list them all"),
    SWITCH(OPTION_JSON, "--json", json, "print JSON"),
    CHOICE(OPTION_LOG_LEVEL, "--log-level", "error|warning|info|debug", log_level,
           "how much is told on standard error (default warning)"),
    SWITCH(OPTION_HELP, "-h --help", json, "this text"),
};

const struct options option_defaults = {
    .predict = -1,
    .temperature = 0.8,
    .top_k = 40,
    .top_p = 0.95,
    .min_p = 0.05,
    .repeat_penalty = 1,
    .repeat_last_n = 64,
    .seed = -1,
    .repetitions = 5,
    .kv = SC_KV_F16,
    .cpu_experts = SC_CPU_AUTO,
    .log_level = SC_LOG_WARNING,
    .format = FORMAT_MD,
};

const struct option *option_row(enum option_id id)
{
    return &rows[id];
}
