/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver that computes wrongly: kernels that it subtracts in where it should add. The self-test sees each of them,
 * the next variant takes its place, and only a device without any right one is refused. What was found out is kept.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "autotune.h"
#include "engine.h"
#include "findings.h"
#include "self_test.h"
#include "trial.h"

/* ---- the driver: the linker sends volk's loader through here ---- */

void __real_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device);
void __wrap_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device);

#define NO_PIPELINE VK_NOT_READY
enum { MAX_WRONG = 64, OP_NOP = 0, OP_COPY = 83, OP_FADD = 129, OP_FSUB = 131, OP_MATRIX_MUL_ADD = 4459 };

static struct {
    struct program wrong[MAX_WRONG]; /* these are miscompiled */
    uint32_t n_wrong;
    VkResult refusal; /* to compile them, instead; NO_PIPELINE: success without one */
    uint32_t n_compiled;
    enum kernel kernel; /* of the last module */
    PFN_vkCreateShaderModule create_module;
    PFN_vkDestroyShaderModule destroy_module;
    PFN_vkCreateComputePipelines create_pipelines;
} driver;

static VkResult VKAPI_CALL create_module(VkDevice d, const VkShaderModuleCreateInfo *info,
                                         const VkAllocationCallbacks *a, VkShaderModule *module)
{
    for (uint32_t k = 0; k < N_KERNELS; k++)
        if (kernel_infos[k].spirv == info->pCode)
            driver.kernel = k;
    return driver.create_module(d, info, a, module);
}

static bool is_wrong(const VkComputePipelineCreateInfo *info)
{
    const VkSpecializationInfo *s = info->stage.pSpecializationInfo;
    for (uint32_t i = 0; i < driver.n_wrong; i++) {
        const struct program *wrong = &driver.wrong[i];
        uint32_t constants[N_CONSTANTS];
        memcpy(constants, s->pData, sizeof constants);
        constants[CONSTANT_HEAD_DIM] = wrong->constants[CONSTANT_HEAD_DIM]; /* for any */
        if (wrong->kernel == driver.kernel && memcmp(wrong->constants, constants, sizeof constants) == 0)
            return true;
    }
    return false;
}

/* The last module, with all sums of floats become differences, and matrices that do not add to their sums. */
static VkShaderModule wrong_module(VkDevice d)
{
    const struct kernel_info *info = &kernel_infos[driver.kernel];
    uint32_t *words = malloc(info->spirv_size_bytes), n = 0;
    assert_non_null(words);
    memcpy(words, info->spirv, info->spirv_size_bytes);
    for (size_t i = 5; i < info->spirv_size_bytes / 4; i += words[i] >> 16)
        if ((words[i] & 0xffff) == OP_FADD) {
            words[i] = (words[i] & 0xffff0000) | OP_FSUB;
            n++;
        } else if ((words[i] & 0xffff) == OP_MATRIX_MUL_ADD) {
            const uint32_t length = words[i] >> 16, sum = words[i + 5];
            words[i] = 4u << 16 | OP_COPY;
            words[i + 3] = sum;
            for (uint32_t k = 4; k < length; k++)
                words[i + k] = 1u << 16 | OP_NOP;
            n++;
        }
    assert_true(n > 0);
    VkShaderModule module;
    const VkShaderModuleCreateInfo create = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = info->spirv_size_bytes, .pCode = words};
    assert_int_equal(driver.create_module(d, &create, NULL, &module), VK_SUCCESS);
    free(words);
    return module;
}

static VkResult VKAPI_CALL create_pipelines(VkDevice d, VkPipelineCache cache, uint32_t n,
                                            const VkComputePipelineCreateInfo *info, const VkAllocationCallbacks *a,
                                            VkPipeline *pipeline)
{
    driver.n_compiled++;
    if (!is_wrong(info))
        return driver.create_pipelines(d, cache, n, info, a, pipeline);
    if (driver.refusal) {
        *pipeline = VK_NULL_HANDLE;
        return driver.refusal == NO_PIPELINE ? VK_SUCCESS : driver.refusal;
    }
    VkComputePipelineCreateInfo changed = *info;
    changed.stage.module = wrong_module(d);
    const VkResult result = driver.create_pipelines(d, cache, n, &changed, a, pipeline);
    driver.destroy_module(d, changed.stage.module, NULL);
    return result;
}

void __wrap_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device)
{
    __real_volkLoadDeviceTable(table, device);
    driver.create_module = table->vkCreateShaderModule;
    driver.destroy_module = table->vkDestroyShaderModule;
    driver.create_pipelines = table->vkCreateComputePipelines;
    table->vkCreateShaderModule = create_module;
    table->vkCreateComputePipelines = create_pipelines;
}

