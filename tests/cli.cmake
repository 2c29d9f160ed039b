# SPDX-License-Identifier: Apache-2.0
# The command line as a user types it.
find_package(PkgConfig REQUIRED)
pkg_check_modules(TEST_JANSSON REQUIRED IMPORTED_TARGET jansson)

foreach(test test_cli test_cli_engine test_cli_terminal)
    scoria_test(${test} SOURCES program.c cli_models.c model_builder.c gguf_builder.c
                LIBS scoria_loader PkgConfig::TEST_JANSSON
                DEFINITIONS SCORIA_PROGRAM="$<TARGET_FILE:scoria_cli>")
    add_dependencies(${test} scoria_cli)
endforeach()
