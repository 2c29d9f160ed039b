/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Push constants of every kernel, read by the C compiler and by glslang. Only 32-bit scalars and device addresses,
 * which come first so that both compilers lay the structs out alike; at most 128 bytes each.
 *
 * Names used throughout, as in GGUF: n_embd, n_ff, n_heads, n_kv_heads, head_dim, n_experts, n_used (experts per
 * token). A "pair" is one token's use of one expert: pair = token * n_used + k, k-th best first.
 */
#ifndef SCORIA_ARGS_H
#define SCORIA_ARGS_H

#ifdef SCORIA_GLSL
#define address uvec2
#define u32 uint
#define f32 float
#else
#include <assert.h>
#include <stdint.h>
#define address uint64_t
#define u32 uint32_t
#define f32 float
#endif

/* Ids of the specialization constants; a kernel declares those that it has a use for. */
#define CONSTANT_LANES 0     /* threads that share a row of a matrix-vector product */
#define CONSTANT_MAGIC 1     /* 1: bytes become floats by their place in a float's bits, not by conversion */
#define CONSTANT_IS_NORMED 2 /* 1: what a kernel would apply an RMSNorm to is its result already */
#define CONSTANT_FRAGMENTS 3 /* cooperative matrices that a subgroup sums up */
#define CONSTANT_HEAD_DIM 4  /* dimensions of a head */
#define CONSTANT_COLUMNS 5   /* columns of a tile */
#define N_CONSTANTS 6

/* Of matmul_cm2: threads, and sizes of its cooperative matrices. */
#define MATRIX_2_THREADS 256
#define MATRIX_2_ROWS 128
#define MATRIX_2_COLUMNS 32
#define MATRIX_2_STEP 32
#define MATRIX_2_STRIDE (MATRIX_2_STEP + 8) /* in shared memory: rows begin in different banks, and at 16 bytes */
#define MATRIX_2_MAX_COLUMNS 128            /* of its tile */

#define NO_TOKEN 0xffffffffu

/* y[token] = row tokens[token] of w, expanded. NO_TOKEN among tokens stands for the one that top_k has left in `best`.
 */
struct embed_args {
    address w;      /* (n_vocab, cols) quantized */
    address tokens; /* (n_tokens) u32 */
    address best;   /* u32 */
    address y;      /* (n_tokens, cols) */
    u32 cols;
    u32 n_vocab;
};

/* y = x / rms(x) * w */
struct rms_norm_args {
    address x; /* (n_tokens, cols) */
    address w; /* (cols) */
    address y; /* (n_tokens, cols) */
    u32 cols;
    f32 eps;
};

/*
 * Activations rounded to 8 bits, of rows of `cols`, a multiple of 32: a row's bytes; then for each block of 32 its step
 * (f32) and the sums of its two halves (signed 16 bits each). A row has so many words and begins at 16 bytes.
 */
#define ROUNDED_BLOCK 32
#define ROUNDED_WORDS(cols) (((cols) / 4 + (cols) / ROUNDED_BLOCK * 2 + 3) / 4 * 4)

/* y = x, or its RMSNorm, rounded. */
struct quantize_args {
    address x;    /* (rows, cols) */
    address norm; /* (cols) the RMSNorm's weights, or 0 */
    address y;    /* (rows, ROUNDED_WORDS(cols)) u32 */
    u32 rows;
    u32 cols;
    f32 eps;
};

/*
 * y[i] = W x[i / x_div] (+ y[i] if accumulate). W is `w`, or if `experts` is not 0 the matrix at w_offset in the slot
 * of expert ids[i]; a slot address of 0 means that this expert is not in this pass and leaves y[i] alone.
 */
struct matvec_args {
    address w;       /* (rows, cols) quantized */
    address experts; /* (n_experts) addresses of slots */
    address ids;     /* (n_pairs) u32 */
    address x;       /* (n / x_div, cols) */
    address y;       /* (n, rows) */
    u32 w_offset;
    u32 rows;
    u32 cols;
    u32 x_div;
    u32 accumulate;
};

/*
 * Of a single token: q, k, v = W norm(x), the norm an RMSNorm with weights `norm`; q turned, k turned and v into the
 * cache at the step's position. Without `angles` nothing is turned, without `step` k and v are written from their
 * beginnings. Matrices that are not wanted have 0 rows.
 */
