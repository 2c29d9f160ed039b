/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Nth call of Vulkan, or the Nth allocation, fails, for every N until none does: one sentence with the right code,
 * nothing leaked (the sanitizer looks), and what was there before works on. Linked with --wrap=volkLoadDeviceTable,
 * which is where a device's functions come from.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine.h"
#include "failing_malloc.h"
#include "trial.h"

/* CALL(name, parameters, arguments): the functions that may fail. */
#define CALLS \
    CALL(AllocateMemory, \
         (VkDevice d, const VkMemoryAllocateInfo *i, const VkAllocationCallbacks *a, VkDeviceMemory *o), (d, i, a, o)) \
    CALL(MapMemory, (VkDevice d, VkDeviceMemory m, VkDeviceSize at, VkDeviceSize n, VkMemoryMapFlags f, void **o), \
         (d, m, at, n, f, o)) \
    CALL(BindBufferMemory, (VkDevice d, VkBuffer b, VkDeviceMemory m, VkDeviceSize at), (d, b, m, at)) \
    CALL(CreateBuffer, (VkDevice d, const VkBufferCreateInfo *i, const VkAllocationCallbacks *a, VkBuffer *o), \
         (d, i, a, o)) \
    CALL(CreateSemaphore, \
         (VkDevice d, const VkSemaphoreCreateInfo *i, const VkAllocationCallbacks *a, VkSemaphore *o), (d, i, a, o)) \
    CALL(CreatePipelineLayout, \
         (VkDevice d, const VkPipelineLayoutCreateInfo *i, const VkAllocationCallbacks *a, VkPipelineLayout *o), \
         (d, i, a, o)) \
    CALL(CreatePipelineCache, \
         (VkDevice d, const VkPipelineCacheCreateInfo *i, const VkAllocationCallbacks *a, VkPipelineCache *o), \
         (d, i, a, o)) \
    CALL(CreateShaderModule, \
         (VkDevice d, const VkShaderModuleCreateInfo *i, const VkAllocationCallbacks *a, VkShaderModule *o), \
         (d, i, a, o)) \
    CALL(CreateComputePipelines, \
         (VkDevice d, VkPipelineCache c, uint32_t n, const VkComputePipelineCreateInfo *i, \
          const VkAllocationCallbacks *a, VkPipeline *o), \
         (d, c, n, i, a, o)) \
    CALL(CreateCommandPool, \
         (VkDevice d, const VkCommandPoolCreateInfo *i, const VkAllocationCallbacks *a, VkCommandPool *o), \
         (d, i, a, o)) \
    CALL(AllocateCommandBuffers, (VkDevice d, const VkCommandBufferAllocateInfo *i, VkCommandBuffer *o), (d, i, o)) \
    CALL(ResetCommandPool, (VkDevice d, VkCommandPool p, VkCommandPoolResetFlags f), (d, p, f)) \
    CALL(BeginCommandBuffer, (VkCommandBuffer b, const VkCommandBufferBeginInfo *i), (b, i)) \
    CALL(EndCommandBuffer, (VkCommandBuffer b), (b)) \
    CALL(QueueSubmit, (VkQueue q, uint32_t n, const VkSubmitInfo *i, VkFence f), (q, n, i, f)) \
    CALL(WaitSemaphores, (VkDevice d, const VkSemaphoreWaitInfo *i, uint64_t timeout), (d, i, timeout))

#define CALL(name, parameters, arguments) CALL_##name,
enum call { CALLS N_CALLS };
#undef CALL
#define CALL(name, parameters, arguments) #name,
static const char *const call_names[] = {CALLS};
#undef CALL

/* The fault to come: the call's nth use from now returns result instead. */
static struct {
    enum call call;
    long countdown; /* -1: none to come */
    VkResult result;
    bool happened;
} fault = {.countdown = -1};

static void set_fault(enum call call, long nth, VkResult result)
{
    fault.call = call;
    fault.countdown = nth;
    fault.result = result;
    fault.happened = false;
}

