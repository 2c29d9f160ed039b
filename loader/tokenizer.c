/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "printable.h"
#include "spm.h"
#include "utf8.h"

enum { MAX_TEXT_BYTES = 512 * 1024 * 1024 - 1 };

struct sc_tokenizer {
    struct vocab vocab;
    bool *is_end; /* (vocab.n) */
    sc_token bos, eos;
    bool add_bos, add_space_prefix;
};

/* Reads a token's id. Absent means `otherwise`, and so does -1, which converters write for "none". */
static bool read_token(const struct sc_tokenizer *t, const struct sc_gguf *g, const char *key, sc_token otherwise,
                       sc_token *token, struct sc_error *e)
{
    *token = otherwise;
    const struct sc_gguf_value *v = sc_gguf_find_value(g, key);
    double id;
    if (!v)
        return true;
    if (!sc_gguf_read_f64(v, &id))
        return sc_fail(e, SC_BAD_FILE, "%s: %s is not a number", sc_printable_path(sc_gguf_path(g)).text, key);
    if (id == -1 || id == UINT32_MAX) {
        *token = -1;
        return true;
    }
    if (!(id >= 0 && id < t->vocab.n))
        return sc_fail(e, SC_BAD_FILE, "%s: %s is %.0f, but the vocabulary has %" PRIu32 " tokens",
                       sc_printable_path(sc_gguf_path(g)).text, key, id, t->vocab.n);
    *token = (sc_token)id;
    return true;
}

/*
 * Files of fine-tuned models often name only one of the tokens that end an answer, so the well-known names count too;
 * as control pieces only, because an ordinary word must not end anything.
 */
static void find_ends(struct sc_tokenizer *t)
{
    static const char *const names[] = {
        "<|im_end|>", "<|eot_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<end_of_turn>",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        sc_token token = vocab_find(&t->vocab, &t->vocab.special, names[i], strlen(names[i]));
        if (token >= 0 && sc_tokenizer_is_control(t, token))
            t->is_end[token] = true;
    }
}

static bool read_ids(struct sc_tokenizer *t, const struct sc_gguf *g, struct sc_error *e)
{
    /* sentencepiece's own defaults, which old files rely on: <unk>, <s>, </s> */
    const struct vocab *v = &t->vocab;
    sc_token bos = v->n > 1 && v->pieces[1].type == PIECE_CONTROL ? 1 : -1;
    sc_token eos = v->n > 2 && v->pieces[2].type == PIECE_CONTROL ? 2 : -1;
    sc_token eot, eom;
    if (!read_token(t, g, "tokenizer.ggml.bos_token_id", bos, &t->bos, e) ||
        !read_token(t, g, "tokenizer.ggml.eos_token_id", eos, &t->eos, e) ||
        !read_token(t, g, "tokenizer.ggml.eot_token_id", -1, &eot, e) ||
        !read_token(t, g, "tokenizer.ggml.eom_token_id", -1, &eom, e))
        return false;

    t->is_end = calloc(v->n, sizeof *t->is_end);
    if (!t->is_end)
        return sc_fail_memory(e, "the vocabulary");
    if (t->eos >= 0)
        t->is_end[t->eos] = true;
    if (eot >= 0)
        t->is_end[eot] = true;
    if (eom >= 0)
        t->is_end[eom] = true;
    find_ends(t);

    t->add_bos = true;
    t->add_space_prefix = true;
    (void)sc_gguf_read_bool(sc_gguf_find_value(g, "tokenizer.ggml.add_bos_token"), &t->add_bos);
    (void)sc_gguf_read_bool(sc_gguf_find_value(g, "tokenizer.ggml.add_space_prefix"), &t->add_space_prefix);
    return true;
}

