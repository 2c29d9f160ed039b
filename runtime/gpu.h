/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The GPU layer: device, memory, pipelines and command streams. It knows Vulkan and nothing of models. Kernels take
 * device addresses in push constants, so there are no descriptor sets; every pipeline shares one layout.
 */
#ifndef SCORIA_GPU_H
#define SCORIA_GPU_H

#include <volk.h>

#include "kernels.h"
#include "scoria.h"
#include "variants.h"

/* A compiled program. */
struct pipeline {
    struct program program;
    VkPipeline handle;
    struct pipeline *next; /* of the same kernel */
};

/* A queue of the device, and the timeline that counts its submissions. */
struct queue {
    VkQueue handle;
    uint32_t family;
    VkPipelineStageFlags stages; /* what its commands run in */
    VkSemaphore timeline;
    uint64_t submitted; /* the timeline's value once all is done */
};

struct gpu {
    VkInstance instance;
    VkPhysicalDevice physical;
    VkDevice device;
    struct VolkDeviceTable vk;
    struct queue compute;
    struct queue transfer;      /* for uploads: a queue of its own where the device has one, else the same VkQueue */
    uint64_t transfers_awaited; /* value of transfer.timeline that the submissions so far wait for */
    VkPipelineLayout layout;
    VkPipelineCache cache;
    struct pipeline *pipelines[N_KERNELS]; /* made when first used */
    VkSemaphore host_timeline;             /* counts what the host has got ready: gpu_signal */
    uint64_t host_signalled;               /* its value */
    uint64_t n_submits;                    /* calls of the queues, for the statistics */
    double piece_work;                     /* multiply-adds of a dispatch, and of a piece of a stream, at most */
    VkPhysicalDeviceMemoryProperties memory;
    VkDeviceSize max_allocation; /* bytes of one VkBuffer with its memory */
    uint64_t allocated_bytes;    /* by buffer_init and not yet finished */
    uint64_t budget_bytes;       /* buffer_init fails beyond; 0: no bound */
    struct sc_device_info info;
    struct choices choices;    /* which kernels it uses */
    char cache_path[4096];     /* of the pipeline cache; "": none */
    size_t cache_loaded_bytes; /* what the file gave */
    bool has_budget;           /* VK_EXT_memory_budget */
    uint64_t import_alignment; /* of host memory that the device can read in place; 0: it cannot */
};

/*
 * Opens the device that `device` names (see sc_engine_params) and its pipeline cache in cache_dir. The caller owns the
 * result. gpu_destroy writes the cache back and accepts NULL; all buffers and commands end before it.
 */
struct gpu *gpu_create(const char *device, const char *cache_dir, struct sc_error *e) SC_CHECK;
void gpu_destroy(struct gpu *gpu);

/* Bytes that the driver grants to this process now, on the device-local heap; the heap's size if it does not tell. */
uint64_t gpu_free_bytes(const struct gpu *gpu);

/* ---- memory.c ---- */

enum memory_kind {
    MEMORY_DEVICE,   /* device-local, no mapping */
    MEMORY_UPLOAD,   /* mapped, written by the host, read by the device */
    MEMORY_READBACK, /* mapped and cached, written by the device, read by the host */
};

struct buffer {
    VkBuffer handle;
    VkDeviceMemory memory;
    VkDeviceAddress address; /* a multiple of 256 at least where the driver says so, of 16 always; 0 if imported */
    void *mapped;            /* NULL for MEMORY_DEVICE and imported memory; coherent */
    uint64_t size_bytes;
    bool imported;
};

/* What kernels may read beyond the end of a matrix, since quant.glsl reads whole words: allocations have it behind. */
enum { BUFFER_PADDING_BYTES = 64 };

/* What buffer_init takes off the budget for a buffer of this size. */
uint64_t buffer_footprint(uint64_t size_bytes);

bool buffer_init(struct gpu *gpu, struct buffer *b, enum memory_kind kind, uint64_t size_bytes, const char *what,
                 struct sc_error *e) SC_CHECK;
void buffer_finish(struct gpu *gpu, struct buffer *b); /* accepts a zeroed struct */

/*
 * Makes host memory a buffer that transfers may read: page-locked, no copy. size_bytes and the address are multiples of
 * gpu->import_alignment; the memory outlives the buffer. Drivers refuse some memory, such as mapped files: then false,
 * and *e says why. Takes nothing off the budget.
 */
bool buffer_import(struct gpu *gpu, struct buffer *b, const void *memory, uint64_t size_bytes,
                   struct sc_error *e) SC_CHECK;

/* ---- pipeline.c ---- */

/*
 * The compiled program, which it compiles unless it has already; VK_NULL_HANDLE: it cannot, and *e says why,
 * SC_UNSUPPORTED where the driver refuses it.
 */
VkPipeline gpu_pipeline(struct gpu *gpu, const struct program *program, struct sc_error *e) SC_CHECK;

/* Forgets all that is compiled. Nothing that uses it may be recorded or running. */
void gpu_drop_pipelines(struct gpu *gpu);

/* ---- commands.c ---- */

/* Bytes of device memory that a dispatch reads or writes; an address of 0 stands for none. */
struct access {
    VkDeviceAddress address;
    uint64_t size_bytes;
    bool write;
    bool is_grid; /* what is written may become the size of an indirect dispatch */
};

