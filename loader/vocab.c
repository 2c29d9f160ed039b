/* SPDX-License-Identifier: Apache-2.0 */
#include "vocab.h"

#include <float.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "printable.h"
#include "utf8.h"

/* FNV-1a, because it can be carried on byte by byte while the longest match is searched */
static const uint32_t hash_start = 2166136261u;

static uint32_t hash_byte(uint32_t hash, char c)
{
    return (hash ^ (unsigned char)c) * 16777619u;
}

/* The slot of the piece with this text, or the free slot where it belongs. The map is never full. */
static sc_token *find_slot(const struct vocab *v, const struct piece_map *m, uint32_t hash, const char *text,
                           size_t size_bytes)
{
    for (uint32_t i = hash ^ hash >> 15;; i++) {
        sc_token *slot = &m->slots[i & m->mask];
        if (*slot < 0)
            return slot;
        const struct piece *p = &v->pieces[*slot];
        if (p->size_bytes == size_bytes && memcmp(v->text + p->offset, text, size_bytes) == 0)
            return slot;
    }
}

static bool map_init(struct piece_map *m, uint32_t n_pieces, struct sc_error *e)
{
    uint32_t n_slots = 16;
    while (n_slots < n_pieces * 2)
        n_slots *= 2;
    m->slots = malloc(n_slots * sizeof *m->slots);
    if (!m->slots)
        return sc_fail_memory(e, "the vocabulary");
    memset(m->slots, 0xFF, n_slots * sizeof *m->slots); /* -1 */
    m->mask = n_slots - 1;
    return true;
}

static void map_add(const struct vocab *v, struct piece_map *m, sc_token token)
{
    const struct piece *p = &v->pieces[token];
    const char *text = v->text + p->offset;
    if (p->size_bytes == 0)
        return;
    uint32_t hash = hash_start;
    for (size_t i = 0; i < p->size_bytes; i++)
        hash = hash_byte(hash, text[i]);
    sc_token *slot = find_slot(v, m, hash, text, p->size_bytes);
    if (*slot < 0)
        *slot = token;
    uint16_t *longest = &m->longest[(unsigned char)text[0]];
    if (*longest < p->size_bytes)
        *longest = p->size_bytes;
}

sc_token vocab_find(const struct vocab *v, const struct piece_map *m, const char *text, size_t size_bytes)
{
    if (size_bytes == 0 || size_bytes > m->longest[(unsigned char)text[0]])
        return -1;
    uint32_t hash = hash_start;
    for (size_t i = 0; i < size_bytes; i++)
        hash = hash_byte(hash, text[i]);
    return *find_slot(v, m, hash, text, size_bytes);
}

sc_token vocab_match(const struct vocab *v, const struct piece_map *m, enum piece_type type, const char *text,
                     size_t size_bytes)
{
    sc_token found = -1;
    size_t longest = size_bytes ? m->longest[(unsigned char)text[0]] : 0;
    uint32_t hash = hash_start;
    for (size_t i = 0; i < longest && i < size_bytes; i++) {
        hash = hash_byte(hash, text[i]);
        sc_token token = *find_slot(v, m, hash, text, i + 1);
        if (token >= 0 && v->pieces[token].type == type)
            found = token;
    }
    return found;
}

static bool hex_digit(char c, unsigned *value)
{
    if (c >= '0' && c <= '9')
        *value = *value * 16 + (unsigned)(c - '0');
    else if (c >= 'A' && c <= 'F')
        *value = *value * 16 + (unsigned)(c - 'A' + 10);
    else if (c >= 'a' && c <= 'f')
        *value = *value * 16 + (unsigned)(c - 'a' + 10);
    else
        return false;
    return true;
}

