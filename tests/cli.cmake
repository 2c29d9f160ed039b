# SPDX-License-Identifier: Apache-2.0
# The command line as a user types it.
find_package(PkgConfig REQUIRED)
pkg_check_modules(TEST_JANSSON REQUIRED IMPORTED_TARGET jansson)

foreach(test test_cli test_cli_bench test_cli_engine test_cli_disk test_cli_plan test_cli_terminal)
    scoria_test(${test} SOURCES program.c cli_models.c model_builder.c gguf_builder.c
                LIBS scoria_loader PkgConfig::TEST_JANSSON
                DEFINITIONS SCORIA_PROGRAM="$<TARGET_FILE:scoria_cli>")
    add_dependencies(${test} scoria_cli)
endforeach()

# A model 1.5 times as large as memory. The sanitizers' own memory would be most of the limit.
if(NOT SCORIA_SANITIZE)
    add_test(NAME memory_limit COMMAND ${PROJECT_SOURCE_DIR}/tools/bench-memory-limit --build ${CMAKE_BINARY_DIR}
        --driver own --limit 128 --vram 30M --ram 20M -n 8
        d=512 ff=1024 layers=8 heads=8 kv=2 experts=29 used=2 vocab=1024 type=q4_k)
    set_tests_properties(memory_limit PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 300)
endif()