static bool is_due(enum call call)
{
    if (fault.countdown < 0 || call != fault.call || fault.countdown-- > 0)
        return false;
    fault.happened = true;
    return true;
}

static struct VolkDeviceTable real;

/* What a driver that grants only limit_bytes (0: no limit) has granted. */
static struct {
    uint64_t limit_bytes, sum_bytes;
    struct {
        VkDeviceMemory memory;
        uint64_t size_bytes;
    } list[256];
    uint32_t n;
} granted;

#define CALL(name, parameters, arguments) \
    static VKAPI_ATTR VkResult VKAPI_CALL failing_##name parameters \
    { \
        return is_due(CALL_##name) ? fault.result : real.vk##name arguments; \
    }
CALLS
#undef CALL

/* An import that fails is no fault: the experts then go through the ring. test_upload has the imports. */
static VKAPI_ATTR VkResult VKAPI_CALL refuse_import(VkDevice d, VkExternalMemoryHandleTypeFlagBits type,
                                                    const void *pointer, VkMemoryHostPointerPropertiesEXT *out)
{
    (void)d, (void)type, (void)pointer, (void)out;
    return VK_ERROR_INVALID_EXTERNAL_HANDLE;
}

static VKAPI_ATTR VkResult VKAPI_CALL limited_allocate(VkDevice d, const VkMemoryAllocateInfo *i,
                                                       const VkAllocationCallbacks *a, VkDeviceMemory *o)
{
    if (granted.limit_bytes && i->allocationSize > granted.limit_bytes - granted.sum_bytes)
        return VK_ERROR_OUT_OF_DEVICE_MEMORY;
    const VkResult result = failing_AllocateMemory(d, i, a, o);
    if (result == VK_SUCCESS && granted.limit_bytes) {
        assert_true(granted.n < sizeof granted.list / sizeof granted.list[0]);
        granted.list[granted.n].memory = *o;
        granted.list[granted.n++].size_bytes = i->allocationSize;
        granted.sum_bytes += i->allocationSize;
    }
    return result;
}

static VKAPI_ATTR void VKAPI_CALL limited_free(VkDevice d, VkDeviceMemory memory, const VkAllocationCallbacks *a)
{
    for (uint32_t i = 0; memory && i < granted.n; i++)
        if (granted.list[i].memory == memory) {
            granted.sum_bytes -= granted.list[i].size_bytes;
            granted.list[i] = granted.list[--granted.n];
            break;
        }
    real.vkFreeMemory(d, memory, a);
}

void __real_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device);
void __wrap_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device);

void __wrap_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device)
{
    __real_volkLoadDeviceTable(table, device);
    real = *table;
#define CALL(name, parameters, arguments) table->vk##name = failing_##name;
    CALLS
#undef CALL
    table->vkGetMemoryHostPointerPropertiesEXT = refuse_import;
    table->vkAllocateMemory = limited_allocate;
    table->vkFreeMemory = limited_free;
}

static const struct {
    VkResult result;
    enum sc_code code;
} outcomes[] = {
    {VK_ERROR_OUT_OF_HOST_MEMORY, SC_OUT_OF_MEMORY},
    {VK_ERROR_OUT_OF_DEVICE_MEMORY, SC_OUT_OF_DEVICE_MEMORY},
    {VK_ERROR_DEVICE_LOST, SC_DEVICE_LOST},
    {VK_ERROR_MEMORY_MAP_FAILED, SC_OUT_OF_MEMORY},
};
enum { N_OUTCOMES = sizeof outcomes / sizeof outcomes[0] };

enum { N_TOKENS = 14, N_PROMPT = 11 };
static const struct model_spec spec = {
    .type = "q8_0", .d = 32, .ff = 32, .experts = 4, .used = 2, .vocab = 259, .n_ctx = N_TOKENS, .seed = 9};
static struct trial t; /* a model whose experts do not all fit */
static struct sc_engine_params params;