static void make_wrong(const struct gpu *gpu, enum family family, uint32_t variant, enum sc_type type)
{
    uint32_t n;
    assert_true(variant_is_usable(gpu, family, variant, type) && driver.n_wrong < MAX_WRONG);
    driver.wrong[driver.n_wrong++] = variant_program(&family_variants(family, &n)[variant], type);
}

/* ---- tests ---- */

/* In turn; of weights, and of caches. */
static const enum sc_type types[] = {SC_F32, SC_Q4_0, SC_Q6_K}, cache_types[] = {SC_F16, SC_Q8_0, SC_F16};

static struct gpu *open_gpu(void)
{
    struct sc_error e = {0};
    driver.n_wrong = 0;
    driver.refusal = VK_SUCCESS;
    struct gpu *gpu = gpu_create(NULL, "", &e);
    if (!gpu)
        fail_msg("%s", e.text);
    gpu->choices.may_round = true;
    findings_forget(gpu);
    return gpu;
}

static bool test_one(struct gpu *gpu, enum family family, uint32_t variant, enum sc_type type)
{
    struct sc_error e = {0};
    bool is_right = false;
    if (!self_test_variant(gpu, family, variant, type, (struct listener){0}, &is_right, &e))
        fail_msg("%s: %s", family_names[family], e.text);
    return is_right;
}

/* Every variant that the device has, as it is and miscompiled. */
static void test_every_variant(void **state)
{
    (void)state;
    uint32_t n, n_tested = 0;
    struct gpu *gpu = open_gpu();
    for (enum family family = 0; family < N_FAMILIES; family++)
        for (uint32_t i = (family_variants(family, &n), 0); i < n; i++) {
            const char *name = family_variants(family, &n)[i].name;
            enum sc_type type = SC_F32;
            uint32_t tries = 0;
            do
                type = (family_has_cache(family) ? cache_types : types)[(n_tested + tries) % 3];
            while (!variant_is_usable(gpu, family, i, type) && ++tries < 3);
            if (tries == 3)
                continue;
            n_tested++;
            if (!test_one(gpu, family, i, type))
                fail_msg("%s (%s) fails the self-test with %s", family_names[family], name, sc_type_info(type)->name);
            findings_forget(gpu);
            gpu_drop_pipelines(gpu);
            make_wrong(gpu, family, i, type);
            if (test_one(gpu, family, i, type))
                fail_msg("%s (%s) passes the self-test with %s though it is wrong", family_names[family], name,
                         sc_type_info(type)->name);
            if (variant_is_usable(gpu, family, i, type))
                fail_msg("%s (%s) may still be used", family_names[family], name);
            findings_forget(gpu);
            gpu_drop_pipelines(gpu);
            driver.n_wrong = 0;
        }
    print_message("%u variants of %u families\n", n_tested, N_FAMILIES);
    gpu_destroy(gpu);
}

static struct {
    uint32_t n_warnings;
    char last[600];
} heard;

static void hear(void *user, enum sc_log_level level, const char *text)
{
    (void)user;
    if (level != SC_LOG_WARNING)
        return;
    heard.n_warnings++;
    snprintf(heard.last, sizeof heard.last, "%s", text);
}

/* The first variant of each family that the device would take. */
static uint32_t first_variant(const struct gpu *gpu, enum family family, enum sc_type type)
{
    uint32_t i = 0;
    while (!variant_is_usable(gpu, family, i, type))
        i++;
    return i;
}

static const struct model_spec spec = {.type = "q8_0", .d = 64, .ff = 96, .n_ctx = 24, .seed = 9};

/* Of the model's weights, its router and its cache. */
static enum sc_type type_for(enum family family)
{
    return family_has_cache(family) || family == FAMILY_MATMUL_EXACT ? SC_F32 : SC_Q8_0;
}

/* Families that would take it first. */
static uint32_t n_with_kernel(const struct gpu *gpu, enum kernel kernel)
{
    uint32_t n, n_families = 0;
    for (enum family family = 0; family < N_FAMILIES; family++) {
        const enum sc_type type = type_for(family);
        const struct variant *first = &family_variants(family, &n)[first_variant(gpu, family, type)];
        n_families += variant_program(first, type).kernel == kernel;
    }
    return n_families;
}

/* A model on a driver that is wrong about what it would take first: one warning for each family, and the right answers
 * all the same. */
