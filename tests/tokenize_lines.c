/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tools/tokenizer_golden: reads records (size as 4 little-endian bytes, then that many bytes of text) from stdin
 * and prints for each "ids|hex of the text that they decode to". With the name of a chat template, a record is a
 * conversation: the system's message (empty: none), then questions and answers, with a 0x1E byte between them.
 */
#include <stdio.h>
#include <stdlib.h>

#include <string.h>

#include "chat.h"

static void print_hex(const char *bytes, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++)
        printf("%02x", (unsigned char)bytes[i]);
}

static bool encode_conversation(const struct sc_chat *chat, const char *text, size_t size_bytes, sc_token **tokens,
                                size_t *n_tokens, struct sc_error *e)
{
    struct sc_message messages[32] = {{0}};
    size_t n = 0;
    while (n < 32) {
        const char *end = size_bytes ? memchr(text, 0x1E, size_bytes) : NULL;
        size_t length = end ? (size_t)(end - text) : size_bytes;
        enum sc_role role = n == 0 ? SC_ROLE_SYSTEM : n % 2 ? SC_ROLE_USER : SC_ROLE_ASSISTANT;
        messages[n++] = (struct sc_message){.role = role, .text = text, .size_bytes = length};
        if (!end)
            break;
        text += length + 1;
        size_bytes -= length + 1;
    }
    bool has_system = messages[0].size_bytes > 0;
    return sc_chat_encode(chat, messages + !has_system, n - !has_system, tokens, n_tokens, e);
}

static bool answer(const struct sc_tokenizer *t, const struct sc_chat *chat, const char *text, size_t size_bytes,
                   struct sc_error *e)
{
    sc_token *tokens;
    size_t n;
    if (!(chat ? encode_conversation(chat, text, size_bytes, &tokens, &n, e)
               : sc_tokenizer_encode(t, text, size_bytes, 0, &tokens, &n, e)))
        return false;
    for (size_t i = 0; i < n; i++)
        printf("%d ", tokens[i]);
    printf("|");
    struct sc_decoder d = {0};
    char out[SC_DECODE_MAX_BYTES];
    for (size_t i = 0; i < n; i++)
        print_hex(out, sc_tokenizer_decode(t, &d, tokens[i], false, out));
    print_hex(out, sc_tokenizer_decode_end(&d, out));
    printf("\n");
    free(tokens);
    return true;
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: tokenize_lines MODEL.gguf [CHAT_TEMPLATE] < records\n");
        return 2;
    }
    struct sc_error e = {0};
    struct sc_gguf *g = sc_gguf_open(argv[1], &e);
    struct sc_tokenizer *t = g ? sc_tokenizer_create(g, &e) : NULL;
    struct sc_chat *chat = t && argc == 3 ? sc_chat_create(g, t, argv[2], &e) : NULL;
    char *text = NULL;
    bool ok = t && (chat || argc == 2);
    unsigned char size[4];
    while (ok && fread(size, 1, 4, stdin) == 4) {
        size_t size_bytes = size[0] | (size_t)size[1] << 8 | (size_t)size[2] << 16 | (size_t)size[3] << 24;
        char *bigger = realloc(text, size_bytes + 1);
        ok = bigger && fread(bigger, 1, size_bytes, stdin) == size_bytes && answer(t, chat, bigger, size_bytes, &e);
        text = bigger ? bigger : text;
    }
    if (!ok)
        fprintf(stderr, "%s\n", e.code ? e.text : "the records end early");
    free(text);
    sc_chat_destroy(chat);
    sc_tokenizer_destroy(t);
    sc_gguf_close(g);
    return ok ? 0 : 1;
}