static int make_trial(void **state)
{
    (void)state;
    trial_init(&t, "faults", &spec, N_TOKENS);
    params = (struct sc_engine_params){.n_ctx = N_TOKENS, .n_batch = 8, .kv_type = SC_KV_F32};
    struct sc_engine *engine = trial_engine(&t, params);
    params.vram_bytes = sc_engine_placement(engine)->minimum_bytes;
    params.cpu_experts = SC_CPU_ALL;
    sc_engine_destroy(engine);
    sc_engine_destroy(trial_engine(&t, params)); /* measures what the machine can do, which is kept */
    params.model_path = t.path;
    params.cache_dir = "";
    return 0;
}

static int finish_trial(void **state)
{
    (void)state;
    trial_finish(&t);
    return 0;
}

/*
 * Whether the call failed, which must be so if and only if there was a fault, and then as the outcome says. Where the
 * device's memory ran out there may be a way with less.
 */
static bool failed_rightly(const char *what, bool ok, const struct sc_error *e, long nth, enum sc_code code)
{
    const bool happened = fault.happened;
    fault.countdown = -1;
    if (ok && happened && code == SC_OUT_OF_DEVICE_MEMORY)
        return true;
    if (ok == happened || (!ok && (e->code != code || strlen(e->text) < 10 || strchr(e->text, '\n'))))
        fail_msg("%s, %s %ld, fault %d: ok %d, code %d instead of %d, \"%s\"", what, call_names[fault.call], nth,
                 happened, ok, e->code, code, e->text);
    return happened;
}

static void check_engine(void)
{
    for (int call = 0; call < N_CALLS; call++) {
        bool failed = true;
        for (long nth = 0; failed; nth++) {
            struct sc_error e = {0};
            set_fault((enum call)call, nth, outcomes[nth % N_OUTCOMES].result);
            struct sc_engine *engine = sc_engine_create(&params, &e);
            failed = failed_rightly("engine", engine != NULL, &e, nth, outcomes[nth % N_OUTCOMES].code);
            sc_engine_destroy(engine);
        }
    }
}

static void test_engine(void **state)
{
    (void)state;
    const uint64_t staged = params.vram_bytes;
    check_engine();
    params.vram_bytes = 256u << 20; /* all experts are uploaded while it loads */
    check_engine();
    params.vram_bytes = staged;
}

/* The whole answer, from nothing. False: the model did not fit, as *e says. */
static bool answers(const struct sc_engine_params *p, struct sc_placement *placement, struct sc_error *e)
{
    struct sc_engine *engine = sc_engine_create(p, e);
    struct sc_session *session = engine ? sc_session_create(engine, e) : NULL;
    if (session) {
        *placement = *sc_engine_placement(engine);
        trial_eval(&t, session, N_PROMPT);
        trial_decode(&t, session, N_TOKENS - N_PROMPT);
    }
    sc_session_destroy(session);
    sc_engine_destroy(engine);
    return session != NULL;
}

/* Every allocation of device memory fails once: the model takes less, and answers. */
static void test_no_device_memory(void **state)
{
    (void)state;
    for (int staged = 0; staged < 2; staged++) {
        struct sc_engine_params p = params;
        struct sc_placement placement = {0};
        p.vram_bytes = staged ? params.vram_bytes + 3 * 8192 : 0;
        fault.happened = true;
        for (long nth = 0; fault.happened; nth++) {
            struct sc_error e = {0};
            set_fault(CALL_AllocateMemory, nth, VK_ERROR_OUT_OF_DEVICE_MEMORY);
            if (!answers(&p, &placement, &e))
                fail_msg("%s, allocation %ld: %s", staged ? "staged" : "resident", nth, e.text);
            fault.countdown = -1;
            assert_true(nth > 0 || placement.n_slots > spec.used || staged);
        }
    }
}