static void check_next_rung(bool refuses)
{
    struct trial t;
    trial_init(&t, refuses ? "refused" : "wrong", &spec, 24);
    static const enum family families[] = {FAMILY_MATVEC, FAMILY_MATMUL_FEW, FAMILY_MATMUL, FAMILY_ATTENTION,
                                           FAMILY_ATTENTION_MANY};
    static const VkResult refusals[] = {VK_ERROR_UNKNOWN, VK_ERROR_OUT_OF_HOST_MEMORY, NO_PIPELINE};
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        uint32_t n;
        struct gpu *gpu = open_gpu();
        gpu->choices.may_round = false; /* as an engine on a processor */
        const enum family family = families[i];
        const enum sc_type type = type_for(family);
        const uint32_t first = first_variant(gpu, family, type);
        const uint32_t n_wrong = n_with_kernel(gpu, variant_program(&family_variants(family, &n)[first], type).kernel);
        const bool has_another = first + 1 < (family_variants(family, &n), n);
        make_wrong(gpu, family, first, type);
        gpu_destroy(gpu);
        driver.refusal = refuses ? refusals[i % (sizeof refusals / sizeof refusals[0])] : VK_SUCCESS;
        heard.n_warnings = 0;
        struct sc_engine_params params = {.model_path = t.path, .cache_dir = "", .log = hear, .kv_type = SC_KV_F32};
        struct sc_error e = {0};
        struct sc_engine *engine = sc_engine_create(&params, &e);
        if (!has_another) {
            assert_null(engine);
            assert_int_equal(e.code, SC_NO_DEVICE);
            assert_non_null(strstr(e.text, "cannot run Scoria"));
            continue;
        }
        if (!engine)
            fail_msg("%s", e.text);
        if (heard.n_warnings != n_wrong)
            fail_msg("%s: %u warnings, not %u", family_names[family], heard.n_warnings, n_wrong);
        assert_non_null(strstr(heard.last, family_variants(family, &n)[first].name));
        assert_ptr_not_equal(variant_of(engine->gpu, family, type, 64, 64), &family_variants(family, &n)[first]);
        struct sc_session *session = trial_session(&t, engine);
        trial_eval(&t, session, 20);
        trial_decode(&t, session, 4);
        sc_session_destroy(session);
        sc_engine_destroy(engine);
        driver.n_wrong = 0;
    }
    trial_finish(&t);
}

static void test_next_rung(void **state)
{
    (void)state;
    check_next_rung(false);
}

static void test_refused_kernel(void **state)
{
    (void)state;
    check_next_rung(true);
}

static void test_nothing_right(void **state)
{
    (void)state;
    uint32_t n, type_bits[N_FAMILIES] = {[FAMILY_MATMUL] = UINT32_C(1) << SC_Q4_0};
    struct gpu *gpu = open_gpu();
    struct sc_error e = {0};
    (void)family_variants(FAMILY_MATMUL, &n);
    for (uint32_t i = 0; i < n; i++)
        if (variant_is_usable(gpu, FAMILY_MATMUL, i, SC_Q4_0))
            make_wrong(gpu, FAMILY_MATMUL, i, SC_Q4_0);
    assert_false(self_test(gpu, type_bits, (struct listener){0}, &e));
    assert_int_equal(e.code, SC_NO_DEVICE);
    assert_non_null(strstr(e.text, gpu->info.name));
    assert_non_null(strstr(e.text, "matmul"));
    gpu_destroy(gpu);
}

static void test_list_of_wrong_device(void **state)
{
    (void)state;
    uint32_t n;
    struct gpu *gpu = open_gpu();
    struct sc_variant left, *variants = &left;
    size_t n_listed = 1;
    struct sc_error e = {0};
    (void)family_variants(FAMILY_DOWN, &n);
    for (uint32_t i = 0; i < n; i++)
        if (variant_is_usable(gpu, FAMILY_DOWN, i, SC_Q4_K))
            make_wrong(gpu, FAMILY_DOWN, i, SC_Q4_K);
    assert_false(sc_device_variants(gpu->info.index, "", false, &variants, &n_listed, &e));
    assert_int_equal(e.code, SC_NO_DEVICE);
    assert_null(variants);
    assert_int_equal(n_listed, 0);
    gpu_destroy(gpu);
}

