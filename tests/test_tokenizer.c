/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding and decoding: against sentencepiece's recorded answers, round trips, and the rules of the header. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "failing_malloc.h"
#include "utf8.h"
#include "vocab_builder.h"

enum { UNK = 0, BOS = 1, EOS = 2, REF = 3, FIRST_BYTE = 7 }; /* of small_vocab.txt */

static struct sc_tokenizer *create(struct sc_gguf *g)
{
    struct sc_error e = {0};
    struct sc_tokenizer *t = sc_tokenizer_create(g, &e);
    sc_gguf_close(g); /* it copies what it needs */
    if (!t)
        fail_msg("%s", e.text);
    return t;
}

static struct sc_tokenizer *create_small(enum small_vocab version)
{
    struct vocab_builder b = {0};
    vocab_builder_small(&b, version);
    return create(vocab_builder_open(&b));
}

static sc_token *encode(const struct sc_tokenizer *t, const char *text, size_t size_bytes, uint32_t flags, size_t *n)
{
    struct sc_error e = {0};
    sc_token *tokens;
    if (!sc_tokenizer_encode(t, text, size_bytes, flags, &tokens, n, &e))
        fail_msg("%s", e.text);
    return tokens;
}

/* Checks on the way that every call gives whole characters. *size_bytes of text, to be freed. */
static char *decode(const struct sc_tokenizer *t, const sc_token *tokens, size_t n, bool show_special,
                    size_t *size_bytes)
{
    struct sc_decoder d = {0};
    char out[SC_DECODE_MAX_BYTES];
    struct byte_buffer text = {0};
    for (size_t i = 0; i <= n; i++) {
        size_t given =
            i < n ? sc_tokenizer_decode(t, &d, tokens[i], show_special, out) : sc_tokenizer_decode_end(&d, out);
        assert_true(given <= sizeof out);
        for (size_t at = 0, length; at < given; at += length) {
            length = utf8_length(out + at, given - at);
            assert_true(length > 0);
        }
        byte_buffer_append(&text, out, given);
    }
    *size_bytes = text.size_bytes;
    byte_buffer_append(&text, "", 1);
    return (char *)text.data;
}

static void expect_tokens(const struct sc_tokenizer *t, const char *text, uint32_t flags, const sc_token *want,
                          size_t n_want)
{
    size_t n;
    sc_token *tokens = encode(t, text, strlen(text), flags, &n);
    if (n != n_want || (n && memcmp(tokens, want, n * sizeof *want) != 0)) {
        for (size_t i = 0; i < n; i++)
            print_message("%d ", tokens[i]);
        fail_msg("\"%s\" with flags %u: not the tokens that were expected", text, flags);
    }
    free(tokens);
}

static void expect_text(const struct sc_tokenizer *t, const sc_token *tokens, size_t n, bool show_special,
                        const char *want)
{
    size_t size_bytes;
    char *text = decode(t, tokens, n, show_special, &size_bytes);
    assert_string_equal(text, want);
    free(text);
}

static size_t parse_hex(const char *hex, char *out)
{
    size_t n = 0;
    for (unsigned byte; sscanf(hex + n * 2, "%2x", &byte) == 1; n++)
        out[n] = (char)byte;
    return n;
}

/* The part of a line before the next '|', which becomes a 0. */
static char *next_field(char **line)
{
    char *field = *line;
    size_t length = strcspn(field, "|\n");
    *line = field + length + 1;
    field[length] = 0;
    return field;
}

static void expect_ids(const struct sc_tokenizer *t, const char *text, size_t size_bytes, const char *ids, int line)
{
    size_t n;
    sc_token *tokens = encode(t, text, size_bytes, 0, &n);
    for (size_t i = 0; i < n; i++) {
        char *end;
        if (strtol(ids, &end, 10) != tokens[i] || end == ids)
            fail_msg("line %d: token %zu is %d and should be%s", line, i, tokens[i], ids);
        ids = end;
    }
    if (*ids)
        fail_msg("line %d: there should follow %s", line, ids);
    free(tokens);
}

static char golden_line[16384];