/* What an operation has made of its input for its kernel: rows of `cols`, rounded or normed. No bytes: nothing. */
struct made {
    struct access from, to;
    VkDeviceAddress norm;
    uint32_t cols;
    float eps;
};

enum { COMMANDS_MAX_PENDING = 64, COMMANDS_MAX_PIECES = 128 };

/*
 * A recorded stream of dispatches. It puts a barrier where a dispatch touches what an earlier one wrote, or writes what
 * an earlier one read, and nowhere else. Recording returns nothing: the first error stays in `error` and commands_end
 * reports it.
 */
struct commands {
    struct gpu *gpu;
    struct queue *queue;
    VkCommandPool pool;
    VkCommandBuffer buffer; /* of the last piece */
    struct {
        VkCommandBuffer buffer;
        double work;               /* multiply-adds */
    } pieces[COMMANDS_MAX_PIECES]; /* where a submission may end; recorded in this order */
    uint32_t n_pieces;
    bool replayed;
    struct access scratch;                       /* for an operation of several dispatches; who records sets it */
    struct made made;                            /* until one of both places is written, or a barrier is asked for */
    struct access pending[COMMANDS_MAX_PENDING]; /* since the last barrier */
    uint32_t n_pending;
    uint32_t n_dispatches, n_barriers;
    struct sc_error error;
};

bool commands_init(struct commands *c, struct gpu *gpu, struct sc_error *e) SC_CHECK;

/* For copies alone, which run beside the dispatches of other streams where the device can do that. */
bool commands_init_transfer(struct commands *c, struct gpu *gpu, struct sc_error *e) SC_CHECK;
void commands_finish(struct commands *c); /* accepts a zeroed struct */

/* Starts recording anew. The device must be done with the earlier recording. Waits for everything submitted before. */
void commands_begin(struct commands *c, bool replayed);

/* The same for a stream that always runs right behind `previous`: hazards are tracked across the two. */
void commands_continue(struct commands *c, const struct commands *previous);

/*
 * Makes what the host wrote before a signal visible to the dispatches that follow, and separates them from everything
 * before: then the streams between the previous one and this one may be left out.
 */
void commands_see_host(struct commands *c);

/*
 * Separates everything before from everything after, also from later streams that continue earlier ones; nothing that
 * was made before serves after it.
 */
void commands_barrier(struct commands *c);
void commands_dispatch(struct commands *c, struct program program, const void *args, const struct access *accesses,
                       uint32_t n_accesses, uint32_t x, uint32_t y, uint32_t z);

/* The size of a dispatch that a kernel has written: x, y, z as u32. */
struct grid {
    const struct buffer *buffer;
    uint64_t offset;
    uint32_t max_x, max_y; /* the kernel never writes more; z is 1 */
};

/* `accesses` name the grid's bytes among what is read. */
void commands_dispatch_indirect(struct commands *c, struct program program, const void *args,
                                const struct access *accesses, uint32_t n_accesses, struct grid grid);
void commands_copy(struct commands *c, const struct buffer *from, uint64_t from_offset, const struct buffer *to,
                   uint64_t to_offset, uint64_t size_bytes);
/* What was recorded last takes so many multiply-adds: where they are many, a piece ends. */
void commands_work(struct commands *c, double multiply_adds);
bool commands_end(struct commands *c, struct sc_error *e) SC_CHECK;

/*
 * Streams of one queue that begin when the host has signalled wait_host and the compute queue has reached wait_compute
 * (0: at once), in order after the submissions before them. Those on the compute queue also wait for all transfers that
 * were submitted before them.
 */
struct submission {
    struct commands *const *streams;
    uint32_t n_streams;
    uint32_t first_piece, n_pieces; /* of all pieces of the streams, only these; n_pieces 0: all */
    uint64_t wait_host, wait_compute;
    uint64_t value; /* set by gpu_submit: what gpu_wait takes, after which the streams' results are visible */
};

/* Hands them to their queue in one call. */
bool gpu_submit_chain(struct gpu *gpu, struct submission *submissions, uint32_t n, struct sc_error *e) SC_CHECK;

/* One submission that waits for nothing; a failure leaves *value as it was. */
bool gpu_submit(struct gpu *gpu, struct commands *const *streams, uint32_t n_streams, uint64_t *value,
                struct sc_error *e) SC_CHECK;
bool gpu_wait(struct gpu *gpu, uint64_t value, struct sc_error *e) SC_CHECK;
bool gpu_wait_transfer(struct gpu *gpu, uint64_t value, struct sc_error *e) SC_CHECK;

/* Whether the queue has reached `value`, without waiting. Results are visible after gpu_wait only. */
bool gpu_poll(struct gpu *gpu, const struct queue *queue, uint64_t value, bool *reached, struct sc_error *e) SC_CHECK;

/* Lets the submissions go that wait for gpu->host_signalled up to `value`. */
bool gpu_signal(struct gpu *gpu, uint64_t value, struct sc_error *e) SC_CHECK;

/* For VkResult: false and a sentence unless it is VK_SUCCESS. `what` is what was being done: "create the device". */
bool gpu_check(const struct gpu *gpu, VkResult result, const char *what, struct sc_error *e) SC_CHECK;

#endif
