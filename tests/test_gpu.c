/* SPDX-License-Identifier: Apache-2.0 */
/* The device: choosing one, opening it when the driver fails, the pipeline cache on disk, memory and its budget. */
#include <ctype.h>
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "gpu.h"

/* ---- a driver that fails while the device is being opened: the linker sends volk's loaders through here ---- */

void __real_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device);
void __wrap_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device);

static int failing_call; /* of those below; 0: none */

static VkResult VKAPI_CALL no_layout(VkDevice d, const VkPipelineLayoutCreateInfo *i, const VkAllocationCallbacks *a,
                                     VkPipelineLayout *o)
{
    (void)d, (void)i, (void)a, (void)o;
    return VK_ERROR_OUT_OF_HOST_MEMORY;
}

static VkResult VKAPI_CALL no_semaphore(VkDevice d, const VkSemaphoreCreateInfo *i, const VkAllocationCallbacks *a,
                                        VkSemaphore *o)
{
    (void)d, (void)i, (void)a, (void)o;
    return VK_ERROR_OUT_OF_DEVICE_MEMORY;
}

static VkResult VKAPI_CALL no_cache(VkDevice d, const VkPipelineCacheCreateInfo *i, const VkAllocationCallbacks *a,
                                    VkPipelineCache *o)
{
    (void)d, (void)i, (void)a, (void)o;
    return VK_ERROR_OUT_OF_HOST_MEMORY;
}

void __wrap_volkLoadDeviceTable(struct VolkDeviceTable *table, VkDevice device)
{
    __real_volkLoadDeviceTable(table, device);
    if (failing_call == 1)
        table->vkCreatePipelineLayout = no_layout;
    else if (failing_call == 2)
        table->vkCreateSemaphore = no_semaphore;
    else if (failing_call == 3)
        table->vkCreatePipelineCache = no_cache;
}

/* ---- what the driver says of itself, changed ---- */

void __real_volkLoadInstanceOnly(VkInstance instance);
void __wrap_volkLoadInstanceOnly(VkInstance instance);

static struct {
    VkDriverId id; /* 0: its own */
    bool is_full;
    PFN_vkGetPhysicalDeviceProperties2 get_properties;
    PFN_vkGetPhysicalDeviceMemoryProperties2 get_memory;
} says;

static void VKAPI_CALL get_properties(VkPhysicalDevice d, VkPhysicalDeviceProperties2 *p)
{
    says.get_properties(d, p);
    for (VkBaseOutStructure *next = p->pNext; next; next = next->pNext)
        if (next->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES && says.id)
            ((VkPhysicalDeviceDriverProperties *)(void *)next)->driverID = says.id;
}

static void VKAPI_CALL get_memory(VkPhysicalDevice d, VkPhysicalDeviceMemoryProperties2 *p)
{
    says.get_memory(d, p);
    for (VkBaseOutStructure *next = p->pNext; next; next = next->pNext)
        if (next->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT && says.is_full) {
            VkPhysicalDeviceMemoryBudgetPropertiesEXT *budget = (void *)next;
            memcpy(budget->heapBudget, budget->heapUsage, sizeof budget->heapBudget);
        }
}

void __wrap_volkLoadInstanceOnly(VkInstance instance)
{
    __real_volkLoadInstanceOnly(instance);
    says.get_properties = vkGetPhysicalDeviceProperties2;
    says.get_memory = vkGetPhysicalDeviceMemoryProperties2;
    vkGetPhysicalDeviceProperties2 = get_properties;
    vkGetPhysicalDeviceMemoryProperties2 = get_memory;
}

/* Other programs have all of the memory: that is not the same as a driver that does not tell. */
static void test_full_device(void **state)
{
    (void)state;
    struct sc_error e = {0};
    struct gpu *gpu = gpu_create(NULL, "", &e);
    assert_non_null(gpu);
    assert_true(gpu_free_bytes(gpu) > 0);
    says.is_full = true;
    assert_true(gpu_free_bytes(gpu) == (gpu->has_budget ? 0 : gpu->info.memory_bytes));
    says.is_full = false;
    gpu_destroy(gpu);
}