/* A device that is lost while it compiles says nothing about the kernel. */
static void test_lost_device(void **state)
{
    (void)state;
    struct gpu *gpu = open_gpu();
    struct sc_error e = {0};
    bool is_right;
    const uint32_t first = first_variant(gpu, FAMILY_MATVEC, SC_Q4_0);
    make_wrong(gpu, FAMILY_MATVEC, first, SC_Q4_0);
    driver.refusal = VK_ERROR_DEVICE_LOST;
    assert_false(self_test_variant(gpu, FAMILY_MATVEC, first, SC_Q4_0, (struct listener){0}, &is_right, &e));
    assert_int_equal(e.code, SC_DEVICE_LOST);
    assert_true(variant_is_usable(gpu, FAMILY_MATVEC, first, SC_Q4_0));
    gpu_destroy(gpu);
}

/* What is kept says that all variants are wrong: not without testing them once more. */
static void test_stale_findings(void **state)
{
    (void)state;
    const uint32_t type_bits[N_FAMILIES] = {[FAMILY_MATMUL] = UINT32_C(1) << SC_Q4_0};
    struct gpu *gpu = open_gpu();
    struct sc_error e = {0};
    memset(gpu->choices.findings.failed, 0xFF, sizeof gpu->choices.findings.failed);
    if (!self_test(gpu, type_bits, (struct listener){0}, &e))
        fail_msg("%s", e.text);
    gpu_destroy(gpu);
}

/* A fused kernel takes what was timed of matvec, once it has been tested itself. */
static void test_tuned_variant(void **state)
{
    (void)state;
    const uint32_t type_bits[N_FAMILIES] = {[FAMILY_DOWN] = UINT32_C(1) << SC_Q4_0};
    for (int wrong = 0; wrong < 2; wrong++) {
        uint32_t n;
        struct gpu *gpu = open_gpu();
        struct findings *f = &gpu->choices.findings;
        struct sc_error e = {0};
        const uint32_t first = first_variant(gpu, FAMILY_DOWN, SC_Q4_0);
        const struct variant *variants = family_variants(FAMILY_DOWN, &n);
        uint32_t tuned = n - 1;
        while (tuned > first && !variant_is_usable(gpu, FAMILY_DOWN, tuned, SC_Q4_0))
            tuned--;
        assert_true(tuned > first);
        f->tuned[f->n_tuned++] =
            (struct tuned){.family = FAMILY_MATVEC, .type = SC_Q4_0, .rows = 64, .cols = 64, .variant = tuned};
        if (wrong)
            make_wrong(gpu, FAMILY_DOWN, tuned, SC_Q4_0);
        assert_ptr_equal(variant_of(gpu, FAMILY_DOWN, SC_Q4_0, 64, 64), &variants[first]);
        heard.n_warnings = 0;
        if (!self_test(gpu, type_bits, (struct listener){.log = hear}, &e))
            fail_msg("%s", e.text);
        assert_int_equal(heard.n_warnings, wrong);
        assert_ptr_equal(variant_of(gpu, FAMILY_DOWN, SC_Q4_0, 64, 64), &variants[wrong ? first : tuned]);
        gpu_destroy(gpu);
    }
}

static void test_warning_while_tuning(void **state)
{
    (void)state;
    struct gpu *gpu = open_gpu();
    struct findings *f = &gpu->choices.findings;
    struct sc_error e = {0};
    const struct matrix_shape shape = {SC_Q8_0, 64, 256, 0};
    const struct autotune a = {
        .matrices = &shape, .n_matrices = 1, .max_bytes = 8 << 20, .seconds = 1e9, .listener = {.log = hear}};
    memset(f->failed[FAMILY_MATMUL_FEW], 0xFF, sizeof f->failed[0]);
    memset(f->failed[FAMILY_MATMUL], 0xFF, sizeof f->failed[0]);
    const uint32_t first = first_variant(gpu, FAMILY_MATVEC, SC_Q8_0);
    make_wrong(gpu, FAMILY_MATVEC, first, SC_Q8_0);
    heard.n_warnings = 0;
    if (!autotune(gpu, &a, &e))
        fail_msg("%s", e.text);
    assert_int_equal(heard.n_warnings, 1);
    assert_int_equal(f->n_tuned, 1);
    assert_int_not_equal(f->tuned[0].variant, first);
    gpu_destroy(gpu);
}

/* ---- the cache folder ---- */

static char folder[32];

static void make_folder(void)
{
    strcpy(folder, "self-test-cache-XXXXXX");
    assert_non_null(mkdtemp(folder));
}

static char *cache_file(void)
{
    static char path[600];
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    path[0] = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (strncmp(entry->d_name, "kernels-", 8) == 0)
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    closedir(dir);
    return path;
}

static void remove_folder(void)
{
    unlink(cache_file());
    assert_int_equal(rmdir(folder), 0); /* nothing else is left in it */
}

