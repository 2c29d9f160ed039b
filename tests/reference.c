/* SPDX-License-Identifier: Apache-2.0 */
#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool reference_open(struct reference *r, const char *path, struct sc_error *e)
{
    *r = (struct reference){0};
    r->gguf = sc_gguf_open(path, e);
    return r->gguf && config_read(&r->config, r->gguf, e) && weights_init(&r->weights, &r->config, r->gguf, e);
}

void reference_close(struct reference *r)
{
    weights_finish(&r->weights);
    sc_gguf_close(r->gguf);
    *r = (struct reference){0};
}

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

static double *zeros(size_t n)
{
    return must(calloc(n + 1, sizeof(double)));
}

static void read_row(double *row, const struct weight *w, size_t index, float *scratch)
{
    const struct sc_type_info *info = sc_type_info(w->type);
    const size_t n_blocks = w->cols / info->block_size;
    info->dequantize(w->data + index * n_blocks * info->block_bytes, scratch, n_blocks);
    for (size_t i = 0; i < w->cols; i++)
        row[i] = (double)scratch[i];
}

/* (n, w->cols) x -> (n, w->rows) x * w^T, which the caller frees */
static double *linear(const struct weight *w, const double *x, size_t n)
{
    double *y = zeros(n * w->rows), *row = zeros(w->cols);
    float *scratch = must(malloc(w->cols * sizeof *scratch));
    for (size_t o = 0; o < w->rows; o++) {
        read_row(row, w, o, scratch);
        for (size_t t = 0; t < n; t++) {
            const double *xt = x + t * w->cols;
            double sum = 0;
            for (size_t i = 0; i < w->cols; i++)
                sum += xt[i] * row[i];
            y[t * w->rows + o] = sum;
        }
    }
    free(scratch);
    free(row);
    return y;
}

static void add(double *x, double *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
    free(y);
}

/* (n, d) -> (n, d), which the caller frees */
static double *rms_norm(const struct config *c, const struct weight *w, const double *x, size_t n)
{
    const size_t d = c->n_embd;
    const float *gain = (const float *)(const void *)w->data;
    double *y = zeros(n * d);
    for (size_t t = 0; t < n; t++) {
        double sum = 0;
        for (size_t i = 0; i < d; i++)
            sum += x[t * d + i] * x[t * d + i];
        const double scale = 1 / sqrt(sum / (double)d + (double)c->norm_eps);
        for (size_t i = 0; i < d; i++)
            y[t * d + i] = x[t * d + i] * scale * (double)gain[i];
    }
    return y;
}

/* Turns the neighbouring pairs of x (n, n_heads, head_dim) by their positions, 0 to n - 1. */
static void rope(const struct config *c, double *x, size_t n, size_t n_heads)
{
    for (size_t t = 0; t < n; t++)
        for (size_t h = 0; h < n_heads; h++)
            for (size_t i = 0; i < c->n_rot / 2; i++) {
                double *pair = x + (t * n_heads + h) * c->head_dim + 2 * i;
                const double factor = c->rope_factors ? (double)c->rope_factors[i] : 1;
                const double angle = (double)t * (double)c->rope_freq_scale *
                                     pow((double)c->rope_base, -2.0 * (double)i / c->n_rot) / factor;
                const double a = pair[0], b = pair[1];
                pair[0] = a * cos(angle) - b * sin(angle);
                pair[1] = a * sin(angle) + b * cos(angle);
            }
}

