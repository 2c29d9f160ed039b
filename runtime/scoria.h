/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scoria: mixture-of-experts language models on any GPU with a Vulkan driver, also when the model is larger than the
 * GPU's memory. This header and the ones it includes are the whole public interface.
 *
 *     GGUF file -> sc_engine   device, weights, expert slots: made once, read by all sessions
 *               -> sc_session  one sequence of tokens: its KV cache and activations
 *     text -> sc_tokenizer_encode -> sc_session_eval -> logits -> sc_sampler_sample -> sc_tokenizer_decode -> text
 *                                  -> sc_session_eval_top -> candidates -> sc_sampler_choose
 *
 * An engine and its sessions belong to one thread at a time. Structs of parameters that are all zero are the defaults.
 * Functions that fail say why in *e (error.h); the library never prints, exits or aborts on input. Opening a model
 * installs a handler for SIGBUS, which a file that is truncated while it is mapped would otherwise die of.
 */
#ifndef SCORIA_H
#define SCORIA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chat.h"
#include "error.h"
#include "gguf.h"
#include "sampler.h"
#include "tokenizer.h"

#define SC_VERSION "0.1.0"

/* ---- devices ---- */

enum sc_device_kind { SC_DEVICE_OTHER, SC_DEVICE_INTEGRATED, SC_DEVICE_DISCRETE, SC_DEVICE_VIRTUAL, SC_DEVICE_CPU };

/* Cooperative matrices (m x k times k x n) of 16-bit floats whose sums are fp32. */
enum sc_matrix_shape { SC_MATRIX_16X16X16 = 1, SC_MATRIX_8X16X16 = 2, SC_MATRIX_8X8X8 = 4 };

struct sc_device_info {
    uint32_t index; /* what `device` of sc_engine_params may name */
    char name[256];
    char driver[512]; /* driver name and version as the driver tells them */
    enum sc_device_kind kind;
    uint32_t vendor_id, device_id;
    uint32_t api_version;  /* as VK_MAKE_API_VERSION packs it */
    uint64_t memory_bytes; /* of the largest device-local heap */
    uint64_t free_bytes;   /* what the driver grants now (VK_EXT_memory_budget), 0 if it does not tell */
    uint32_t subgroup_size, min_subgroup_size, max_subgroup_size; /* min = max = size where it cannot vary */
    uint32_t max_workgroup_size;
    uint32_t max_workgroup_subgroups; /* of a size that a kernel demands */
    uint32_t shared_bytes;            /* per workgroup */
    bool has_ballot;                  /* broadcasts within a subgroup */
    bool has_fp16, has_int8, has_integer_dot, has_subgroup_size_control, has_transfer_queue;
    bool has_fast_integer_dot; /* four signed bytes at once are the hardware's */
    uint32_t matrix_shapes;    /* enum sc_matrix_shape, those it has */
    bool has_matrix_2;         /* cooperative matrices of whole workgroups */
    char unusable[200];        /* why Scoria cannot use it; "" if it can */
};

/* Sets *devices to *n_devices entries that the caller frees with free(). No driver at all is an error. */
bool sc_devices(struct sc_device_info **devices, size_t *n_devices, struct sc_error *e) SC_CHECK;

/* Fills *info with the device that an engine takes for this `device` of sc_engine_params. */
bool sc_device_find(const char *device, struct sc_device_info *info, struct sc_error *e) SC_CHECK;

/* ---- kernels, one by one ---- */

/* What one operation takes at a model's shape, each run waiting for the one before it and with other weights. */
struct sc_kernel_result {
    const char *shape, *op, *size; /* "8x7b", "attn_q", "4096 x 4096"; borrowed, as all texts here */
    const char *type;              /* of the weights, or of the KV cache: "q4_k"; "": there are none */
    const char *variant;           /* of the kernel; "": there is one only */
    const char *failure;           /* NULL; else why there are no times: the driver does not compile it */
    uint32_t n_tokens;
    double seconds;              /* the median of the repetitions */
    double bytes, flop;          /* that it has to move and to compute; 0 flop: hardly any */
    double read_rate, copy_rate; /* of the device in bytes per second; a copied byte is read and written */
    bool by_device_clock;        /* else by the host's, which adds a share of what a submission costs */
};

struct sc_kernel_bench_params {
    const char *device;    /* as in sc_engine_params */
    const char *cache_dir; /* likewise */
    const char *shape;     /* 8x7b, 8x22b, 7b, 30b-a3b or tiny; NULL: all but tiny */
    const enum sc_type *types;
    size_t n_types; /* 0: q4_k, q6_k, q8_0 */
    const uint32_t *n_tokens;
    size_t n_n_tokens;      /* 0: 1, 16, 512 */
    uint32_t n_repetitions; /* 0: 5; fewer where they would take over a second */
    bool all_variants;      /* of each kernel that the device can run, not only the one that an engine takes */
    bool (*report)(void *user, const struct sc_device_info *device,
                   const struct sc_kernel_result *r); /* false cancels */
    void *user;
};