/* A driver whose imports of mapped files cost the device is not asked for any. */
static void test_no_imports(void **state)
{
    (void)state;
    struct sc_error e = {0};
    says.id = VK_DRIVER_ID_INTEL_OPEN_SOURCE_MESA;
    struct gpu *gpu = gpu_create(NULL, "", &e);
    says.id = 0;
    assert_non_null(gpu);
    assert_int_equal(gpu->import_alignment, 0);
    gpu_destroy(gpu);
}

static void test_opening_fails(void **state)
{
    (void)state;
    static const enum sc_code codes[] = {SC_OUT_OF_MEMORY, SC_OUT_OF_DEVICE_MEMORY, SC_OUT_OF_MEMORY};
    for (failing_call = 1; failing_call <= 3; failing_call++) {
        struct sc_error e = {0};
        assert_null(gpu_create(NULL, "", &e));
        assert_int_equal(e.code, codes[failing_call - 1]);
        assert_true(e.text[0] != 0);
    }
    failing_call = 0;
}

/* ---- choosing ---- */

static void test_choosing(void **state)
{
    (void)state;
    struct sc_error e = {0};
    struct sc_device_info *devices;
    size_t n;
    assert_true(sc_devices(&devices, &n, &e));
    assert_true(n > 0);
    for (uint32_t i = 0; i < n; i++) {
        char index[12], part[8] = "";
        snprintf(index, sizeof index, "%u", i);
        for (uint32_t k = 0; k + 1 < sizeof part && devices[i].name[k + 2]; k++) {
            const int c = (unsigned char)devices[i].name[k + 2];
            part[k] = (char)(islower(c) ? toupper(c) : tolower(c));
        }
        const char *const names[] = {index, devices[i].name, part};
        for (size_t k = 0; k < 3; k++) {
            memset(&e, 0, sizeof e);
            struct gpu *gpu = gpu_create(names[k], "", &e);
            if (devices[i].unusable[0]) {
                assert_true(!gpu && e.code == SC_NO_DEVICE && strstr(e.text, devices[i].unusable));
                continue;
            }
            if (!gpu)
                fail_msg("device \"%s\": %s", names[k], e.text);
            if (k == 0 || n == 1)
                assert_int_equal(gpu->info.index, i);
            assert_true(gpu->info.memory_bytes > 0 && gpu_free_bytes(gpu) > 0);
            assert_true(gpu_free_bytes(gpu) <= gpu->info.memory_bytes);
            gpu_destroy(gpu);
        }
    }

    char beyond[12];
    snprintf(beyond, sizeof beyond, "%zu", n);
    const char *const wrong[] = {"no such device", beyond, "99999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        memset(&e, 0, sizeof e);
        assert_null(gpu_create(wrong[i], "", &e));
        assert_int_equal(e.code, SC_NO_DEVICE);
        if (!strstr(e.text, wrong[i]))
            fail_msg("\"%s\" is not in: %s", wrong[i], e.text);
        for (size_t k = 0; k < n && k < 3; k++)
            if (!strstr(e.text, devices[k].name))
                fail_msg("\"%s\" is not in: %s", devices[k].name, e.text);
    }
    free(devices);
}

/* ---- the pipeline cache ---- */

/* What is ahead of the driver's bytes in the file, as in pipeline_cache.c. */
struct header {
    char magic[8];
    uint64_t size_bytes, hash;
};

static char folder[64];
static char cache_file[4096];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/scoria-test-gpu-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

/* Removes all files of a folder, and returns how many there were. */
static int empty_folder(const char *path)
{
    DIR *dir = opendir(path);
    assert_non_null(dir);
    int n = 0;
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        char name[400];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        n += remove(name) == 0;
    }
    closedir(dir);
    return n;
}

static int remove_folder(void **state)
{
    (void)state;
    empty_folder(folder);
    return rmdir(folder);
}

/* Opens the device, compiles, runs nothing, closes; returns what the cache file gave. Nothing may be printed. */
static size_t use(const char *dir)
{
    fflush(stderr);
    const int stderr_fd = dup(STDERR_FILENO);
    FILE *printed = tmpfile();
    assert_true(printed && stderr_fd >= 0 && dup2(fileno(printed), STDERR_FILENO) >= 0);

    struct sc_error e = {0};
    struct gpu *gpu = gpu_create(NULL, dir, &e);
    const size_t loaded = gpu ? gpu->cache_loaded_bytes : 0;
    const struct program programs[] = {{.kernel = KERNEL_SILU_MUL}, {.kernel = KERNEL_RMS_NORM}};
    bool ok = gpu && gpu_pipeline(gpu, &programs[0], &e) && gpu_pipeline(gpu, &programs[1], &e);
    if (gpu)
        snprintf(cache_file, sizeof cache_file, "%s", gpu->cache_path);
    gpu_destroy(gpu);

    fflush(stderr);
    const off_t n_printed = lseek(STDERR_FILENO, 0, SEEK_END);
    dup2(stderr_fd, STDERR_FILENO);
    close(stderr_fd);
    fclose(printed);
    if (!ok || e.code)
        fail_msg("%s: %s", dir ? dir : "(none)", e.text);
    assert_int_equal(n_printed, 0);
    return loaded;
}