/* The driver grants less and less of what it promised: fewer slots, then a smaller micro-batch, then one sentence. */
static void test_shrinking_device(void **state)
{
    (void)state;
    struct sc_engine_params p = params;
    struct sc_placement placement = {0};
    struct sc_error e = {0};
    p.vram_bytes = 32u << 20;
    p.n_batch = 0;
    bool fewer_slots = false, fits = true;
    for (granted.limit_bytes = params.vram_bytes + (128u << 10); fits; granted.limit_bytes -= 8192) {
        fits = answers(&p, &placement, &e);
        assert_int_equal(granted.n, 0);
        fewer_slots = fewer_slots || (fits && placement.n_slots < placement.n_experts_total);
    }
    granted.limit_bytes = 0;
    assert_true(fewer_slots);
    assert_int_equal(e.code, SC_OUT_OF_DEVICE_MEMORY);
}

/* All on one engine: each failure must give back what it took, or the budget is used up soon. */
static void test_session(void **state)
{
    (void)state;
    struct sc_engine *engine = trial_engine(&t, params);
    const uint64_t allocated = engine->gpu->allocated_bytes;
    for (int call = N_CALLS; call-- > 0;) { /* compiling comes before what it would make succeed */
        bool failed = true;
        for (long nth = 0; failed; nth++) {
            struct sc_error e = {0};
            set_fault((enum call)call, nth, outcomes[nth % N_OUTCOMES].result);
            struct sc_session *session = sc_session_create(engine, &e);
            failed = failed_rightly("session", session != NULL, &e, nth, outcomes[nth % N_OUTCOMES].code);
            sc_session_destroy(session);
            assert_int_equal(engine->gpu->allocated_bytes, allocated);
        }
    }
    sc_engine_destroy(engine);
}

/* All on one session: after each failure the same tokens again give the right answer. */
static void check_eval(struct sc_session *session, size_t n_past, size_t n)
{
    sc_session_truncate(session, 0);
    for (int call = 0; call < N_CALLS; call++) {
        bool failed = true;
        for (long nth = 0; failed; nth++) {
            struct sc_error e = {0};
            sc_session_truncate(session, 0);
            trial_eval(&t, session, n_past);
            set_fault((enum call)call, nth, outcomes[nth % N_OUTCOMES].result);
            const bool ok = sc_session_eval(session, t.tokens + n_past, n, t.got, n, &e);
            failed = failed_rightly("eval", ok, &e, nth, outcomes[nth % N_OUTCOMES].code);
            assert_int_equal(sc_session_n_past(session), ok ? n_past + n : n_past);
            sc_session_truncate(session, (uint32_t)n_past);
            trial_eval(&t, session, n);
        }
    }
}

static void test_eval(void **state)
{
    (void)state;
    for (int resident = 0; resident < 2; resident++) {
        struct sc_engine_params p = params;
        p.vram_bytes = resident ? 0 : params.vram_bytes;
        struct sc_engine *engine = trial_engine(&t, p);
        engine->path = resident ? PATH_DEVICE : PATH_BOTH;
        engine->n_host_tokens = resident ? 0 : 1;
        struct sc_session *session = trial_session(&t, engine);
        check_eval(session, 3, N_PROMPT);
        check_eval(session, N_PROMPT, 1);
        sc_session_destroy(session);
        sc_engine_destroy(engine);
    }
}

/* Greedy tokens behind the prompt: a call that fails is made again. Returns how many failed. */
static uint32_t continue_greedily(struct sc_session *session, sc_token *got, uint32_t n, enum sc_code code)
{
    struct sc_candidate best;
    uint32_t n_failed = 0;
    sc_session_truncate(session, 0);
    for (uint32_t i = 0; i < n;) {
        struct sc_error e = {0};
        const uint32_t n_past = sc_session_n_past(session);
        size_t n_top = 1;
        if (i == 0 ? sc_session_eval_top(session, t.tokens, N_PROMPT, &best, &n_top, &e)
                   : sc_session_eval_top(session, &got[i - 1], 1, &best, &n_top, &e)) {
            got[i++] = best.token;
            continue;
        }
        assert_int_equal(e.code, code);
        assert_int_equal(sc_session_n_past(session), n_past);
        assert_true(++n_failed == 1);
    }
    return n_failed;
}

