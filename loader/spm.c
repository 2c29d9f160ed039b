/* SPDX-License-Identifier: Apache-2.0 */
#include "spm.h"

#include <stdlib.h>
#include <string.h>

#include "utf8.h"

static const char space[] = "\xE2\x96\x81"; /* U+2581, how a piece spells ' ' */

/* A stretch of the normalized text that is one piece so far: at first a character, or a whole user-defined piece. */
struct symbol {
    uint32_t offset;
    uint32_t size_bytes;    /* 0: merged into an earlier symbol */
    int32_t previous, next; /* -1 at the ends */
    bool frozen;            /* user-defined: never merges */
};

/* Two neighbours that together are a piece. Out of date once either has grown: size_bytes is no longer their sum. */
struct merge {
    float score;
    int32_t left, right;
    uint32_t size_bytes;
};

struct encoder {
    const struct vocab *v;
    char *text; /* normalized */
    size_t size_bytes;
    struct symbol *symbols;
    int32_t n_symbols;
    struct merge *heap; /* best first */
    size_t n_heap, heap_capacity;
    /* (v->n), only if the vocabulary has unused pieces: the size of the left part that such a piece was merged from */
    uint16_t *unused_split;
};

bool token_list_add(struct token_list *l, sc_token token, struct sc_error *e)
{
    if (l->n == l->capacity) {
        size_t capacity = l->capacity ? l->capacity * 2 : 64;
        sc_token *items = realloc(l->items, capacity * sizeof *items);
        if (!items)
            return sc_fail_memory(e, "the tokens");
        l->items = items;
        l->capacity = capacity;
    }
    l->items[l->n++] = token;
    return true;
}

/* Spaces become U+2581, bytes that are part of no character become U+FFFD. */
static bool normalize(struct encoder *enc, const char *text, size_t size_bytes, bool space_prefix, struct sc_error *e)
{
    enc->text = malloc((size_bytes + space_prefix) * 3);
    if (!enc->text)
        return sc_fail_memory(e, "the text to encode");
    char *out = enc->text;
    if (space_prefix) {
        memcpy(out, space, 3);
        out += 3;
    }
    for (size_t i = 0; i < size_bytes;) {
        size_t length = utf8_length(text + i, size_bytes - i);
        if (length == 0 || text[i] == ' ') {
            memcpy(out, length ? space : UTF8_REPLACEMENT, 3);
            out += 3;
            i++;
        } else {
            memcpy(out, text + i, length);
            out += length;
            i += length;
        }
    }
    enc->size_bytes = (size_t)(out - enc->text);
    return true;
}

static bool split(struct encoder *enc, struct sc_error *e)
{
    const struct vocab *v = enc->v;
    size_t n = 0; /* at most one symbol a character: normalized text and user-defined pieces hold whole ones */
    for (size_t i = 0; i < enc->size_bytes; i++)
        n += ((unsigned char)enc->text[i] & 0xC0) != 0x80;
    enc->symbols = malloc(n * sizeof *enc->symbols);
    if (!enc->symbols)
        return sc_fail_memory(e, "the text to encode");

    int32_t count = 0;
    for (size_t i = 0; i < enc->size_bytes; count++) {
        sc_token user = -1;
        if (v->has_user_defined)
            user = vocab_match(v, &v->words, PIECE_USER_DEFINED, enc->text + i, enc->size_bytes - i);
        size_t length = user >= 0 ? v->pieces[user].size_bytes : utf8_length(enc->text + i, enc->size_bytes - i);
        enc->symbols[count] = (struct symbol){
            .offset = (uint32_t)i,
            .size_bytes = (uint32_t)length,
            .previous = count - 1,
            .next = count + 1,
            .frozen = user >= 0,
        };
        i += length;
    }
    if (count > 0)
        enc->symbols[count - 1].next = -1;
    enc->n_symbols = count;
    return true;
}