static uint8_t *read_cache(size_t *size)
{
    FILE *f = fopen(cache_file, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    uint8_t *bytes = malloc(*size);
    assert_true(bytes && fread(bytes, 1, *size, f) == *size);
    fclose(f);
    return bytes;
}

static void write_cache(const uint8_t *bytes, size_t size)
{
    FILE *f = fopen(cache_file, "wb");
    assert_true(f && fwrite(bytes, 1, size, f) == size && fclose(f) == 0);
}

static void test_cache(void **state)
{
    (void)state;
    assert_int_equal(use(folder), 0);
    assert_true(strncmp(cache_file, folder, strlen(folder)) == 0);
    size_t size;
    uint8_t *good = read_cache(&size);
    assert_true(size > sizeof(struct header));
    assert_int_equal(use(folder), size - sizeof(struct header));
    uint8_t *bad = malloc(size + 1);
    assert_non_null(bad);

    /* damaged: magic, size, hash, first and last byte of the driver's */
    const size_t places[] = {0, 7, 8, 12, 15, 16, 23, sizeof(struct header), size / 2, size - 1};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        memcpy(bad, good, size);
        bad[places[i]] ^= 0x10;
        write_cache(bad, size);
        if (use(folder) != 0)
            fail_msg("a cache whose byte %zu is wrong was taken", places[i]);
        assert_true(use(folder) > 0); /* and was put right */
    }

    const size_t lengths[] = {0,
                              1,
                              8,
                              sizeof(struct header) - 1,
                              sizeof(struct header),
                              sizeof(struct header) + 1,
                              sizeof(struct header) + 20,
                              size / 2,
                              size - 1};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        write_cache(good, lengths[i]);
        if (use(folder) != 0)
            fail_msg("a cache cut to %zu bytes was taken", lengths[i]);
    }

    /* another device's: sound, so the driver sees it, and must do without */
    struct header h;
    memcpy(&h, good, sizeof h);
    memcpy(bad, good, size);
    for (size_t i = sizeof h + 8; i < sizeof h + 32 && i < size; i++) /* vendor, device, UUID */
        bad[i] ^= 0x55;
    h.hash = 0xcbf29ce484222325u;
    for (size_t i = sizeof h; i < size; i++)
        h.hash = (h.hash ^ bad[i]) * 0x100000001b3u;
    memcpy(bad, &h, sizeof h);
    write_cache(bad, size);
    use(folder);
    use(folder);
    free(good);
    free(bad);
    assert_int_equal(empty_folder(folder), 1); /* no temporary file stays */
}

static void test_no_cache(void **state)
{
    (void)state;
    assert_int_equal(use(""), 0);
    assert_string_equal(cache_file, "");

    /* a file where a folder should be */
    char path[5000];
    snprintf(path, sizeof path, "%s/file", folder);
    FILE *f = fopen(path, "w");
    assert_true(f && fclose(f) == 0);
    snprintf(path, sizeof path, "%s/file/cache", folder);
    assert_int_equal(use(path), 0);
    snprintf(path, sizeof path, "%s/file", folder);
    assert_int_equal(use(path), 0);

    /* a folder where the file should be, a name that is too long */
    assert_int_equal(empty_folder(folder), 1);
    use(folder);
    assert_true(remove(cache_file) == 0 && mkdir(cache_file, 0700) == 0);
    assert_int_equal(use(folder), 0);
    assert_true(rmdir(cache_file) == 0);
    assert_int_equal(empty_folder(folder), 0);
    memset(path, 'x', sizeof path - 1);
    path[0] = '/';
    path[sizeof path - 1] = 0;
    assert_int_equal(use(path), 0);
    assert_string_equal(cache_file, "");
}