struct qkv_args {
    address w_q; /* (rows_q, cols) quantized, all three in the same type */
    address w_k;
    address w_v;
    address x;      /* (cols) */
    address norm;   /* (cols) */
    address q;      /* (rows_q) */
    address k;      /* (n_ctx, rows_k) */
    address v;      /* (n_ctx, rows_v) */
    address angles; /* (n_rot / 2) vec2(cos, sin) or 0 */
    address step;   /* struct step or 0 */
    u32 rows_q;
    u32 rows_k;
    u32 rows_v;
    u32 cols;
    u32 head_dim;
    u32 n_rot;
    u32 kv_is_f16; /* k and v, or they are f32 */
    f32 eps;
};

/* Of a single token: y[k] = silu(gate norm(x)) * (up norm(x)), by experts ids[k], or if there are none by `gate`, `up`.
 */
struct gate_up_args {
    address gate; /* (rows, cols) quantized */
    address up;
    address experts; /* (n_experts) addresses of slots, or 0 */
    address ids;     /* (n_used) u32 */
    address x;       /* (cols) */
    address norm;    /* (cols) */
    address y;       /* (n_used, rows) */
    u32 gate_offset; /* in the slot */
    u32 up_offset;
    u32 rows;
    u32 cols;
    f32 eps;
};

/* Of a single token: y += sum over k of probs[k] * W x[k], W at w_offset in the slot of expert ids[k]. */
struct down_args {
    address experts; /* (n_experts) addresses of slots */
    address ids;     /* (n_used) u32 */
    address probs;   /* (n_used) */
    address x;       /* (n_used, cols) */
    address y;       /* (rows) */
    u32 w_offset;
    u32 rows;
    u32 cols;
    u32 n_used;
};

/* Of a single token: logits = W norm(x), then what route_args says; norm(x) also goes to `normed` unless that is 0. */
struct router_args {
    address w;        /* (n_experts, cols) quantized */
    address x;        /* (cols) */
    address norm;     /* (cols) */
    address normed;   /* (cols) in host memory, or 0 */
    address logits;   /* (n_experts) */
    address ids;      /* (n_used) u32 */
    address probs;    /* (n_used) */
    address host_ids; /* a second copy of ids in host memory, or 0 */
    address counter;  /* u32: of workgroups that are done, 0 before and after */
    u32 n_experts;
    u32 cols;
    u32 n_used;
    f32 eps;
};

/*
 * The same as matvec for many rows of x at once, a tile of columns a workgroup x. Dense: i from 0 to n. Experts: the
 * tile's expert e and first column f are tiles[x], and its i are pairs[f], pairs[f + 1], ... before pairs[first[e +
 * 1]]. Workgroup y's tile of rows is first_row_tile + y: a large product is several dispatches.
 */
struct matmul_args {
    address w;
    address experts;
    address first; /* (n_experts + 1) u32 */
    address pairs; /* (n_pairs) u32 */
    address tiles; /* (n_tiles, 2) u32 */
    address x;
    address y;
    u32 w_offset;
    u32 rows;
    u32 cols;
    u32 n;
    u32 x_div;
    u32 accumulate;
    u32 first_row_tile;
};

/* Turns q in place and k on its way into the cache by the angles of their positions; copies v into the cache. */
struct rope_store_args {
    address q;       /* (n_tokens, n_heads, head_dim) */
    address k;       /* (n_tokens, n_kv_heads, head_dim) */
    address v;       /* (n_tokens, n_kv_heads, head_dim) */
    address angles;  /* (n_tokens, n_rot / 2) vec2(cos, sin) */
    address k_cache; /* (n_ctx, n_kv_heads, head_dim), as kv.glsl lays it out */
    address v_cache;
    address step; /* struct step */
    u32 n_heads;
    u32 n_kv_heads;
    u32 head_dim;
    u32 n_rot;
    u32 kv_row_bytes; /* of a position in each cache */
};

/*
 * Causal grouped-query attention of n_tokens queries over the cache, whose visible positions are cut into at most
 * n_splits pieces. The last piece of a tile to be done merges all of them; until then they leave their weighted sums in
 * `partial`, unless there is only one. Workgroup x's tile of queries is first_tile + x: a prompt's is several
 * dispatches.
 */