/* Tests what is not known yet; returns how many kernels it had to compile for that. */
static uint32_t start(struct gpu *gpu)
{
    const uint32_t type_bits[N_FAMILIES] = {UINT32_C(1) << SC_Q4_0 | UINT32_C(1) << SC_F32, UINT32_C(1) << SC_F32};
    struct sc_error e = {0};
    gpu_drop_pipelines(gpu);
    findings_forget(gpu); /* what this process knows, not the file */
    findings_load(gpu, folder);
    driver.n_compiled = 0;
    if (!self_test(gpu, type_bits, (struct listener){.log = hear}, &e))
        fail_msg("%s", e.text);
    findings_save(gpu, folder);
    return driver.n_compiled;
}

static void test_cache(void **state)
{
    (void)state;
    make_folder();
    struct gpu *gpu = open_gpu();
    make_wrong(gpu, FAMILY_MATVEC, first_variant(gpu, FAMILY_MATVEC, SC_Q4_0), SC_Q4_0);
    heard.n_warnings = 0;
    const uint32_t n = start(gpu);
    assert_true(n >= 4);
    assert_int_equal(heard.n_warnings, 1);
    assert_int_equal(start(gpu), 0);
    assert_int_equal(heard.n_warnings, 1);

    static const struct {
        long at;
        bool cut;
    } damages[] = {{4, false}, {30, false}, {300, false}, {1000, false}, {20, true}, {700, true}};
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        if (damages[i].cut) {
            assert_int_equal(truncate(cache_file(), damages[i].at), 0);
        } else {
            FILE *f = fopen(cache_file(), "r+b");
            assert_non_null(f);
            assert_int_equal(fseek(f, damages[i].at, SEEK_SET), 0);
            const int byte = fgetc(f);
            fseek(f, damages[i].at, SEEK_SET);
            fputc(byte ^ 0x10, f);
            fclose(f);
        }
        if (start(gpu) != n)
            fail_msg("a file damaged at %ld was believed", damages[i].at);
        assert_int_equal(start(gpu), 0);
    }
    gpu_destroy(gpu);
    remove_folder();
}

/* A start that knows what earlier ones left in the folder, and whose test of the first variant ends like this. */
static bool survives(VkResult outcome, bool *is_left_out)
{
    static const enum sc_type type = SC_Q4_0;
    struct sc_error e = {0};
    bool is_right;
    struct gpu *gpu = open_gpu();
    const uint32_t first = first_variant(gpu, FAMILY_MATVEC, type);
    findings_load(gpu, folder);
    *is_left_out = !variant_is_usable(gpu, FAMILY_MATVEC, first, type);
    if (outcome != VK_SUCCESS && !*is_left_out)
        make_wrong(gpu, FAMILY_MATVEC, first, type);
    driver.refusal = outcome;
    const bool ok = self_test_variant(gpu, FAMILY_MATVEC, first, type, (struct listener){0}, &is_right, &e);
    gpu_destroy(gpu);
    return ok;
}

/* A variant at which the device is lost start after start, which may as well be a process that crashes: not for ever.
 */
static void test_fatal_variant(void **state)
{
    (void)state;
    static const struct {
        VkResult outcome;
        bool survives, is_left_out;
    } starts[] = {
        {VK_ERROR_DEVICE_LOST, false, false}, /* perhaps another program's fault */
        {VK_SUCCESS, true, false},            /* so it was */
        {VK_ERROR_DEVICE_LOST, false, false},
        {VK_ERROR_OUT_OF_DEVICE_MEMORY, false, false}, /* an end */
        {VK_ERROR_DEVICE_LOST, false, false},
        {VK_ERROR_DEVICE_LOST, false, false},
        {VK_ERROR_DEVICE_LOST, true, true},
        {VK_SUCCESS, true, true},
    };
    make_folder();
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        bool is_left_out;
        const bool ok = survives(starts[i].outcome, &is_left_out);
        if (ok != starts[i].survives || is_left_out != starts[i].is_left_out)
            fail_msg("start %zu: survives %d, the variant is left out %d", i, ok, is_left_out);
    }
    remove_folder();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_variant),        cmocka_unit_test(test_next_rung),
        cmocka_unit_test(test_refused_kernel),       cmocka_unit_test(test_nothing_right),
        cmocka_unit_test(test_list_of_wrong_device), cmocka_unit_test(test_lost_device),
        cmocka_unit_test(test_stale_findings),       cmocka_unit_test(test_tuned_variant),
        cmocka_unit_test(test_warning_while_tuning), cmocka_unit_test(test_cache),
        cmocka_unit_test(test_fatal_variant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