static void test_golden(void **state)
{
    (void)state;
    struct sc_tokenizer *t[3];
    for (int i = 0; i < 3; i++)
        t[i] = create_small((enum small_vocab)i);
    FILE *f = fopen(SCORIA_TEST_VECTORS "/small_golden.txt", "rb");
    assert_non_null(f);
    int n_lines = 0;
    while (fgets(golden_line, sizeof golden_line, f)) {
        char text[2048], decoded[4096], *at = golden_line;
        n_lines++;
        size_t text_bytes = parse_hex(next_field(&at), text);
        size_t decoded_bytes = parse_hex(next_field(&at), decoded);
        for (int i = 0; i < 3; i++)
            expect_ids(t[i], text, text_bytes, next_field(&at), n_lines);

        size_t n, got_bytes;
        sc_token *tokens = encode(t[0], text, text_bytes, 0, &n);
        char *got = decode(t[0], tokens, n, false, &got_bytes);
        if (got_bytes != decoded_bytes || memcmp(got, decoded, got_bytes) != 0)
            fail_msg("line %d: decodes to \"%s\"", n_lines, got);
        free(got);
        free(tokens);
    }
    fclose(f);
    assert_true(n_lines >= 150);
    for (int i = 0; i < 3; i++)
        sc_tokenizer_destroy(t[i]);
}

static const char mistral_v1[] = SCORIA_TEST_MISTRAL "/mistral-v1.gguf";
static const char mistral_v3[] = SCORIA_TEST_MISTRAL "/mistral-v3.gguf";

static void test_mistral_golden(void **state)
{
    (void)state;
    struct sc_error e = {0};
    struct sc_gguf *g1 = sc_gguf_open(mistral_v1, &e), *g3 = sc_gguf_open(mistral_v3, &e);
    assert_int_equal(e.code, SC_OK);
    struct sc_tokenizer *v1 = create(g1), *v3 = create(g3);
    FILE *f = fopen(SCORIA_TEST_VECTORS "/mistral_golden.txt", "rb");
    assert_non_null(f);
    int n_lines = 0;
    while (fgets(golden_line, sizeof golden_line, f)) {
        char text[2048], *at = golden_line;
        n_lines++;
        size_t text_bytes = parse_hex(next_field(&at), text);
        expect_ids(v1, text, text_bytes, next_field(&at), n_lines);
        expect_ids(v3, text, text_bytes, next_field(&at), n_lines);
    }
    fclose(f);
    assert_true(n_lines >= 150);
    sc_tokenizer_destroy(v1);
    sc_tokenizer_destroy(v3);
}

static uint32_t random_below(uint32_t n)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

/* A random character, but not U+2581, which decodes to a space. */
static size_t random_character(char *out)
{
    for (;;) {
        size_t length = 1 + random_below(4);
        if (length == 1) {
            out[0] = (char)random_below(128);
            return 1;
        }
        for (size_t i = 0; i < length; i++)
            out[i] = (char)(i ? 0x80 + random_below(64) : 0xC0 + random_below(56));
        if (utf8_length(out, length) == length && memcmp(out, "\xE2\x96\x81", 3) != 0)
            return length;
    }
}

static void test_round_trip(void **state)
{
    (void)state;
    struct sc_tokenizer *t = create_small(SMALL_WITH_BYTES);
    for (int round = 0; round < 3000; round++) {
        char text[300], want[900];
        size_t size_bytes = 0, want_bytes = 0;
        bool broken = round % 2;
        while (size_bytes < 1 + random_below(250)) {
            if (broken && random_below(3) == 0)
                text[size_bytes++] = (char)random_below(256);
            else if (random_below(2))
                text[size_bytes++] = "the  <[]/>abc\n"[random_below(14)];
            else
                size_bytes += random_character(text + size_bytes);
        }
        for (size_t i = 0, length; i < size_bytes; i += length ? length : 1) {
            length = utf8_length(text + i, size_bytes - i);
            bool space = length == 3 && memcmp(text + i, "\xE2\x96\x81", 3) == 0;
            const char *c = space ? " " : length ? text + i : UTF8_REPLACEMENT;
            size_t c_bytes = space ? 1 : length ? length : 3;
            memcpy(want + want_bytes, c, c_bytes);
            want_bytes += c_bytes;
        }
        size_t n, got_bytes;
        sc_token *tokens = encode(t, text, size_bytes, SC_ENCODE_BOS, &n);
        for (size_t i = 1; i < n; i++)
            assert_false(sc_tokenizer_is_control(t, tokens[i]));
        char *got = decode(t, tokens, n, false, &got_bytes);
        if (got_bytes != want_bytes || memcmp(got, want, want_bytes) != 0)
            fail_msg("round %d: %zu bytes became %zu", round, want_bytes, got_bytes);
        free(got);
        free(tokens);
    }
    sc_tokenizer_destroy(t);
}