/* Left out is what the device has no room for, or would need more than some seconds for. */
bool sc_kernel_bench(const struct sc_kernel_bench_params *params, struct sc_error *e) SC_CHECK;

/* What became of one way to compute something on a device. */
enum sc_variant_state { SC_VARIANT_USED, SC_VARIANT_SPARE, SC_VARIANT_LACKS, SC_VARIANT_WRONG };

struct sc_variant {
    const char *family, *name; /* what is computed, and how; they live as long as the program */
    enum sc_variant_state state;
    bool is_tested; /* by the self-test, and right: SC_VARIANT_WRONG is what it is otherwise */
    char why[160];  /* it is not used: a sentence's end, "needs ..."; or what it is used for; may be "" */
};

/*
 * Opens the device of this index and sets *variants to *n entries that the caller frees with free(), those of a family
 * one after another, the fastest by the table first. What will be used is tested unless that was done at an earlier
 * start (cache_dir as in sc_engine_params); test_all tests everything that the device can run, and anew. A device that
 * computes something wrongly whatever the variant is an error.
 */
bool sc_device_variants(uint32_t index, const char *cache_dir, bool test_all, struct sc_variant **variants, size_t *n,
                        struct sc_error *e) SC_CHECK;

/* ---- engine ---- */

enum sc_log_level { SC_LOG_ERROR, SC_LOG_WARNING, SC_LOG_INFO, SC_LOG_DEBUG };
enum sc_phase { SC_PHASE_LOAD, SC_PHASE_COMPILE, SC_PHASE_PREFILL, SC_PHASE_TUNE };
enum sc_kv_type { SC_KV_F16, SC_KV_F32, SC_KV_Q8_0 }; /* q8_0: head sizes that are a multiple of 32 */

/*
 * Whether the CPU computes experts, of single tokens and small batches. ON: those that no slot holds, or all or none
 * where that was measured to be faster; AUTO: the same, unless all experts have slots; OFF: none, what is missing is
 * uploaded; ALL: every one.
 */
enum sc_cpu_experts { SC_CPU_AUTO, SC_CPU_ON, SC_CPU_OFF, SC_CPU_ALL };

/* Whether kernels may round activations before they multiply: AUTO: on GPUs, where that is faster; F32: never. */
enum sc_activations { SC_ACTIVATIONS_AUTO, SC_ACTIVATIONS_F32 };

struct sc_engine_params {
    const char *model_path;
    const char *device;  /* NULL: the best; an index, or a part of one device's name (any case) */
    uint64_t vram_bytes; /* bound of everything allocated on the device; 0: what it has free, less a reserve */
    /* bound of the experts that are kept in RAM, which Scoria then reads itself; 0: as RAM has room */
    uint64_t ram_bytes;
    bool synthetic;     /* the weights are made up: the file may end after its header. ram_bytes bounds their memory. */
    bool no_mmap;       /* read the experts into RAM instead of mapping the file */
    bool mlock;         /* let nothing of what is in RAM be moved out; a warning where the system does not allow it */
    uint32_t n_ctx;     /* tokens that a session holds; 0: 4096, or the model's context if that is shorter */
    uint32_t n_batch;   /* micro-batch: most tokens in one pass; 0: what suits the device, the budget and the rates */
    uint32_t max_batch; /* bound of what is chosen then; 0: none */
    enum sc_kv_type kv_type;
    enum sc_cpu_experts cpu_experts;
    uint32_t n_threads; /* for experts on the CPU; 0: as many as the process may use */
    enum sc_activations activations;
    bool no_autotune; /* the first kernels that the device can run, not the fastest: no first start differs from another
                       */
    /*
     * For what the next start may need: compiled pipelines, which kernels are right and fast, measured rates, and which
     * experts were used most, with which a start begins that has no room for all. (So it begins otherwise than the
     * first one did.) NULL: $XDG_CACHE_HOME/scoria or ~/.cache/scoria; "": none.
     */
    const char *cache_dir;
    bool measure_anew; /* of these, do not believe the rates */
    bool no_hot_set;   /* of these, leave out the experts: with no_autotune equal runs give equal bits */
    /* NULL, or a file for tools/simulate-experts: what the routers choose. Evaluations fail that cannot write to it. */
    const char *routing_trace;

    /*
     * Callbacks, each may be NULL, called on the caller's thread with `user`. progress returning false cancels; it is
     * called about every 100 ms while a prompt is computed, and `done` never falls.
     */
    void (*log)(void *user, enum sc_log_level level, const char *text);
    bool (*progress)(void *user, enum sc_phase phase, uint64_t done, uint64_t total);
    void *user;
};