/* A fault in a pass that was begun unasked is told by the call that asks for it, if it is one then still. */
static void test_ahead(void **state)
{
    enum { N = N_TOKENS - N_PROMPT + 1 };
    struct sc_engine_params p = params;
    sc_token want[N], got[N];
    (void)state;
    p.vram_bytes = 0;
    p.cpu_experts = SC_CPU_OFF;
    struct sc_engine *engine = trial_engine(&t, p);
    struct sc_session *session = trial_session(&t, engine);
    assert_int_equal(continue_greedily(session, want, N, SC_OK), 0);
    for (int call = 0; call < N_CALLS; call++) {
        uint32_t n_untold = 0;
        fault.happened = true;
        for (long nth = 0; fault.happened; nth++) {
            set_fault((enum call)call, nth, outcomes[nth % N_OUTCOMES].result);
            const uint32_t n_failed = continue_greedily(session, got, N, outcomes[nth % N_OUTCOMES].code);
            fault.countdown = -1;
            assert_true(n_failed <= fault.happened);
            n_untold += fault.happened - n_failed;
            if (memcmp(got, want, sizeof want) != 0)
                fail_msg("%s %ld: other tokens", call_names[call], nth);
        }
        if (call == CALL_QueueSubmit) /* all but the first */
            assert_int_equal(n_untold, N - 1);
    }
    sc_session_destroy(session);
    sc_engine_destroy(engine);
}

static void test_allocations(void **state)
{
    (void)state;
    bool failed = true;
    long nth;
    for (nth = 0; failed; nth++) {
        struct sc_error e = {0};
        fail_malloc(nth);
        struct sc_engine *engine = sc_engine_create(&params, &e);
        failed = malloc_has_failed();
        fail_malloc(-1);
        /* an engine does without a list of extensions, and without a tokenizer until it is asked for */
        if (!engine && (!failed || e.code != SC_OUT_OF_MEMORY))
            fail_msg("engine, allocation %ld, failed %d: code %d, \"%s\"", nth, failed, e.code, e.text);
        sc_engine_destroy(engine);
    }
    assert_true(nth > 20);

    struct sc_engine *engine = trial_engine(&t, params);
    failed = true;
    for (nth = 0; failed; nth++) {
        struct sc_error e = {0};
        fail_malloc(nth);
        struct sc_session *session = sc_session_create(engine, &e);
        failed = malloc_has_failed();
        fail_malloc(-1);
        if ((session != NULL) == failed || (!session && e.code != SC_OUT_OF_MEMORY))
            fail_msg("session, allocation %ld, failed %d: code %d, \"%s\"", nth, failed, e.code, e.text);
        sc_session_destroy(session);
    }
    assert_true(nth > 5);
    sc_engine_destroy(engine);
}

/* Nothing is allocated per token. */
static void test_eval_allocates_nothing(void **state)
{
    (void)state;
    struct sc_error e = {0};
    struct sc_engine *engine = trial_engine(&t, params);
    struct sc_session *session = trial_session(&t, engine);
    struct sc_candidate best;
    size_t n_top = 1;
    fail_malloc(0);
    const bool ok = sc_session_eval(session, t.tokens, N_PROMPT, t.got, N_PROMPT, &e) &&
                    sc_session_eval(session, t.tokens + N_PROMPT, 1, t.got, 1, &e) &&
                    sc_session_eval_top(session, t.tokens + N_PROMPT + 1, 1, &best, &n_top, &e);
    const bool failed = malloc_has_failed();
    fail_malloc(-1);
    assert_true(ok && !failed);
    sc_session_destroy(session);
    sc_engine_destroy(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine),
        cmocka_unit_test(test_no_device_memory),
        cmocka_unit_test(test_shrinking_device),
        cmocka_unit_test(test_session),
        cmocka_unit_test(test_eval),
        cmocka_unit_test(test_ahead),
        cmocka_unit_test(test_allocations),
        cmocka_unit_test(test_eval_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, make_trial, finish_trial);
}
