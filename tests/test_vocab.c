/* SPDX-License-Identifier: Apache-2.0 */
/* Vocabularies from files that are wrong, odd or from other tools: a clear error each, or the promised behaviour. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vocab_builder.h"

static void add(struct vocab_builder *b, const char *text, float score, int32_t type)
{
    vocab_builder_piece(b, text, strlen(text), score, type);
}

/* <unk> <s> </s> a b ab: enough for a valid file. */
static void add_basic(struct vocab_builder *b)
{
    add(b, "<unk>", 0, PIECE_UNKNOWN);
    add(b, "<s>", 0, PIECE_CONTROL);
    add(b, "</s>", 0, PIECE_CONTROL);
    add(b, "a", -2, PIECE_NORMAL);
    add(b, "b", -3, PIECE_NORMAL);
    add(b, "ab", -1, PIECE_NORMAL);
}

static struct sc_tokenizer *create(struct vocab_builder *b)
{
    struct sc_error e = {0};
    struct sc_gguf *g = vocab_builder_open(b);
    struct sc_tokenizer *t = sc_tokenizer_create(g, &e);
    sc_gguf_close(g);
    if (!t)
        fail_msg("%s", e.text);
    assert_int_equal(e.code, SC_OK);
    return t;
}

static void expect_failure(struct vocab_builder *b, enum sc_code code, const char *text)
{
    struct sc_error e = {0};
    struct sc_gguf *g = vocab_builder_open(b);
    struct sc_tokenizer *t = sc_tokenizer_create(g, &e);
    sc_gguf_close(g);
    if (t || e.code != code || !strstr(e.text, text))
        fail_msg("expected code %d and \"%s\", got %d and \"%s\"", code, text, e.code, e.text);
}

static void expect_tokens(const struct sc_tokenizer *t, const char *text, const sc_token *want, size_t n_want)
{
    struct sc_error e = {0};
    sc_token *tokens;
    size_t n;
    assert_true(sc_tokenizer_encode(t, text, strlen(text), SC_ENCODE_NO_SPACE_PREFIX, &tokens, &n, &e));
    assert_int_equal(n, n_want);
    assert_memory_equal(tokens, want, n * sizeof *want);
    free(tokens);
}

static void test_bad_files(void **state)
{
    (void)state;
    static const char *const kinds[] = {"gpt2", "bert", "llam", "llamas", ""};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct vocab_builder b = {0};
        char want[64];
        snprintf(want, sizeof want, "of kind \"%s\"", kinds[i]);
        gguf_builder_string(&b.file, "tokenizer.ggml.model", kinds[i]);
        add_basic(&b);
        expect_failure(&b, SC_UNSUPPORTED, want);
    }
    static const struct {
        const char *omit, *text;
    } omitted[] = {
        {"tokenizer.ggml.model", "has no tokenizer"},
        {"tokenizer.ggml.tokens", "no tokenizer.ggml.tokens"},
        {"tokenizer.ggml.scores", "no tokenizer.ggml.scores"},
    };
    for (size_t i = 0; i < sizeof omitted / sizeof *omitted; i++) {
        struct vocab_builder b = {.file.omit = omitted[i].omit};
        add_basic(&b);
        expect_failure(&b, SC_BAD_FILE, omitted[i].text);
    }
    {
        struct vocab_builder b = {0};
        expect_failure(&b, SC_BAD_FILE, "no tokenizer.ggml.tokens");
    }
    static const float scores[7] = {0};
    static const struct {
        const char *key;
        uint32_t type;
        uint64_t n;
        size_t size_bytes;
        const char *text;
    } arrays[] = {
        {"tokenizer.ggml.tokens", SC_GGUF_F32, 6, 24, "holds no strings"},
        {"tokenizer.ggml.scores", SC_GGUF_F32, 5, 20, "no array of 6 elements"},
        {"tokenizer.ggml.scores", SC_GGUF_F32, 7, 28, "no array of 6 elements"},
        {"tokenizer.ggml.scores", SC_GGUF_BOOL, 6, 6, "score of token 0 is not"},
        {"tokenizer.ggml.token_type", SC_GGUF_I32, 5, 20, "no array of 6 elements"},
        {"tokenizer.ggml.token_type", SC_GGUF_F32, 6, 24, "token 0 has a type that does not exist"},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        struct vocab_builder b = {0};
        gguf_builder_array(&b.file, arrays[i].key, arrays[i].type, arrays[i].n, scores, arrays[i].size_bytes);
        add_basic(&b);
        expect_failure(&b, SC_BAD_FILE, arrays[i].text);
    }
    struct vocab_builder b = {0};
    gguf_builder_u32(&b.file, "tokenizer.ggml.scores", 3);
    add_basic(&b);
    expect_failure(&b, SC_BAD_FILE, "no array of 6 elements");
}