struct sc_tokenizer *sc_tokenizer_create(const struct sc_gguf *g, struct sc_error *e)
{
    struct sc_gguf_string model;
    if (!sc_gguf_read_string(sc_gguf_find_value(g, "tokenizer.ggml.model"), &model)) {
        sc_fail(e, SC_BAD_FILE, "%s: the file has no tokenizer (tokenizer.ggml.model)",
                sc_printable_path(sc_gguf_path(g)).text);
        return NULL;
    }
    if (model.size_bytes != 5 || memcmp(model.data, "llama", 5) != 0) {
        sc_fail(e, SC_UNSUPPORTED, "%s: the tokenizer is of kind \"%s\", and Scoria has only \"llama\" (SentencePiece)",
                sc_printable_path(sc_gguf_path(g)).text, sc_printable(model.data, model.size_bytes).text);
        return NULL;
    }
    struct sc_tokenizer *t = calloc(1, sizeof *t);
    if (!t) {
        sc_fail_memory(e, "the tokenizer");
        return NULL;
    }
    if (!vocab_init(&t->vocab, g, e) || !read_ids(t, g, e)) {
        sc_tokenizer_destroy(t);
        return NULL;
    }
    return t;
}

void sc_tokenizer_destroy(struct sc_tokenizer *t)
{
    if (!t)
        return;
    vocab_finish(&t->vocab);
    free(t->is_end);
    free(t);
}

/* The control or unknown piece that text begins with, or -1. */
static sc_token match_special(const struct vocab *v, const char *text, size_t size_bytes)
{
    sc_token control = vocab_match(v, &v->special, PIECE_CONTROL, text, size_bytes);
    return control >= 0 ? control : vocab_match(v, &v->special, PIECE_UNKNOWN, text, size_bytes);
}

/* Text between control pieces is encoded on its own; as in llama.cpp, after each one a new first word begins. */
static bool encode(const struct sc_tokenizer *t, const char *text, size_t size_bytes, uint32_t flags,
                   struct token_list *out, struct sc_error *e)
{
    const struct vocab *v = &t->vocab;
    bool space_prefix = t->add_space_prefix && !(flags & SC_ENCODE_NO_SPACE_PREFIX);
    if ((flags & SC_ENCODE_BOS) && sc_tokenizer_adds_bos(t) && !token_list_add(out, t->bos, e))
        return false;
    size_t start = 0;
    for (size_t i = 0; (flags & SC_ENCODE_SPECIAL) && i < size_bytes;) {
        sc_token special = match_special(v, text + i, size_bytes - i);
        if (special < 0) {
            i++;
            continue;
        }
        if (!spm_encode(v, text + start, i - start, space_prefix, out, e) || !token_list_add(out, special, e))
            return false;
        i += v->pieces[special].size_bytes;
        start = i;
        space_prefix = t->add_space_prefix;
    }
    return spm_encode(v, text + start, size_bytes - start, space_prefix, out, e);
}

bool sc_tokenizer_encode(const struct sc_tokenizer *t, const char *text, size_t size_bytes, uint32_t flags,
                         sc_token **tokens, size_t *n_tokens, struct sc_error *e)
{
    *tokens = NULL;
    *n_tokens = 0;
    if (size_bytes > MAX_TEXT_BYTES)
        return sc_fail(e, SC_INVALID_ARGUMENT, "the text has %zu bytes, and the tokenizer takes at most %d at once",
                       size_bytes, MAX_TEXT_BYTES);
    struct token_list list = {0};
    if (!encode(t, text, size_bytes, flags, &list, e)) {
        free(list.items);
        return false;
    }
    *tokens = list.items;
    *n_tokens = list.n;
    return true;
}

/* Gives the characters that are whole by now. Pending bytes that no character can begin with are replaced. */
static size_t give_whole(struct sc_decoder *d, char *out)
{
    size_t n = 0;
    while (d->n_pending > 0) {
        size_t length = utf8_length(d->pending, d->n_pending);
        if (length == 0 && utf8_is_partial(d->pending, d->n_pending))
            break;
        memcpy(out + n, length ? d->pending : UTF8_REPLACEMENT, length ? length : 3);
        n += length ? length : 3;
        if (length == 0)
            length = 1;
        d->n_pending = (uint8_t)(d->n_pending - length);
        memmove(d->pending, d->pending + length, d->n_pending);
    }
    return n;
}

