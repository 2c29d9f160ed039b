/* SPDX-License-Identifier: Apache-2.0 */
#include "findings.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache_file.h"

static const char MAGIC[] = "SCFIND03"; /* the number counts changes of what is tested, and how */
static const char BEGUN_MAGIC[] = "SCTEST01";
enum {
    KEY_BYTES = 512,
    MAX_BEGUN = 2, /* one lost device may be another program's fault */
};

/* The file: for whom, and what. */
struct record {
    char key[KEY_BYTES]; /* the rest is 0 */
    struct findings findings;
};

/* Stands for all that could make a variant compute something else, or be another one. */
static uint64_t hash_kernels(void)
{
    uint64_t hash = CACHE_HASH_START;
    for (uint32_t i = 0; i < N_KERNELS; i++)
        hash = cache_hash(hash, kernel_infos[i].spirv, kernel_infos[i].spirv_size_bytes);
    for (enum family f = 0; f < N_FAMILIES; f++) {
        uint32_t n;
        const struct variant *v = family_variants(f, &n);
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t numbers[] = {f, v[i].kernel, v[i].tile_rows, v[i].tile_columns, v[i].subgroup_size};
            hash = cache_hash(cache_hash(hash, numbers, sizeof(numbers)), v[i].constants, sizeof(v[i].constants));
        }
    }
    return hash;
}

static void make_key(char key[KEY_BYTES], const struct gpu *gpu)
{
    VkPhysicalDeviceIDProperties id = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES};
    VkPhysicalDeviceProperties2 p = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &id};
    vkGetPhysicalDeviceProperties2(gpu->physical, &p);
    char device[2 * VK_UUID_SIZE + 1], driver[2 * VK_UUID_SIZE + 1];
    for (uint32_t i = 0; i < VK_UUID_SIZE; i++) {
        snprintf(device + 2 * i, 3, "%02x", id.deviceUUID[i]);
        snprintf(driver + 2 * i, 3, "%02x", id.driverUUID[i]);
    }
    memset(key, 0, KEY_BYTES);
    snprintf(key, KEY_BYTES, "scoria %s kernels %016llx rounding %d\ndevice %s %.200s\ndriver %s %08x\n", SC_VERSION,
             (unsigned long long)hash_kernels(), gpu->choices.may_round, device, p.properties.deviceName, driver,
             p.properties.driverVersion);
}

static void make_path(char path[CACHE_PATH_BYTES], const char *cache_dir, const char *what, const char key[KEY_BYTES])
{
    char name[64];
    snprintf(name, sizeof(name), "%s-%016llx.bin", what,
             (unsigned long long)cache_hash(CACHE_HASH_START, key, KEY_BYTES));
    cache_file_path(path, cache_dir, name);
}

static bool read_record(struct record *record, const char *path)
{
    size_t size_bytes = 0;
    uint8_t *bytes = cache_file_read(path, MAGIC, sizeof(*record), &size_bytes);
    const bool ok = bytes && size_bytes == sizeof(*record);
    if (ok)
        memcpy(record, bytes, sizeof(*record));
    free(bytes);
    return ok;
}

static bool is_valid(const struct record *record, const char key[KEY_BYTES])
{
    const struct findings *f = &record->findings;
    bool ok = memcmp(record->key, key, KEY_BYTES) == 0 && f->n_tuned <= MAX_TUNED;
    for (uint32_t i = 0; ok && i < f->n_tuned; i++) {
        uint32_t n = 0;
        ok = f->tuned[i].family < N_FAMILIES && f->tuned[i].type < 32;
        if (ok)
            (void)family_variants(f->tuned[i].family, &n);
        ok = ok && f->tuned[i].variant < n;
    }
    return ok;
}

/* ---- a test that began and never ended ---- */

static void read_begun(struct gpu *gpu)
{
    struct begun_test *b = &gpu->choices.begun;
    size_t size_bytes = 0;
    uint32_t n_variants = 0;
    uint8_t *bytes = cache_file_read(gpu->choices.begun_path, BEGUN_MAGIC, sizeof(*b), &size_bytes);
    *b = (struct begun_test){0};
    if (bytes && size_bytes == sizeof(*b))
        memcpy(b, bytes, sizeof(*b));
    free(bytes);
    if (b->family < N_FAMILIES)
        (void)family_variants((enum family)b->family, &n_variants);
    if (b->variant >= n_variants || b->type >= 32)
        *b = (struct begun_test){0};
}

static void condemn(struct findings *f, const struct begun_test *b)
{
    const uint32_t bit = UINT32_C(1) << b->type;
    f->passed[b->family][b->variant] &= ~bit;
    f->failed[b->family][b->variant] |= bit;
}

void findings_begin_test(struct gpu *gpu, enum family family, uint32_t variant, enum sc_type type)
{
    struct begun_test *b = &gpu->choices.begun;
    const bool again = b->family == family && b->variant == variant && b->type == type;
    *b = (struct begun_test){family, variant, type, again ? b->n + 1 : 1};
    (void)cache_file_write(gpu->choices.begun_path, BEGUN_MAGIC, b, sizeof(*b));
}

void findings_end_test(struct gpu *gpu, enum sc_code outcome)
{
    if (outcome == SC_DEVICE_LOST)
        return;
    gpu->choices.begun.n = 0;
    if (gpu->choices.begun_path[0])
        remove(gpu->choices.begun_path);
}

/* ---- all of it ---- */

/* The last device's: where nothing is kept on disk, the next engine does as this one did. */
static struct record last;
static pthread_mutex_t last_mutex = PTHREAD_MUTEX_INITIALIZER;

void findings_load(struct gpu *gpu, const char *cache_dir)
{
    struct record record = {0};
    char key[KEY_BYTES], path[CACHE_PATH_BYTES];
    make_key(key, gpu);
    make_path(path, cache_dir, "kernels", key);
    pthread_mutex_lock(&last_mutex);
    record = last;
    pthread_mutex_unlock(&last_mutex);
    if (!is_valid(&record, key) && (!read_record(&record, path) || !is_valid(&record, key)))
        record = (struct record){0};
    gpu->choices.findings = record.findings;
    make_path(gpu->choices.begun_path, cache_dir, "test", key);
    read_begun(gpu);
    if (gpu->choices.begun.n >= MAX_BEGUN) {
        condemn(&gpu->choices.findings, &gpu->choices.begun);
        findings_save(gpu, cache_dir);
        findings_end_test(gpu, SC_OK);
    }
}

void findings_save(const struct gpu *gpu, const char *cache_dir)
{
    struct record record = {.findings = gpu->choices.findings}, kept = {0};
    char path[CACHE_PATH_BYTES];
    make_key(record.key, gpu);
    make_path(path, cache_dir, "kernels", record.key);
    pthread_mutex_lock(&last_mutex);
    last = record;
    pthread_mutex_unlock(&last_mutex);
    if (!read_record(&kept, path) || memcmp(&kept, &record, sizeof(record)) != 0)
        (void)cache_file_write(path, MAGIC, &record, sizeof(record));
}

void findings_forget(struct gpu *gpu)
{
    gpu->choices.findings = (struct findings){0};
    pthread_mutex_lock(&last_mutex);
    last = (struct record){0};
    pthread_mutex_unlock(&last_mutex);
}