/* A method that is not O(n log n) would not come to an end here. */
static void test_long_texts(void **state)
{
    (void)state;
    struct sc_tokenizer *t = create_small(SMALL_WITH_BYTES);
    size_t size_bytes = 1 << 18;
    char *text = malloc(size_bytes);
    assert_non_null(text);
    static const char *const patterns[] = {"t", "the ", " ", "\xFF", "[REF"};
    for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
        for (size_t i = 0; i < size_bytes; i++)
            text[i] = patterns[p][i % strlen(patterns[p])];
        size_t n, decoded_bytes;
        sc_token *tokens = encode(t, text, size_bytes, SC_ENCODE_SPECIAL, &n);
        free(decode(t, tokens, n, false, &decoded_bytes));
        assert_int_equal(decoded_bytes, patterns[p][0] == '\xFF' ? 3 * size_bytes : size_bytes);
        free(tokens);
    }
    free(text);
    sc_tokenizer_destroy(t);
}

static void test_flags(void **state)
{
    (void)state;
    struct sc_tokenizer *t = create_small(SMALL_WITH_BYTES);
    sc_token the = sc_tokenizer_find(t, "\xE2\x96\x81the", 6), space = sc_tokenizer_find(t, "\xE2\x96\x81", 3);
    sc_token x = sc_tokenizer_find(t, "x", 1);
    assert_true(the > 0 && space > 0 && x > 0);

    expect_tokens(t, "", 0, NULL, 0);
    expect_tokens(t, "", SC_ENCODE_BOS, (sc_token[]){BOS}, 1);
    expect_tokens(t, "the", SC_ENCODE_BOS, (sc_token[]){BOS, the}, 2);
    expect_tokens(t, " the", SC_ENCODE_NO_SPACE_PREFIX, (sc_token[]){the}, 1);
    expect_tokens(t, "x", SC_ENCODE_NO_SPACE_PREFIX, (sc_token[]){x}, 1);
    expect_tokens(t, "[REF]x", 0, (sc_token[]){space, REF, x}, 3); /* user-defined: no flag needed, no new word */

    /* control pieces: each begins a new word */
    expect_tokens(t, "</s>the<s>the", SC_ENCODE_SPECIAL, (sc_token[]){EOS, the, BOS, the}, 4);
    expect_tokens(t, "the</s>", SC_ENCODE_SPECIAL, (sc_token[]){the, EOS}, 2);
    expect_tokens(t, "</s>the", SC_ENCODE_SPECIAL | SC_ENCODE_NO_SPACE_PREFIX, (sc_token[]){EOS, the}, 2);
    expect_tokens(t, " the</s>the", SC_ENCODE_SPECIAL | SC_ENCODE_NO_SPACE_PREFIX, (sc_token[]){the, EOS, the}, 3);
    expect_tokens(t, "<unk>", SC_ENCODE_SPECIAL, (sc_token[]){UNK}, 1);
    expect_text(t, (sc_token[]){BOS, the, EOS, the}, 4, false, "the the");
    expect_text(t, (sc_token[]){BOS, the, EOS, the}, 4, true, "<s>the</s> the");
    sc_tokenizer_destroy(t);

    struct vocab_builder b = {0};
    gguf_builder_bool(&b.file, "tokenizer.ggml.add_bos_token", false);
    gguf_builder_bool(&b.file, "tokenizer.ggml.add_space_prefix", false);
    vocab_builder_small(&b, SMALL_WITH_BYTES);
    t = create(vocab_builder_open(&b));
    assert_false(sc_tokenizer_adds_bos(t));
    expect_tokens(t, "x the</s>x", SC_ENCODE_BOS | SC_ENCODE_SPECIAL, (sc_token[]){x, the, EOS, x}, 4);
    expect_text(t, (sc_token[]){the, the}, 2, false, " the the");
    sc_tokenizer_destroy(t);
}