struct attention_args {
    address q; /* (n_tokens, n_heads, head_dim) */
    address k_cache;
    address v_cache;
    address y;       /* (n_tokens, n_heads, head_dim) */
    address partial; /* (n_tokens, n_heads, n_splits, head_dim + 4): weighted sums, then maximum, sum, two unused */
    address done;    /* (tiles, n_kv_heads) u32: pieces that are done; 0 before and after */
    address step;
    u32 n_heads;
    u32 n_kv_heads;
    u32 head_dim;
    u32 kv_row_bytes;
    u32 n_splits; /* at most 64 */
    u32 window;   /* positions that a token sees, itself included */
    u32 first_tile;
    f32 scale;
};

/* The n_used best of each token's router logits, best first, and their softmax among themselves. */
struct route_args {
    address logits;   /* (n_tokens, n_experts) */
    address ids;      /* (n_tokens, n_used) u32 */
    address probs;    /* (n_tokens, n_used) */
    address host_ids; /* a second copy of ids in host memory, or 0 */
    u32 n_experts;
    u32 n_used;
};

/*
 * first[e] counts the pairs of experts before e. For each of an expert's three matrices: its pairs make tiles of
 * tile_columns, and the grid is the size of an indirect dispatch, a workgroup for each tile by each of row_tiles.
 */
struct schedule_args {
    address ids;   /* (n_pairs) u32 */
    address first; /* (n_experts + 1) u32 */
    address tiles; /* (3, max_tiles, 2) u32: expert, index into pairs; of gate, up, down */
    address grids; /* (3, 4) u32: x, y, z of gate, up, down */
    u32 n_pairs;
    u32 n_experts;
    u32 max_tiles;
    u32 tile_columns[3];
    u32 row_tiles[3];
};

/* Sorts pairs by expert; pairs of one expert stay in order. */
struct group_args {
    address ids;   /* (n_pairs) u32 */
    address first; /* (n_experts + 1) u32 */
    address pairs; /* (n_pairs) u32 */
    u32 n_pairs;
};

/* gate = silu(gate) * up, silu(x) = x / (1 + exp(-x)) */
struct silu_mul_args {
    address gate; /* (n) */
    address up;   /* (n) */
    u32 n;
};

/*
 * x[token] += sum over k of probs[token, k] * y[token, k], k in order. Where on_host is not 0, the pairs that it marks
 * come from host_y instead.
 */
struct combine_args {
    address x;       /* (n_tokens, n_embd) */
    address y;       /* (n_tokens, n_used, n_embd) */
    address probs;   /* (n_tokens, n_used) */
    address host_y;  /* (n_tokens, n_used, n_embd) or 0 */
    address on_host; /* (n_tokens, n_used) u32 or 0 */
    u32 n_embd;
    u32 n_used;
};

/* to = from, n words */
struct copy_args {
    address from;
    address to;
    u32 n;
};

/* to[thread] = the exclusive or of every n_threads-th word of four, from the thread's own number on */
struct read_args {
    address from; /* (n, 4) words */
    address to;   /* (n_threads) words */
    u32 n;
    u32 n_threads; /* a multiple of 64 */
};

#define TOP_K_WORKGROUPS 64
#define TOP_K_HEADS 1024 /* head h is the best of logits h, h + 1024, ... */

/* The step's n_top highest of n logits, best first, the lowest id of equals. NaN and infinities are left out. */
struct top_k_args {
    address logits;  /* (n) */
    address heads;   /* (TOP_K_HEADS, 2) u32, scratch */
    address top;     /* (n_top, 2): logit, id u32; NO_TOKEN behind the last if they are fewer */
    address best;    /* u32: the id of the first, 0 if there is none */
    address step;    /* struct step */
    address counter; /* u32: of workgroups that are done, 0 before and after */
    u32 n;
};

/* What changes from step to step while the recorded commands stay: a small buffer that the kernels read. */
struct step {
    u32 n_past; /* tokens in the cache before this step */
    u32 n_tokens;
    u32 counter; /* of workgroups that are done, for the router and top_k */
    u32 n_top;   /* for top_k */
};

#ifndef SCORIA_GLSL
static_assert(sizeof(struct matvec_args) <= 128, "push constants");
static_assert(sizeof(struct qkv_args) <= 128, "push constants");
static_assert(sizeof(struct matmul_args) <= 128, "push constants");
static_assert(sizeof(struct rope_store_args) <= 128, "push constants");
static_assert(sizeof(struct attention_args) <= 128, "push constants");
#undef address
#undef u32
#undef f32
#endif

#endif