/* ---- memory ---- */

static void test_budget(void **state)
{
    (void)state;
    struct sc_error e = {0};
    struct gpu *gpu = gpu_create(NULL, "", &e);
    assert_non_null(gpu);
    struct buffer b[4];
    uint64_t sum = 0;
    const uint64_t sizes[] = {1, 4096, 100000, 1 << 20};
    for (int i = 0; i < 4; i++) {
        assert_true(buffer_init(gpu, &b[i], i % 3, sizes[i], "a buffer", &e));
        assert_true(b[i].address != 0 && b[i].address % 16 == 0 && b[i].size_bytes == sizes[i]);
        assert_true((b[i].mapped != NULL) == (i % 3 != MEMORY_DEVICE));
        assert_true(buffer_footprint(sizes[i]) >= sizes[i] + BUFFER_PADDING_BYTES);
        sum += buffer_footprint(sizes[i]);
        assert_int_equal(gpu->allocated_bytes, sum);
    }
    for (int i = 0; i < 4; i++)
        buffer_finish(gpu, &b[i]);
    assert_int_equal(gpu->allocated_bytes, 0);

    /* exactly the budget, and not a byte more */
    gpu->budget_bytes = 2 * buffer_footprint(10000);
    assert_true(buffer_init(gpu, &b[0], MEMORY_DEVICE, 10000, "one", &e));
    assert_true(buffer_init(gpu, &b[1], MEMORY_DEVICE, 10000, "two", &e));
    assert_false(buffer_init(gpu, &b[2], MEMORY_DEVICE, 1, "three", &e));
    assert_int_equal(e.code, SC_OUT_OF_DEVICE_MEMORY);
    assert_non_null(strstr(e.text, "three"));
    assert_non_null(strstr(e.text, "budget"));
    assert_null(b[2].handle);
    assert_int_equal(gpu->allocated_bytes, gpu->budget_bytes);
    buffer_finish(gpu, &b[1]);
    memset(&e, 0, sizeof e);
    assert_false(buffer_init(gpu, &b[1], MEMORY_DEVICE, 20000, "two", &e));
    assert_int_equal(e.code, SC_OUT_OF_DEVICE_MEMORY);
    memset(&e, 0, sizeof e);
    assert_true(buffer_init(gpu, &b[1], MEMORY_UPLOAD, 10000, "two", &e));

    /* a budget below what is there already */
    gpu->budget_bytes = 1;
    assert_false(buffer_init(gpu, &b[2], MEMORY_DEVICE, 1, "three", &e));
    assert_int_equal(e.code, SC_OUT_OF_DEVICE_MEMORY);
    buffer_finish(gpu, &b[1]);
    buffer_finish(gpu, &b[0]);
    assert_int_equal(gpu->allocated_bytes, 0);
    gpu_destroy(gpu);
}

/* Sizes that no device has, also those that wrap when they are padded. */
static void test_impossible_sizes(void **state)
{
    (void)state;
    struct sc_error e = {0};
    struct gpu *gpu = gpu_create(NULL, "", &e);
    assert_non_null(gpu);
    const uint64_t sizes[] = {UINT64_MAX,        UINT64_MAX - BUFFER_PADDING_BYTES,
                              UINT64_MAX - 4095, UINT64_MAX / 2,
                              1ull << 60,        gpu->max_allocation};
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof sizes[0]; i++) {
        struct buffer b;
        gpu->budget_bytes = i % 2 ? 1 << 20 : 0;
        memset(&e, 0, sizeof e);
        if (buffer_init(gpu, &b, MEMORY_DEVICE, sizes[i / 2], "a huge buffer", &e))
            fail_msg("%llu bytes were allocated", (unsigned long long)sizes[i / 2]);
        assert_true(e.code == SC_OUT_OF_DEVICE_MEMORY || (e.code == SC_UNSUPPORTED && i % 2 == 0));
        assert_non_null(strstr(e.text, "a huge buffer"));
        assert_int_equal(gpu->allocated_bytes, 0);
    }
    gpu_destroy(gpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choosing),
        cmocka_unit_test(test_full_device),
        cmocka_unit_test(test_no_imports),
        cmocka_unit_test(test_opening_fails),
        cmocka_unit_test_setup_teardown(test_cache, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_no_cache, make_folder, remove_folder),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_impossible_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