static void softmax(double *x, size_t n)
{
    double most = x[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        most = fmax(most, x[i]);
    for (size_t i = 0; i < n; i++)
        sum += x[i] = exp(x[i] - most);
    for (size_t i = 0; i < n; i++)
        x[i] /= sum;
}

static void round_to_q8(double *x, size_t n)
{
    for (size_t first = 0; first < n; first += 32) {
        double most = 0;
        for (size_t i = first; i < first + 32; i++)
            most = fmax(most, fabs(x[i]));
        for (size_t i = first; i < first + 32 && most > 0; i++)
            x[i] = nearbyint(x[i] / most * 127) * most / 127;
    }
}

/* (n, d) -> (n, d), which the caller frees */
static double *attention(const struct reference *r, const struct layer_weights *w, const double *x, size_t n)
{
    const struct config *c = &r->config;
    const size_t H = c->n_heads, K = c->n_kv_heads, dim = c->head_dim;
    double *q = linear(&w->attn_q, x, n), *k = linear(&w->attn_k, x, n), *v = linear(&w->attn_v, x, n);
    double *mixed = zeros(n * H * dim), *scores = zeros(n);
    rope(c, q, n, H);
    rope(c, k, n, K);
    if (r->rounds_kv) {
        round_to_q8(k, n * K * dim);
        round_to_q8(v, n * K * dim);
    }
    for (size_t t = 0; t < n; t++)
        for (size_t h = 0; h < H; h++) {
            const size_t g = h / (H / K), first = c->window && t + 1 > c->window ? t + 1 - c->window : 0;
            for (size_t s = first; s <= t; s++) {
                scores[s] = 0;
                for (size_t i = 0; i < dim; i++)
                    scores[s] += q[(t * H + h) * dim + i] * k[(s * K + g) * dim + i];
                scores[s] /= sqrt((double)dim);
            }
            softmax(scores + first, t + 1 - first);
            for (size_t s = first; s <= t; s++)
                for (size_t i = 0; i < dim; i++)
                    mixed[(t * H + h) * dim + i] += scores[s] * v[(s * K + g) * dim + i];
        }
    double *y = linear(&w->attn_output, mixed, n);
    free(scores);
    free(mixed);
    free(v);
    free(k);
    free(q);
    return y;
}

static double *feed_forward(const struct expert_weights *w, const double *x, size_t n)
{
    double *gate = linear(&w->gate, x, n), *up = linear(&w->up, x, n);
    for (size_t i = 0; i < n * w->gate.rows; i++)
        gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    double *y = linear(&w->down, gate, n);
    free(gate);
    free(up);
    return y;
}

/* What a token gives each expert, 0 for those it does not use: the softmax of its n_used largest logits. */
static void route(const struct config *c, const double *logits, double *shares)
{
    size_t ids[SC_MAX_EXPERTS_USED];
    double top[SC_MAX_EXPERTS_USED];
    bool taken[SC_MAX_EXPERTS] = {false};
    for (size_t k = 0; k < c->n_experts_used; k++) {
        size_t best = SIZE_MAX;
        for (size_t e = 0; e < c->n_experts; e++)
            if (!taken[e] && (best == SIZE_MAX || logits[e] > logits[best]))
                best = e;
        taken[best] = true;
        ids[k] = best;
        top[k] = logits[best];
    }
    softmax(top, c->n_experts_used);
    memset(shares, 0, c->n_experts * sizeof *shares);
    for (size_t k = 0; k < c->n_experts_used; k++)
        shares[ids[k]] = top[k];
}

/* (n, d) -> (n, d), which the caller frees */
static double *mixture(const struct config *c, const struct layer_weights *w, const double *x, size_t n)
{
    const size_t d = c->n_embd, E = c->n_experts;
    double *logits = linear(&w->router, x, n), *shares = zeros(n * E), *y = zeros(n * d), *of_expert = zeros(n * d);
    for (size_t t = 0; t < n; t++)
        route(c, logits + t * E, shares + t * E);
    for (size_t e = 0; e < E; e++) {
        size_t n_rows = 0;
        for (size_t t = 0; t < n; t++)
            if (shares[t * E + e] > 0)
                memcpy(of_expert + d * n_rows++, x + t * d, d * sizeof *x);
        double *out = feed_forward(&w->experts[e], of_expert, n_rows), *row = out;
        for (size_t t = 0; t < n; t++)
            if (shares[t * E + e] > 0)
                for (size_t i = 0; i < d; i++)
                    y[t * d + i] += shares[t * E + e] * *row++;
        free(out);
    }
    free(of_expert);
    free(shares);
    free(logits);
    return y;
}

double *reference_logits(const struct reference *r, const sc_token *tokens, size_t n)
{
    const struct config *c = &r->config;
    const size_t d = c->n_embd;
    double *x = zeros(n * d), *h;
    float *scratch = must(malloc(d * sizeof *scratch));
    for (size_t t = 0; t < n; t++)
        read_row(x + t * d, &r->weights.token_embd, (size_t)tokens[t], scratch);
    free(scratch);
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const struct layer_weights *w = &r->weights.layers[l];
        h = rms_norm(c, &w->attn_norm, x, n);
        add(x, attention(r, w, h, n), n * d);
        free(h);
        h = rms_norm(c, &w->ffn_norm, x, n);
        add(x, c->n_experts ? mixture(c, w, h, n) : feed_forward(&w->experts[0], h, n), n * d);
        free(h);
    }
    h = rms_norm(c, &r->weights.output_norm, x, n);
    double *logits = linear(&r->weights.output, h, n);
    free(h);
    free(x);
    return logits;
}