static void test_decoder(void **state)
{
    (void)state;
    struct sc_tokenizer *t = create_small(SMALL_WITH_BYTES);
    sc_token the = sc_tokenizer_find(t, "\xE2\x96\x81the", 6);
#define BYTE(b) (FIRST_BYTE + (b))
    expect_text(t, (sc_token[]){BYTE(0xE2), BYTE(0x82), BYTE(0xAC)}, 3, false, "\xE2\x82\xAC");
    expect_text(t, (sc_token[]){BYTE(0xE2), BYTE(0x82)}, 2, false, UTF8_REPLACEMENT UTF8_REPLACEMENT);
    expect_text(t, (sc_token[]){BYTE(0xE2), the}, 2, false, UTF8_REPLACEMENT " the");
    expect_text(t, (sc_token[]){BYTE(0xF0), BYTE(0x9F), BYTE(0xC3), BYTE(0xA9)}, 4, false,
                UTF8_REPLACEMENT UTF8_REPLACEMENT "\xC3\xA9");
    expect_text(t, (sc_token[]){BYTE(0x80), BYTE('a')}, 2, false, UTF8_REPLACEMENT "a");
    expect_text(t, (sc_token[]){the, UNK, the}, 3, false, "the \xE2\x81\x87  the");
    expect_text(t, (sc_token[]){-1, the, 1000000, INT32_MIN, INT32_MAX}, 5, true, "the");

    struct sc_decoder d = {0};
    char out[SC_DECODE_MAX_BYTES];
    assert_int_equal(sc_tokenizer_decode(t, &d, BYTE(0xF0), false, out), 0);
    assert_int_equal(sc_tokenizer_decode(t, &d, BYTE(0x9F), false, out), 0);
    assert_int_equal(sc_tokenizer_decode(t, &d, BYTE(0x98), false, out), 0);
    assert_int_equal(sc_tokenizer_decode(t, &d, BYTE(0x80), false, out), 4);
    assert_memory_equal(out, "\xF0\x9F\x98\x80", 4);
    assert_int_equal(sc_tokenizer_decode_end(&d, out), 0);
    sc_tokenizer_destroy(t);
}

static void test_allocation_failures(void **state)
{
    (void)state;
    struct vocab_builder b = {0};
    vocab_builder_small(&b, SMALL_WITH_UNUSED);
    struct sc_gguf *g = vocab_builder_open(&b);
    static const char text[] = "the same procedure as every year, </s> the same in \xC3\xBC and \xFF";
    long n = 0;
    for (bool done = false; !done; n++) {
        struct sc_error e = {0};
        sc_token *tokens = NULL;
        size_t n_tokens = 0;
        fail_malloc(n);
        struct sc_tokenizer *t = sc_tokenizer_create(g, &e);
        done = t && sc_tokenizer_encode(t, text, sizeof text - 1, SC_ENCODE_SPECIAL, &tokens, &n_tokens, &e);
        bool failed = malloc_has_failed();
        fail_malloc(-1);
        assert_true(done == !failed);
        assert_int_equal(e.code, done ? SC_OK : SC_OUT_OF_MEMORY);
        assert_true(done == (tokens != NULL) && done == (n_tokens > 0));
        free(tokens);
        sc_tokenizer_destroy(t);
    }
    assert_true(n > 10);
    sc_gguf_close(g);
}

/* With the argument "mistral" only what needs Mistral's vocabularies; exit status 77 if they are not there. */
int main(int argc, char **argv)
{
    (void)argv;
    const struct CMUnitTest mistral_tests[] = {cmocka_unit_test(test_mistral_golden)};
    if (argc > 1 && (access(mistral_v1, R_OK) != 0 || access(mistral_v3, R_OK) != 0)) {
        print_message(
            "skipped: Mistral's vocabularies are made by tools/tokenizer_golden/run, which has not run here\n");
        return 77;
    }
    if (argc > 1)
        return cmocka_run_group_tests(mistral_tests, NULL, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden), cmocka_unit_test(test_round_trip), cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_flags),  cmocka_unit_test(test_decoder),    cmocka_unit_test(test_allocation_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
