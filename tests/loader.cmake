# The loader's tests.
scoria_test(test_types LIBS scoria_loader DEFINITIONS SCORIA_TEST_VECTORS="${CMAKE_CURRENT_SOURCE_DIR}/vectors")
scoria_test(test_gguf SOURCES gguf_builder.c model_builder.c LIBS scoria_loader)
scoria_test(test_synthetic SOURCES gguf_builder.c model_builder.c LIBS scoria_loader)
scoria_test(test_config SOURCES gguf_builder.c model_builder.c LIBS scoria_loader)
scoria_test(test_damage SOURCES gguf_builder.c model_builder.c load_everything.c LIBS scoria_loader)
scoria_test(test_guard SOURCES gguf_builder.c model_builder.c load_everything.c LIBS scoria_loader)
scoria_test(test_allocation SOURCES gguf_builder.c model_builder.c load_everything.c failing_malloc.c LIBS scoria_loader
    LINK_OPTIONS -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc)

# Random models and headers, for the benchmarks in tools/.
add_executable(make_model ${PROJECT_SOURCE_DIR}/tools/make_model.c model_builder.c gguf_builder.c)
target_include_directories(make_model PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(make_model PRIVATE scoria_loader scoria_options)

if(SCORIA_FUZZ)
    add_executable(fuzz_gguf fuzz_gguf.c load_everything.c)
    target_link_libraries(fuzz_gguf PRIVATE scoria_loader scoria_options)
    target_compile_options(fuzz_gguf PRIVATE -fsanitize=fuzzer-no-link)
    target_link_options(fuzz_gguf PRIVATE -fsanitize=fuzzer)
endif()
