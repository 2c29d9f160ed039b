/* SPDX-License-Identifier: Apache-2.0 */
#include "rates.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cache_file.h"
#include "cpu_kernels.h"

static const char MAGIC[] = "SCRATE03"; /* the number counts changes of what is measured, and how */
enum { KEY_BYTES = 1024, N_RATES = sizeof(struct rates) / sizeof(double) };

/* The file: for whom, and what. */
struct record {
    char key[KEY_BYTES]; /* the rest is 0 */
    double values[N_RATES];
    uint64_t is_steady; /* 0: others used the machine meanwhile, so the next start measures again if it has room */
};

static_assert(sizeof(struct rates) == N_RATES * sizeof(double), "rates are doubles and nothing else");

bool rates_are_plausible(const struct rates *r)
{
    double values[N_RATES];
    memcpy(values, r, sizeof(values));
    for (uint32_t i = 0; i < N_RATES; i++) {
        const bool is_seconds = i == offsetof(struct rates, round_trip) / sizeof(double);
        const double least = is_seconds ? 1e-9 : 1e4, most = is_seconds ? 100 : 1e18;
        if (!(values[i] >= least && values[i] <= most))
            return false;
    }
    return true;
}

/* The processor as its maker calls it; what the system tells of it elsewhere. */
static void processor_name(char *name, size_t size)
{
    char line[256];
    snprintf(name, size, "unknown processor");
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof(line), f)) {
        const char *colon = strchr(line, ':');
        if (!colon || (strncmp(line, "model name", 10) != 0 && strncmp(line, "CPU part", 8) != 0))
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(name, size, "%.100s", colon + 1 + (colon[1] == ' '));
        break;
    }
    if (f)
        fclose(f);
}

/* Which layers have which types decides what an average expert costs. */
static uint64_t hash_types(const struct weights *w, const struct config *c)
{
    uint64_t hash = CACHE_HASH_START;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const struct expert_weights *x = &w->layers[l].experts[0];
        const uint32_t types[] = {x->gate.type, x->up.type, x->down.type};
        hash = cache_hash(hash, types, sizeof(types));
    }
    return hash;
}

/* Stands for the kernels of the device, and through the program's age for those of the processor. */
static uint64_t hash_kernels(void)
{
    uint64_t hash = CACHE_HASH_START;
    struct stat program;
    if (stat("/proc/self/exe", &program) == 0)
        hash = cache_hash(hash, &program.st_mtime, sizeof(program.st_mtime));
    for (uint32_t i = 0; i < N_KERNELS; i++)
        hash = cache_hash(hash, kernel_infos[i].spirv, kernel_infos[i].spirv_size_bytes);
    return hash;
}

static void make_key(char key[KEY_BYTES], const struct gpu *gpu, const struct weights *w, const struct config *c,
                     const struct cpu_pool *pool)
{
    struct sc_error ignored = {0};
    const struct cpu_kernels *kernels = cpu_kernels_find(NULL, &ignored);
    VkPhysicalDeviceIDProperties id = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES};
    VkPhysicalDeviceProperties2 p = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &id};
    vkGetPhysicalDeviceProperties2(gpu->physical, &p);
    char device[2 * VK_UUID_SIZE + 1], processor[128];
    for (uint32_t i = 0; i < VK_UUID_SIZE; i++)
        snprintf(device + 2 * i, 3, "%02x", id.deviceUUID[i]);
    processor_name(processor, sizeof(processor));
    memset(key, 0, KEY_BYTES);
    snprintf(key, KEY_BYTES,
             "scoria %s kernels %016llx\ndevice %s %.200s driver %08x\nprocessor %s %s threads %u\n"
             "experts %u layers %u of %u width %u x %u types %016llx\n",
             SC_VERSION, (unsigned long long)hash_kernels(), device, p.properties.deviceName,
             p.properties.driverVersion, processor, kernels ? kernels->name : "", cpu_pool_threads(pool), c->n_layers,
             c->n_experts_used, c->n_experts, c->n_embd, c->n_ff, (unsigned long long)hash_types(w, c));
}

static bool read_record(struct rates *r, bool *steady, const char *path, const char key[KEY_BYTES])
{
    struct record record;
    size_t size_bytes = 0;
    uint8_t *bytes = cache_file_read(path, MAGIC, sizeof(record), &size_bytes);
    bool ok = bytes && size_bytes == sizeof(record);
    if (ok)
        memcpy(&record, bytes, sizeof(record));
    free(bytes);
    ok = ok && memcmp(record.key, key, KEY_BYTES) == 0;
    if (ok)
        memcpy(r, record.values, sizeof(*r));
    ok = ok && rates_are_plausible(r);
    *steady = ok && record.is_steady;
    return ok;
}

/* The last measurement of this process: where nothing is kept on disk, the next engine decides as this one did. */
static struct record last;
static pthread_mutex_t last_mutex = PTHREAD_MUTEX_INITIALIZER;

static void remember(const struct record *record)
{
    pthread_mutex_lock(&last_mutex);
    last = *record;
    pthread_mutex_unlock(&last_mutex);
}

static bool recall(struct rates *r, const char key[KEY_BYTES])
{
    pthread_mutex_lock(&last_mutex);
    const bool same = memcmp(last.key, key, KEY_BYTES) == 0;
    if (same)
        memcpy(r, last.values, sizeof(*r));
    pthread_mutex_unlock(&last_mutex);
    return same;
}

bool rates_get(struct rates *r, struct gpu *gpu, const struct weights *w, const struct config *c, struct cpu_pool *pool,
               const char *cache_dir, bool anew, struct sc_error *e)
{
    struct record record = {0};
    char name[64], path[CACHE_PATH_BYTES];
    make_key(record.key, gpu, w, c, pool);
    snprintf(name, sizeof(name), "rates-%016llx.bin",
             (unsigned long long)cache_hash(CACHE_HASH_START, record.key, KEY_BYTES));
    cache_file_path(path, cache_dir, name);
    struct rates measured;
    bool steady;
    bool has_kept = read_record(r, &steady, path, record.key);
    if (!steady) /* what this process measured it goes by all the same */
        steady = recall(r, record.key);
    has_kept = has_kept || steady;
    if (steady && !anew)
        return true;
    if (!rates_measure(&measured, &steady, gpu, w, c, pool, e))
        return has_kept && e->code == SC_OUT_OF_DEVICE_MEMORY;
    *r = measured;
    memcpy(record.values, r, sizeof(*r));
    record.is_steady = steady;
    remember(&record);
    (void)cache_file_write(path, MAGIC, &record, sizeof(record)); /* if it cannot, the next start measures again */
    return true;
}