/* What went where. Bytes on the device; the sum of the first five is at most the budget. */
struct sc_placement {
    uint64_t budget_bytes;  /* --vram, or what was found by itself */
    uint64_t minimum_bytes; /* the smallest budget that this model runs with, at this context and batch */
    uint64_t dense_bytes;   /* everything but experts */
    uint64_t expert_bytes;  /* n_slots slots */
    uint64_t kv_bytes;
    uint64_t activation_bytes;
    uint64_t staging_bytes; /* the host-visible rings and result buffers */
    uint64_t ring_bytes;    /* of staging_bytes: the upload ring */
    uint64_t slot_bytes;    /* one expert of one layer: gate, up, down */
    uint32_t n_slots;
    uint32_t n_experts_total; /* over all layers; resident when n_slots is as many */
    uint32_t n_ram_slots;     /* experts that Scoria keeps in RAM; 0: the file is mapped, the system decides */
    uint64_t ram_bytes;       /* that they take */
};

struct sc_engine;

struct sc_engine *sc_engine_create(const struct sc_engine_params *params, struct sc_error *e) SC_CHECK;
void sc_engine_destroy(struct sc_engine *engine); /* after its sessions; accepts NULL */

const struct sc_gguf *sc_engine_gguf(const struct sc_engine *engine);
const struct sc_tokenizer *sc_engine_tokenizer(const struct sc_engine *engine,
                                               struct sc_error *e) SC_CHECK; /* NULL if the file has none */
const struct sc_device_info *sc_engine_device(const struct sc_engine *engine);
const struct sc_placement *sc_engine_placement(const struct sc_engine *engine);
uint32_t sc_engine_n_vocab(const struct sc_engine *engine);
uint32_t sc_engine_n_ctx(const struct sc_engine *engine);
uint32_t sc_engine_n_batch(const struct sc_engine *engine);

/* Of weights that were made up, how much memory they lie in: less than the model where they share it. 0: they are real.
 */
uint64_t sc_engine_synthetic_bytes(const struct sc_engine *engine);

/* Bytes of weights that one token of decode reads, and the model's parameters: all, and those that one token uses. */
uint64_t sc_engine_token_bytes(const struct sc_engine *engine);
uint64_t sc_engine_n_parameters(const struct sc_engine *engine, bool active_only);

/* ---- session ---- */

struct sc_session;

struct sc_stats {
    uint64_t n_prefill_tokens, n_decode_tokens; /* a decode token is one evaluated alone */
    double prefill_seconds, decode_seconds;
    uint64_t expert_hits, expert_misses; /* (layer, expert) looked up by a pass: found in a slot or not */
    uint64_t expert_host_runs;           /* of the misses: computed by the CPU, not uploaded */
    uint64_t uploaded_bytes;             /* of experts, host to device */
    double host_seconds;                 /* the CPU computed experts */
    double wait_seconds;                 /* layers waited for the upload of experts */
    double idle_seconds; /* all experts in slots: the device waited for the host between decode tokens, at most */
    uint64_t disk_bytes; /* of experts, read from disk; not known where the file is mapped */
    double disk_seconds; /* layers waited for them */
    double longest_piece_seconds; /* of what prompts submitted at once; cancelling one waits for two pieces at most */
    uint64_t n_submits;
    uint32_t n_dispatches, n_barriers; /* of one decode step */
};

struct sc_session *sc_session_create(struct sc_engine *engine, struct sc_error *e) SC_CHECK;
void sc_session_destroy(struct sc_session *session); /* accepts NULL */

/*
 * Appends n_tokens tokens to the sequence and computes them, in micro-batches. Writes the logits of the last n_logits
 * of them (0 to n_tokens) to logits (n_logits, n_vocab). On failure the sequence is as long as before the call.
 */
bool sc_session_eval(struct sc_session *session, const sc_token *tokens, size_t n_tokens, float *logits,
                     size_t n_logits, struct sc_error *e) SC_CHECK;

/*
 * The same for at least one token, and writes the *n_top (1 to SC_MAX_CANDIDATES) likeliest tokens to follow the last
 * one, likeliest first, the lowest id of equals; *n_top becomes how many there are, fewer only if no more logits are
 * finite. The device finds them. Who wants one alone is taken to go on with it: where all experts have slots the device
 * begins with it at once, and a call for another token comes behind that.
 */
bool sc_session_eval_top(struct sc_session *session, const sc_token *tokens, size_t n_tokens, struct sc_candidate *top,
                         size_t *n_top, struct sc_error *e) SC_CHECK;

uint32_t sc_session_n_past(const struct sc_session *session); /* tokens in the sequence */

/* Forgets all but the first n_past tokens (no more than there are). */
void sc_session_truncate(struct sc_session *session, uint32_t n_past);

void sc_session_stats(const struct sc_session *session, struct sc_stats *stats);
void sc_session_reset_stats(struct sc_session *session);

#endif
