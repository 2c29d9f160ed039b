/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver that fails: each entry of the device table that the GPU layer uses is replaced by one that fails at its Nth
 * call. What fails says so with the right code, leaks nothing, and the device works afterwards.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops.h"

/* name, its parameters as declared, its parameters as passed */
#define CALLS(CALL) \
    CALL(CreateBuffer, (VkDevice d, const VkBufferCreateInfo *i, const VkAllocationCallbacks *a, VkBuffer *o), \
         (d, i, a, o)) \
    CALL(AllocateMemory, \
         (VkDevice d, const VkMemoryAllocateInfo *i, const VkAllocationCallbacks *a, VkDeviceMemory *o), (d, i, a, o)) \
    CALL(BindBufferMemory, (VkDevice d, VkBuffer b, VkDeviceMemory m, VkDeviceSize n), (d, b, m, n)) \
    CALL(MapMemory, (VkDevice d, VkDeviceMemory m, VkDeviceSize f, VkDeviceSize n, VkMemoryMapFlags g, void **o), \
         (d, m, f, n, g, o)) \
    CALL(CreateCommandPool, \
         (VkDevice d, const VkCommandPoolCreateInfo *i, const VkAllocationCallbacks *a, VkCommandPool *o), \
         (d, i, a, o)) \
    CALL(AllocateCommandBuffers, (VkDevice d, const VkCommandBufferAllocateInfo *i, VkCommandBuffer *o), (d, i, o)) \
    CALL(ResetCommandPool, (VkDevice d, VkCommandPool p, VkCommandPoolResetFlags g), (d, p, g)) \
    CALL(BeginCommandBuffer, (VkCommandBuffer c, const VkCommandBufferBeginInfo *i), (c, i)) \
    CALL(EndCommandBuffer, (VkCommandBuffer c), (c)) \
    CALL(CreateShaderModule, \
         (VkDevice d, const VkShaderModuleCreateInfo *i, const VkAllocationCallbacks *a, VkShaderModule *o), \
         (d, i, a, o)) \
    CALL(CreateComputePipelines, \
         (VkDevice d, VkPipelineCache p, uint32_t n, const VkComputePipelineCreateInfo *i, \
          const VkAllocationCallbacks *a, VkPipeline *o), \
         (d, p, n, i, a, o)) \
    CALL(QueueSubmit, (VkQueue q, uint32_t n, const VkSubmitInfo *i, VkFence f), (q, n, i, f)) \
    CALL(WaitSemaphores, (VkDevice d, const VkSemaphoreWaitInfo *i, uint64_t n), (d, i, n))

enum call {
#define CALL(name, declared, passed) CALL_##name,
    CALLS(CALL)
#undef CALL
        N_CALLS
};

static const char *const call_names[] = {
#define CALL(name, declared, passed) "vk" #name,
    CALLS(CALL)
#undef CALL
};

static struct VolkDeviceTable real;
static struct {
    enum call call;
    int left; /* calls until it fails; 0: it does not */
    VkResult result;
} fault;

static bool fails(enum call call)
{
    return fault.left > 0 && fault.call == call && --fault.left == 0;
}