static void test_bad_pieces(void **state)
{
    (void)state;
    char longest[VOCAB_MAX_PIECE_BYTES + 1];
    memset(longest, 'x', sizeof longest);
    static const struct {
        const char *text;
        float score;
        int32_t type;
        const char *error;
    } cases[] = {
        {"x", NAN, PIECE_NORMAL, "score of token 6 is not a finite number"},
        {"x", INFINITY, PIECE_NORMAL, "score of token 6 is not a finite number"},
        {"x", -INFINITY, PIECE_NORMAL, "score of token 6 is not a finite number"},
        {"x", 0, -1, "token 6 has a type that does not exist"},
        {"x", 0, 7, "token 6 has a type that does not exist"},
        {"x", 0, INT32_MAX, "token 6 has a type that does not exist"},
        {"<0x4G>", 0, PIECE_BYTE, "token 6 is a byte but its text names none"},
        {"A", 0, PIECE_BYTE, "token 6 is a byte but its text names none"},
        {"", 0, PIECE_BYTE, "token 6 is a byte but its text names none"},
        {"x\xE2\x96", 0, PIECE_USER_DEFINED, "token 6 is user-defined but not UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct vocab_builder b = {0};
        add_basic(&b);
        add(&b, cases[i].text, cases[i].score, cases[i].type);
        expect_failure(&b, SC_BAD_FILE, cases[i].error);
    }
    struct vocab_builder b = {0};
    add_basic(&b);
    vocab_builder_piece(&b, longest, sizeof longest, 0, PIECE_NORMAL);
    expect_failure(&b, SC_UNSUPPORTED, "token 6 is 339 bytes long");

    add(&b, "a", 0, PIECE_NORMAL);
    expect_failure(&b, SC_BAD_FILE, "neither an unknown token nor all 256 bytes");
}

static void test_ids(void **state)
{
    (void)state;
    static const char *const keys[] = {
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id",
    };
    for (size_t i = 0; i < 4; i++) {
        struct vocab_builder b = {0};
        gguf_builder_u32(&b.file, keys[i], 6);
        add_basic(&b);
        expect_failure(&b, SC_BAD_FILE, "is 6, but the vocabulary has 6 tokens");
        gguf_builder_string(&b.file, keys[i], "1");
        add_basic(&b);
        expect_failure(&b, SC_BAD_FILE, "is not a number");
        gguf_builder_f32(&b.file, keys[i], NAN);
        add_basic(&b);
        expect_failure(&b, SC_BAD_FILE, keys[i]);
    }
    struct vocab_builder b = {0};
    add_basic(&b);
    struct sc_tokenizer *t = create(&b); /* defaults */
    assert_int_equal(sc_tokenizer_bos(t), 1);
    assert_int_equal(sc_tokenizer_eos(t), 2);
    assert_true(sc_tokenizer_is_end(t, 2) && !sc_tokenizer_is_end(t, 1));
    assert_false(sc_tokenizer_is_end(t, -1) || sc_tokenizer_is_end(t, 6) || sc_tokenizer_is_end(t, INT32_MIN));
    sc_tokenizer_destroy(t);

    gguf_builder_u32(&b.file, "tokenizer.ggml.bos_token_id", UINT32_MAX); /* none */
    gguf_builder_u32(&b.file, "tokenizer.ggml.eos_token_id", 3);
    gguf_builder_u32(&b.file, "tokenizer.ggml.eot_token_id", 4);
    gguf_builder_u32(&b.file, "tokenizer.ggml.eom_token_id", 5);
    add_basic(&b);
    t = create(&b);
    assert_int_equal(sc_tokenizer_bos(t), -1);
    assert_false(sc_tokenizer_adds_bos(t));
    assert_false(sc_tokenizer_is_end(t, 2));
    assert_true(sc_tokenizer_is_end(t, 3) && sc_tokenizer_is_end(t, 4) && sc_tokenizer_is_end(t, 5));
    sc_tokenizer_destroy(t);
}

/* Nobody may end a turn by writing its end, even if the file calls that piece user-defined. */
static void test_markers(void **state)
{
    (void)state;
    struct vocab_builder b = {0};
    add_basic(&b);
    add(&b, "<|im_end|>", 0, PIECE_USER_DEFINED);
    add(&b, "<end_of_turn>", 0, PIECE_NORMAL);
    struct sc_tokenizer *t = create(&b);
    assert_true(sc_tokenizer_is_control(t, 6) && sc_tokenizer_is_end(t, 6));
    assert_false(sc_tokenizer_is_end(t, 7));
    expect_tokens(t, "ab<|im_end|>ab", (sc_token[]){5, 0, 5}, 3);
    sc_tokenizer_destroy(t);
}

static void test_odd_pieces(void **state)
{
    (void)state;
    struct vocab_builder b = {0};
    add_basic(&b);
    add(&b, "ab", 5, PIECE_NORMAL); /* 6, 7: the first of equal pieces counts */
    add(&b, "a", 5, PIECE_NORMAL);
    add(&b, "", 0, PIECE_NORMAL); /* 8, 9: matches nowhere */
    add(&b, "", 0, PIECE_USER_DEFINED);
    add(&b, "<s>", 0, PIECE_NORMAL);          /* 10: a word like a control piece */
    add(&b, "\xFF\xE2\x96", 0, PIECE_NORMAL); /* 11: no UTF-8 */
    add(&b, "bab", -9, PIECE_NORMAL);         /* 12: never reached, because "ab" merges first */
    struct sc_tokenizer *t = create(&b);
    assert_int_equal(sc_tokenizer_n_vocab(t), 13);
    expect_tokens(t, "abab", (sc_token[]){5, 5}, 2);
    expect_tokens(t, "bab", (sc_token[]){12}, 1);
    assert_int_equal(sc_tokenizer_find(t, "", 0), -1);
    assert_int_equal(sc_tokenizer_find(t, "<s>", 3), 1);
    assert_int_equal(sc_tokenizer_piece(t, 11).size_bytes, 3);
    assert_int_equal(sc_tokenizer_piece(t, 13).size_bytes, 0);
    assert_int_equal(sc_tokenizer_piece(t, -1).size_bytes, 0);
    struct sc_decoder d = {0};
    char out[SC_DECODE_MAX_BYTES];
    assert_int_equal(sc_tokenizer_decode(t, &d, 8, false, out), 0);
    assert_int_equal(sc_tokenizer_decode(t, &d, 11, false, out), 3);
    assert_int_equal(sc_tokenizer_decode_end(&d, out), 6);
    sc_tokenizer_destroy(t);

    /* the longest pieces there may be, and the most text that one call can give */
    char longest[VOCAB_MAX_PIECE_BYTES];
    memset(longest, 0xFF, sizeof longest);
    add_basic(&b);
    vocab_builder_piece(&b, longest, sizeof longest, 0, PIECE_NORMAL);
    add(&b, "\xF0\x9F\x98", 0, PIECE_NORMAL);
    t = create(&b);
    d = (struct sc_decoder){0};
    assert_int_equal(sc_tokenizer_decode(t, &d, 7, false, out), 0);
    assert_int_equal(sc_tokenizer_decode(t, &d, 6, false, out), 9 + 3 * VOCAB_MAX_PIECE_BYTES);
    sc_tokenizer_destroy(t);
}

static void test_missing_types(void **state)
{
    (void)state;
    struct vocab_builder b = {.file.omit = "tokenizer.ggml.token_type"};
    add_basic(&b);
    add(&b, "<0x41>", 0, PIECE_BYTE);
    struct sc_tokenizer *t = create(&b);
    assert_true(sc_tokenizer_is_control(t, 1) && sc_tokenizer_is_control(t, 2) && !sc_tokenizer_is_control(t, 3));
    expect_tokens(t, "<s>ab", (sc_token[]){0, 5}, 2);
    struct sc_decoder d = {0};
    char out[SC_DECODE_MAX_BYTES];
    assert_int_equal(sc_tokenizer_decode(t, &d, 6, false, out), 1);
    assert_int_equal(out[0], 'A');
    assert_int_equal(sc_tokenizer_find(t, "<0x41>", 6), 6);
    sc_tokenizer_destroy(t);
}

static void use(const struct sc_tokenizer *t)
{
    static const char text[] = "ab<s>abba</s> \xC3\xA9 \xFF<0x41>";
    struct sc_error e = {0};
    for (uint32_t flags = 0; flags < 8; flags++) {
        sc_token *tokens;
        size_t n;
        assert_true(sc_tokenizer_encode(t, text, sizeof text - 1, flags, &tokens, &n, &e));
        for (size_t i = 0; i < n; i++)
            assert_in_range(tokens[i], 0, sc_tokenizer_n_vocab(t) - 1);
        free(tokens);
    }
    struct sc_decoder d = {0};
    char out[SC_DECODE_MAX_BYTES];
    for (sc_token token = -1; token <= (sc_token)sc_tokenizer_n_vocab(t); token++) {
        assert_true(sc_tokenizer_decode(t, &d, token, true, out) <= sizeof out);
        (void)sc_tokenizer_is_end(t, token);
    }
}

/* Every byte of a file changed in several ways: it opens and then works, or says why not. */
static void test_damage(void **state)
{
    (void)state;
    static const uint8_t flips[] = {0x01, 0x80, 0xFF};
    struct vocab_builder b = {0};
    struct byte_buffer image = {0};
    add_basic(&b);
    add(&b, "<0x41>", 0, PIECE_BYTE);
    add(&b, "\xC3\xA9", 0, PIECE_USER_DEFINED);
    add(&b, "bb", 0, PIECE_UNUSED);
    vocab_builder_image(&b, &image);
    int n_good = 0, n_bad = 0;
    for (size_t i = 0; i < image.size_bytes; i++)
        for (size_t f = 0; f < sizeof flips; f++) {
            struct sc_error e = {0};
            image.data[i] ^= flips[f];
            struct sc_gguf *g = vocab_image_open(&image, &e);
            struct sc_tokenizer *t = g ? sc_tokenizer_create(g, &e) : NULL;
            sc_gguf_close(g);
            if (t)
                use(t);
            assert_true(t ? e.code == SC_OK : e.code != SC_OK && e.text[0]);
            n_good += t != NULL;
            n_bad += !t;
            sc_tokenizer_destroy(t);
            image.data[i] ^= flips[f];
        }
    byte_buffer_finish(&image);
    assert_true(n_good > 100 && n_bad > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_bad_pieces),    cmocka_unit_test(test_ids),
        cmocka_unit_test(test_markers),   cmocka_unit_test(test_missing_types), cmocka_unit_test(test_odd_pieces),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
