# Text: tokenizer, conversations, sampling.
set(failing_malloc -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc)
foreach(test test_tokenizer test_vocab test_chat)
    scoria_test(${test} SOURCES vocab_builder.c gguf_builder.c failing_malloc.c LIBS scoria_runtime
        DEFINITIONS SCORIA_TEST_VECTORS="${CMAKE_CURRENT_SOURCE_DIR}/vectors"
                    SCORIA_TEST_MISTRAL="${CMAKE_BINARY_DIR}/tokenizer_golden"
        LINK_OPTIONS ${failing_malloc})
endforeach()
scoria_test(test_sampler SOURCES failing_malloc.c LIBS scoria_runtime LINK_OPTIONS ${failing_malloc})

# skipped until tools/tokenizer_golden/run has made Mistral's vocabularies, which we do not ship
add_test(NAME test_tokenizer_mistral COMMAND test_tokenizer mistral)
set_tests_properties(test_tokenizer_mistral PROPERTIES SKIP_RETURN_CODE 77)

add_executable(tokenize_lines tokenize_lines.c)
target_link_libraries(tokenize_lines PRIVATE scoria_runtime scoria_options)