static bool better(const struct merge *a, const struct merge *b)
{
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

static bool heap_push(struct encoder *enc, struct merge m, struct sc_error *e)
{
    if (enc->n_heap == enc->heap_capacity) {
        size_t capacity = enc->heap_capacity ? enc->heap_capacity * 2 : 256;
        struct merge *heap = realloc(enc->heap, capacity * sizeof *heap);
        if (!heap)
            return sc_fail_memory(e, "the text to encode");
        enc->heap = heap;
        enc->heap_capacity = capacity;
    }
    size_t i = enc->n_heap++;
    while (i > 0 && better(&m, &enc->heap[(i - 1) / 2])) {
        enc->heap[i] = enc->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    enc->heap[i] = m;
    return true;
}

static struct merge heap_pop(struct encoder *enc)
{
    struct merge best = enc->heap[0];
    struct merge last = enc->heap[--enc->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = i * 2 + 1;
        if (child >= enc->n_heap)
            break;
        if (child + 1 < enc->n_heap && better(&enc->heap[child + 1], &enc->heap[child]))
            child++;
        if (!better(&enc->heap[child], &last))
            break;
        enc->heap[i] = enc->heap[child];
        i = child;
    }
    enc->heap[i] = last;
    return best;
}

static bool consider(struct encoder *enc, int32_t left, int32_t right, struct sc_error *e)
{
    if (left < 0 || right < 0)
        return true;
    const struct symbol *l = &enc->symbols[left], *r = &enc->symbols[right];
    if (l->frozen || r->frozen)
        return true;
    uint32_t size_bytes = l->size_bytes + r->size_bytes;
    sc_token token = vocab_find(enc->v, &enc->v->words, enc->text + l->offset, size_bytes);
    if (token < 0)
        return true;
    if (enc->v->pieces[token].type == PIECE_UNUSED)
        enc->unused_split[token] = (uint16_t)l->size_bytes;
    return heap_push(enc, (struct merge){enc->v->pieces[token].score, left, right, size_bytes}, e);
}

static bool merge_all(struct encoder *enc, struct sc_error *e)
{
    for (int32_t i = 1; i < enc->n_symbols; i++)
        if (!consider(enc, i - 1, i, e))
            return false;
    while (enc->n_heap > 0) {
        struct merge m = heap_pop(enc);
        struct symbol *l = &enc->symbols[m.left], *r = &enc->symbols[m.right];
        if (l->size_bytes == 0 || r->size_bytes == 0 || l->size_bytes + r->size_bytes != m.size_bytes)
            continue;
        l->size_bytes = m.size_bytes;
        r->size_bytes = 0;
        l->next = r->next;
        if (l->next >= 0)
            enc->symbols[l->next].previous = m.left;
        if (!consider(enc, l->previous, m.left, e) || !consider(enc, m.left, l->next, e))
            return false;
    }
    return true;
}

/* The tokens of one finished symbol. Unused pieces only lead to longer ones: what remains of them is split again. */
static bool emit(const struct encoder *enc, uint32_t offset, uint32_t size_bytes, bool *after_unknown,
                 struct token_list *out, struct sc_error *e)
{
    const struct vocab *v = enc->v;
    const char *text = enc->text + offset;
    sc_token token = vocab_find(v, &v->words, text, size_bytes);
    if (token >= 0 && v->pieces[token].type == PIECE_UNUSED && enc->unused_split[token] > 0) {
        uint32_t left = enc->unused_split[token];
        return emit(enc, offset, left, after_unknown, out, e) &&
               emit(enc, offset + left, size_bytes - left, after_unknown, out, e);
    }
    if (token >= 0) {
        *after_unknown = false;
        return token_list_add(out, token, e);
    }
    if (v->has_bytes) {
        for (uint32_t i = 0; i < size_bytes; i++)
            if (!token_list_add(out, v->bytes[(unsigned char)text[i]], e))
                return false;
        return true;
    }
    /* as in sentencepiece, a run of unknown characters is one unknown token */
    if (*after_unknown)
        return true;
    *after_unknown = true;
    return token_list_add(out, v->unknown, e);
}

bool spm_encode(const struct vocab *v, const char *text, size_t size_bytes, bool space_prefix, struct token_list *out,
                struct sc_error *e)
{
    if (size_bytes == 0)
        return true;
    bool ok = false;
    struct encoder enc = {.v = v};
    if (v->has_unused) {
        enc.unused_split = calloc(v->n, sizeof *enc.unused_split);
        if (!enc.unused_split) {
            sc_fail_memory(e, "the text to encode");
            goto done;
        }
    }
    if (!normalize(&enc, text, size_bytes, space_prefix, e) || !split(&enc, e) || !merge_all(&enc, e))
        goto done;
    bool after_unknown = false;
    for (int32_t i = 0; i >= 0; i = enc.symbols[i].next)
        if (!emit(&enc, enc.symbols[i].offset, enc.symbols[i].size_bytes, &after_unknown, out, e))
            goto done;
    ok = true;
done:
    free(enc.text);
    free(enc.symbols);
    free(enc.heap);
    free(enc.unused_split);
    return ok;
}