static size_t give_text(struct sc_decoder *d, const char *text, size_t size_bytes, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < size_bytes; i++) {
        d->pending[d->n_pending++] = text[i];
        n += give_whole(d, out + n);
    }
    return n;
}

/* U+2581 becomes a space, and the first piece loses the space that encoding put there. */
static size_t give_word(const struct sc_tokenizer *t, struct sc_decoder *d, const char *text, size_t size_bytes,
                        char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < size_bytes;) {
        bool space = size_bytes - i >= 3 && memcmp(text + i, "\xE2\x96\x81", 3) == 0;
        if (!space || d->started || !t->add_space_prefix)
            n += give_text(d, space ? " " : text + i, 1, out + n);
        d->started = true;
        i += space ? 3 : 1;
    }
    return n;
}

size_t sc_tokenizer_decode(const struct sc_tokenizer *t, struct sc_decoder *d, sc_token token, bool show_special,
                           char *out)
{
    if (token < 0 || (uint32_t)token >= t->vocab.n)
        return 0;
    const struct piece *p = &t->vocab.pieces[token];
    const char *text = t->vocab.text + p->offset;
    if (p->type == PIECE_BYTE) {
        d->started = true;
        return give_text(d, (const char *)&p->byte, 1, out);
    }
    size_t n = sc_tokenizer_decode_end(d, out); /* only byte pieces continue a character, as in sentencepiece */
    switch ((enum piece_type)p->type) {
    case PIECE_CONTROL: return show_special ? n + give_text(d, text, p->size_bytes, out + n) : n;
    case PIECE_UNKNOWN:
        d->started = true;
        return n + give_text(d, " \xE2\x81\x87 ", 5, out + n); /* what sentencepiece prints for it */
    default: return n + give_word(t, d, text, p->size_bytes, out + n);
    }
}

size_t sc_tokenizer_decode_end(struct sc_decoder *d, char *out)
{
    size_t n = 0;
    for (; d->n_pending > 0; d->n_pending--, n += 3)
        memcpy(out + n, UTF8_REPLACEMENT, 3);
    return n;
}

uint32_t sc_tokenizer_n_vocab(const struct sc_tokenizer *t)
{
    return t->vocab.n;
}

struct sc_gguf_string sc_tokenizer_piece(const struct sc_tokenizer *t, sc_token token)
{
    if (token < 0 || (uint32_t)token >= t->vocab.n)
        return (struct sc_gguf_string){"", 0};
    const struct piece *p = &t->vocab.pieces[token];
    return (struct sc_gguf_string){t->vocab.text + p->offset, p->size_bytes};
}

sc_token sc_tokenizer_find(const struct sc_tokenizer *t, const char *piece, size_t size_bytes)
{
    const struct vocab *v = &t->vocab;
    sc_token token = vocab_find(v, &v->special, piece, size_bytes);
    if (token < 0)
        token = vocab_find(v, &v->words, piece, size_bytes);
    for (int b = 0; token < 0 && b < 256; b++) {
        struct sc_gguf_string s = sc_tokenizer_piece(t, v->bytes[b]);
        if (s.size_bytes == size_bytes && memcmp(s.data, piece, size_bytes) == 0)
            token = v->bytes[b];
    }
    return token;
}

sc_token sc_tokenizer_bos(const struct sc_tokenizer *t)
{
    return t->bos;
}

sc_token sc_tokenizer_eos(const struct sc_tokenizer *t)
{
    return t->eos;
}

bool sc_tokenizer_adds_bos(const struct sc_tokenizer *t)
{
    return t->add_bos && t->bos >= 0;
}

bool sc_tokenizer_is_end(const struct sc_tokenizer *t, sc_token token)
{
    return token >= 0 && (uint32_t)token < t->vocab.n && t->is_end[token];
}

bool sc_tokenizer_is_control(const struct sc_tokenizer *t, sc_token token)
{
    return token >= 0 && (uint32_t)token < t->vocab.n && t->vocab.pieces[token].type == PIECE_CONTROL;
}