/* Reads "<0x0A>". */
static bool byte_piece(const char *text, size_t size_bytes, uint8_t *byte)
{
    unsigned value = 0;
    if (size_bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return false;
    if (!hex_digit(text[3], &value) || !hex_digit(text[4], &value))
        return false;
    *byte = (uint8_t)value;
    return true;
}

/*
 * Converters often store the markers of chat formats ("<|im_end|>") as user-defined. Those match in any text, so that
 * whoever writes the text could end the turn: here they are control pieces.
 */
static bool is_marker(const char *text, size_t size_bytes)
{
    return size_bytes > 4 && memcmp(text, "<|", 2) == 0 && memcmp(text + size_bytes - 2, "|>", 2) == 0;
}

static bool is_utf8(const char *text, size_t size_bytes)
{
    for (size_t i = 0, length; i < size_bytes; i += length) {
        length = utf8_length(text + i, size_bytes - i);
        if (length == 0)
            return false;
    }
    return true;
}

/* Files without token types have the three pieces that every SentencePiece model begins with, and byte pieces. */
static enum piece_type guess_type(const char *text, size_t size_bytes)
{
    uint8_t byte;
    if (byte_piece(text, size_bytes, &byte))
        return PIECE_BYTE;
    if (size_bytes == 5 && memcmp(text, "<unk>", 5) == 0)
        return PIECE_UNKNOWN;
    if ((size_bytes == 3 && memcmp(text, "<s>", 3) == 0) || (size_bytes == 4 && memcmp(text, "</s>", 4) == 0))
        return PIECE_CONTROL;
    return is_marker(text, size_bytes) ? PIECE_CONTROL : PIECE_NORMAL;
}

/* The array `key`, whose length must be v->n; *array is NULL if an optional one is absent. */
static bool find_array(const struct vocab *v, const struct sc_gguf *g, const char *path, const char *key, bool required,
                       const struct sc_gguf_value **array, struct sc_error *e)
{
    *array = sc_gguf_find_value(g, key);
    if (!*array && !required)
        return true;
    if (!*array)
        return sc_fail(e, SC_BAD_FILE, "%s: the tokenizer has no %s", path, key);
    if ((*array)->type != SC_GGUF_ARRAY || (*array)->n_elements != v->n)
        return sc_fail(e, SC_BAD_FILE, "%s: %s is no array of %" PRIu32 " elements, one for each token", path, key,
                       v->n);
    return true;
}

static bool read_piece(struct vocab *v, const char *path, uint32_t i, const struct sc_gguf_value *scores,
                       const struct sc_gguf_value *types, struct sc_error *e)
{
    struct piece *p = &v->pieces[i];
    const char *text = v->text + p->offset;
    double score;
    if (!sc_gguf_array_f64(scores, i, &score) || !(score >= -FLT_MAX && score <= FLT_MAX))
        return sc_fail(e, SC_BAD_FILE, "%s: the score of token %" PRIu32 " is not a finite number", path, i);
    p->score = (float)score;

    int64_t type = 0;
    if (!types)
        type = guess_type(text, p->size_bytes);
    else if (!sc_gguf_array_i64(types, i, &type) || type < 0 || type > PIECE_BYTE)
        return sc_fail(e, SC_BAD_FILE, "%s: token %" PRIu32 " has a type that does not exist", path, i);
    else if (type == 0) /* "undefined": written by early converters for all pieces */
        type = guess_type(text, p->size_bytes);
    if (type == PIECE_USER_DEFINED && is_marker(text, p->size_bytes))
        type = PIECE_CONTROL;
    p->type = (uint8_t)type;
    if (type == PIECE_BYTE && !byte_piece(text, p->size_bytes, &p->byte))
        return sc_fail(e, SC_BAD_FILE, "%s: token %" PRIu32 " is a byte but its text names none", path, i);
    if (type == PIECE_USER_DEFINED && !is_utf8(text, p->size_bytes))
        return sc_fail(e, SC_BAD_FILE, "%s: token %" PRIu32 " is user-defined but not UTF-8", path, i);
    return true;
}

static bool copy_texts(struct vocab *v, const char *path, const struct sc_gguf_value *tokens, struct sc_error *e)
{
    struct sc_gguf_string *strings = malloc(v->n * sizeof *strings);
    if (!strings)
        return sc_fail_memory(e, "the vocabulary");
    bool ok = false;
    if (!sc_gguf_array_strings(tokens, strings)) {
        sc_fail(e, SC_BAD_FILE, "%s: tokenizer.ggml.tokens holds no strings", path);
        goto done;
    }
    size_t total = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        if (strings[i].size_bytes > VOCAB_MAX_PIECE_BYTES) {
            sc_fail(e, SC_UNSUPPORTED, "%s: token %" PRIu32 " is %zu bytes long, and Scoria takes at most %d", path, i,
                    strings[i].size_bytes, VOCAB_MAX_PIECE_BYTES);
            goto done;
        }
        total += strings[i].size_bytes;
    }
    v->pieces = calloc(v->n, sizeof *v->pieces);
    v->text = malloc(total + 1);
    if (!v->pieces || !v->text) {
        sc_fail_memory(e, "the vocabulary");
        goto done;
    }
    uint32_t offset = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        uint16_t size_bytes = (uint16_t)strings[i].size_bytes;
        v->pieces[i] = (struct piece){.offset = offset, .size_bytes = size_bytes};
        if (size_bytes)
            memcpy(v->text + offset, strings[i].data, size_bytes);
        offset += size_bytes;
    }
    ok = true;