#define CALL(name, declared, passed) \
    static VkResult VKAPI_CALL faulty_##name declared \
    { \
        return fails(CALL_##name) ? fault.result : real.vk##name passed; \
    }
CALLS(CALL)
#undef CALL

/* What the driver has made and not destroyed. */
static int n_live;

#define COUNTED(OBJECTS) OBJECTS(Buffer) OBJECTS(CommandPool) OBJECTS(ShaderModule)
#define OBJECTS(type) \
    static VkResult VKAPI_CALL counted_Create##type(VkDevice d, const Vk##type##CreateInfo *i, \
                                                    const VkAllocationCallbacks *a, Vk##type *o) \
    { \
        const VkResult result = faulty_Create##type(d, i, a, o); \
        n_live += result == VK_SUCCESS; \
        return result; \
    } \
    static void VKAPI_CALL counted_Destroy##type(VkDevice d, Vk##type o, const VkAllocationCallbacks *a) \
    { \
        n_live -= o != VK_NULL_HANDLE; \
        real.vkDestroy##type(d, o, a); \
    }
COUNTED(OBJECTS)
#undef OBJECTS

static VkResult VKAPI_CALL counted_AllocateMemory(VkDevice d, const VkMemoryAllocateInfo *i,
                                                  const VkAllocationCallbacks *a, VkDeviceMemory *o)
{
    const VkResult result = faulty_AllocateMemory(d, i, a, o);
    n_live += result == VK_SUCCESS;
    return result;
}

static void VKAPI_CALL counted_FreeMemory(VkDevice d, VkDeviceMemory o, const VkAllocationCallbacks *a)
{
    n_live -= o != VK_NULL_HANDLE;
    real.vkFreeMemory(d, o, a);
}

static int create(void **state)
{
    struct sc_error e = {0};
    struct gpu *gpu = gpu_create(NULL, "", &e);
    if (!gpu) {
        print_error("%s\n", e.text);
        return -1;
    }
    real = gpu->vk;
    fault.left = 0;
    n_live = 0;
#define CALL(name, declared, passed) gpu->vk.vk##name = faulty_##name;
    CALLS(CALL)
#undef CALL
#define OBJECTS(type) \
    gpu->vk.vkCreate##type = counted_Create##type; \
    gpu->vk.vkDestroy##type = counted_Destroy##type;
    COUNTED(OBJECTS)
#undef OBJECTS
    gpu->vk.vkAllocateMemory = counted_AllocateMemory;
    gpu->vk.vkFreeMemory = counted_FreeMemory;
    *state = gpu;
    return 0;
}

static int destroy(void **state)
{
    gpu_destroy(*state);
    return 0;
}

/* Two buffers and a sum on the device: true if all went well, and then the sum is right. */
static bool work(struct gpu *gpu, struct sc_error *e)
{
    enum { N = 40 };
    struct buffer x = {0}, y = {0};
    struct commands c = {0}, *const stream = &c;
    uint64_t value;
    bool ok = buffer_init(gpu, &x, MEMORY_READBACK, 4 * N, "the sum", e) &&
              buffer_init(gpu, &y, MEMORY_UPLOAD, 4 * N + 4, "the terms", e) && commands_init(&c, gpu, e);
    if (ok) {
        struct tensor a = {.address = x.address, .type = SC_F32, .rows = 1, .cols = N}, b = a, one = a;
        b.address = y.address;
        one.address = y.address + 4 * N;
        one.cols = 1;
        float *values = x.mapped;
        for (int i = 0; i < N; i++) {
            values[i] = (float)i;
            ((float *)y.mapped)[i] = 100;
        }
        ((float *)y.mapped)[N] = 2;
        commands_begin(&c, false);
        op_combine(&c, a, b, (struct routing){.probs = one});
        ok = commands_end(&c, e) && gpu_submit(gpu, &stream, 1, &value, e) && gpu_wait(gpu, value, e);
        for (int i = 0; i < N && ok; i++)
            assert_true(values[i] == (float)(i + 200));
    }
    gpu->vk.vkDeviceWaitIdle(gpu->device); /* a wait that failed left the work running */
    commands_finish(&c);
    buffer_finish(gpu, &y);
    buffer_finish(gpu, &x);
    return ok;
}

static enum sc_code code_of(enum call call, VkResult result)
{
    const bool compiles = call == CALL_CreateShaderModule || call == CALL_CreateComputePipelines;
    const bool refused = compiles && (result == VK_ERROR_UNKNOWN || result == VK_ERROR_OUT_OF_HOST_MEMORY);
    return refused                                   ? SC_UNSUPPORTED
           : result == VK_ERROR_OUT_OF_HOST_MEMORY   ? SC_OUT_OF_MEMORY
           : result == VK_ERROR_OUT_OF_DEVICE_MEMORY ? SC_OUT_OF_DEVICE_MEMORY
                                                     : SC_DEVICE_LOST;
}

static void test_every_call(void **state)
{
    static const VkResult results[] = {VK_ERROR_OUT_OF_HOST_MEMORY, VK_ERROR_OUT_OF_DEVICE_MEMORY, VK_ERROR_DEVICE_LOST,
                                       VK_ERROR_UNKNOWN};
    struct gpu *gpu = *state;
    for (enum call call = 0; call < N_CALLS; call++)
        for (size_t r = 0; r < sizeof results / sizeof results[0]; r++) {
            int n = 0;
            bool failed = true;
            while (failed) { /* the first call, the second, until the work makes no more of them */
                struct sc_error e = {0};
                gpu_drop_pipelines(gpu); /* so that the kernel has to be compiled again */
                fault.call = call;
                fault.result = results[r];
                fault.left = ++n;
                failed = !work(gpu, &e);
                fault.left = 0;
                if (failed && (e.code != code_of(call, results[r]) || !strstr(e.text, gpu->info.name)))
                    fail_msg("%s failed at call %d with %d: code %d, \"%s\"", call_names[call], n, (int)results[r],
                             (int)e.code, e.text);
                if (n_live != 0 || gpu->allocated_bytes != 0)
                    fail_msg("%s failed at call %d: %d objects and %llu bytes are left", call_names[call], n, n_live,
                             (unsigned long long)gpu->allocated_bytes);
            }
            if (n < 2)
                fail_msg("%s is never called", call_names[call]);
        }
    struct sc_error e = {0};
    if (!work(gpu, &e))
        fail_msg("afterwards: %s", e.text);
}

/* The error names what was being made. */
static void test_sentences(void **state)
{
    struct gpu *gpu = *state;
    const struct {
        enum call call;
        const char *part;
    } cases[] = {
        {CALL_AllocateMemory, "the sum"}, {CALL_CreateComputePipelines, "combine"}, {CALL_QueueSubmit, "step"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sc_error e = {0};
        gpu_drop_pipelines(gpu); /* so that the kernel has to be compiled again */
        fault.call = cases[i].call;
        fault.result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
        fault.left = 1;
        assert_false(work(gpu, &e));
        if (!strstr(e.text, cases[i].part) || e.text[strlen(e.text) - 1] == '.')
            fail_msg("not a sentence with \"%s\": %s", cases[i].part, e.text);
    }
}

/* A recording that failed is not submitted by mistake and can be made again in the same stream. */
static void test_record_again(void **state)
{
    struct gpu *gpu = *state;
    struct sc_error e = {0};
    struct buffer x;
    struct commands c, *const stream = &c;
    uint64_t value;
    assert_true(commands_init(&c, gpu, &e));
    assert_true(buffer_init(gpu, &x, MEMORY_READBACK, 1024, "x", &e));
    const struct tensor gate = {.address = x.address, .type = SC_F32, .rows = 1, .cols = 64};
    struct tensor up = gate;
    up.address += 256;
    float *values = x.mapped;
    for (int i = 0; i < 128; i++)
        values[i] = 1;

    static const enum call calls[] = {CALL_BeginCommandBuffer, CALL_ResetCommandPool, CALL_EndCommandBuffer,
                                      CALL_CreateComputePipelines, CALL_QueueSubmit};
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        memset(&e, 0, sizeof e);
        gpu_drop_pipelines(gpu); /* so that the kernel has to be compiled again */
        fault.call = calls[i];
        fault.result = VK_ERROR_OUT_OF_HOST_MEMORY;
        fault.left = 1;
        commands_begin(&c, true);
        op_silu_mul(&c, gate, up);
        assert_false(commands_end(&c, &e) && gpu_submit(gpu, &stream, 1, &value, &e));
        assert_int_equal(e.code, code_of(calls[i], fault.result));
        assert_true(values[0] == 1);
    }
    memset(&e, 0, sizeof e);
    commands_begin(&c, true);
    op_silu_mul(&c, gate, up);
    assert_true(commands_end(&c, &e));
    for (int i = 0; i < 3; i++)
        assert_true(gpu_submit(gpu, &stream, 1, &value, &e) && gpu_wait(gpu, value, &e));
    assert_true(values[0] > 0.2f && values[0] < 0.8f);
    commands_finish(&c);
    buffer_finish(gpu, &x);
    assert_int_equal(n_live, 0);
}

/* Structs that are all zero, or half made, may be finished; twice too. */
static void test_finish_nothing(void **state)
{
    struct gpu *gpu = *state;
    struct sc_error e = {0};
    struct buffer b = {0};
    struct commands c = {0};
    buffer_finish(gpu, &b);
    commands_finish(&c);
    assert_true(buffer_init(gpu, &b, MEMORY_DEVICE, 1, "a byte", &e) && commands_init(&c, gpu, &e));
    for (int i = 0; i < 2; i++) {
        buffer_finish(gpu, &b);
        commands_finish(&c);
    }
    assert_int_equal(n_live, 0);
    assert_int_equal(gpu->allocated_bytes, 0);
    gpu_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call),
        cmocka_unit_test(test_sentences),
        cmocka_unit_test(test_record_again),
        cmocka_unit_test(test_finish_nothing),
    };
    return cmocka_run_group_tests(tests, create, destroy);
}