done:
    free(strings);
    return ok;
}

static void index_piece(struct vocab *v, uint32_t i)
{
    sc_token token = (sc_token)i;
    switch ((enum piece_type)v->pieces[i].type) {
    case PIECE_UNKNOWN:
        if (v->unknown < 0)
            v->unknown = token;
        map_add(v, &v->special, token);
        break;
    case PIECE_CONTROL: map_add(v, &v->special, token); break;
    case PIECE_BYTE:
        if (v->bytes[v->pieces[i].byte] < 0)
            v->bytes[v->pieces[i].byte] = token;
        break;
    case PIECE_USER_DEFINED:
        v->has_user_defined = true;
        map_add(v, &v->words, token);
        break;
    case PIECE_UNUSED:
        v->has_unused = true;
        map_add(v, &v->words, token);
        break;
    case PIECE_NORMAL: map_add(v, &v->words, token); break;
    }
}

bool vocab_init(struct vocab *v, const struct sc_gguf *g, struct sc_error *e)
{
    *v = (struct vocab){.unknown = -1};
    memset(v->bytes, 0xFF, sizeof v->bytes); /* -1 */
    struct printable_path printable = sc_printable_path(sc_gguf_path(g));
    const char *path = printable.text;

    const struct sc_gguf_value *tokens = sc_gguf_find_value(g, "tokenizer.ggml.tokens");
    if (!tokens || tokens->type != SC_GGUF_ARRAY || tokens->n_elements == 0)
        return sc_fail(e, SC_BAD_FILE, "%s: the tokenizer has no tokenizer.ggml.tokens", path);
    if (tokens->n_elements > VOCAB_MAX_PIECES)
        return sc_fail(e, SC_UNSUPPORTED, "%s: the vocabulary has %" PRIu64 " tokens, and Scoria takes at most %d",
                       path, tokens->n_elements, VOCAB_MAX_PIECES);
    v->n = (uint32_t)tokens->n_elements;

    const struct sc_gguf_value *scores, *types;
    if (!find_array(v, g, path, "tokenizer.ggml.scores", true, &scores, e) ||
        !find_array(v, g, path, "tokenizer.ggml.token_type", false, &types, e))
        goto error;
    if (!copy_texts(v, path, tokens, e) || !map_init(&v->words, v->n, e) || !map_init(&v->special, v->n, e))
        goto error;
    for (uint32_t i = 0; i < v->n; i++) {
        if (!read_piece(v, path, i, scores, types, e))
            goto error;
        index_piece(v, i);
    }

    v->has_bytes = true;
    for (int b = 0; b < 256; b++)
        v->has_bytes &= v->bytes[b] >= 0;
    uint64_t id;
    if (sc_gguf_read_u64(sc_gguf_find_value(g, "tokenizer.ggml.unknown_token_id"), &id) && id < v->n)
        v->unknown = (sc_token)id;
    if (v->unknown < 0 && !v->has_bytes) {
        sc_fail(e, SC_BAD_FILE, "%s: the vocabulary has neither an unknown token nor all 256 bytes", path);
        goto error;
    }
    return true;
error:
    vocab_finish(v);
    return false;
}

void vocab_finish(struct vocab *v)
{
    free(v->pieces);
    free(v->text);
    free(v->words.slots);
    free(v->special.slots);
    *v = (struct vocab){0};
}
