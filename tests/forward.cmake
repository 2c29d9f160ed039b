# SPDX-License-Identifier: Apache-2.0
# Whole models through the public interface. What all of these tests are made of:
set(forward_sources trial.c compare.c reference.c model_builder.c gguf_builder.c)

scoria_test(test_forward SOURCES ${forward_sources} LIBS scoria_runtime LABELS driver)
scoria_test(test_dispatches SOURCES ${forward_sources} LIBS scoria_runtime LABELS driver)
scoria_test(test_session SOURCES ${forward_sources} LIBS scoria_runtime LABELS driver)
scoria_test(test_top SOURCES ${forward_sources} LIBS scoria_runtime LABELS driver)

scoria_test(test_rounded SOURCES ${forward_sources} LIBS scoria_runtime LABELS driver)
scoria_test(test_batch_sizes SOURCES ${forward_sources} LIBS scoria_runtime LABELS driver)
scoria_test(test_host_experts SOURCES ${forward_sources} LIBS scoria_runtime LABELS driver)
scoria_test(test_experts SOURCES ${forward_sources} LIBS scoria_runtime scoria_replay LABELS driver)
scoria_test(test_transformers SOURCES ${forward_sources} LIBS scoria_runtime LABELS driver
    DEFINITIONS SCORIA_TEST_VECTORS="${CMAKE_CURRENT_SOURCE_DIR}/vectors")
scoria_test(test_self_test SOURCES ${forward_sources} LIBS scoria_runtime LABELS driver
    LINK_OPTIONS -Wl,--wrap=volkLoadDeviceTable)
scoria_test(test_autotune LIBS scoria_runtime LABELS driver
    LINK_OPTIONS -Wl,--wrap=volkLoadDeviceTable,--wrap=gpu_timer_run)
# what engines do with a GPU does not hang on the driver that plays one
scoria_test(test_first_start SOURCES ${forward_sources} LIBS scoria_runtime
    LINK_OPTIONS -Wl,--wrap=volkLoadInstanceOnly)
# failing calls and files try the host, so the default driver is enough
scoria_test(test_faults SOURCES ${forward_sources} failing_malloc.c LIBS scoria_runtime
    LINK_OPTIONS -Wl,--wrap=volkLoadDeviceTable,--wrap=malloc,--wrap=calloc,--wrap=realloc)
scoria_test(test_expert_cost LIBS scoria_runtime)
scoria_test(test_interrupted SOURCES ${forward_sources} LIBS scoria_runtime)
scoria_test(test_pace SOURCES ${forward_sources} LIBS scoria_runtime LABELS driver)
scoria_test(test_decide SOURCES model_builder.c gguf_builder.c LIBS scoria_runtime LABELS driver)
scoria_test(test_store SOURCES model_builder.c gguf_builder.c failing_malloc.c LIBS scoria_runtime
    LINK_OPTIONS -Wl,--wrap=pread,--wrap=malloc,--wrap=calloc,--wrap=realloc)
scoria_test(test_disk SOURCES ${forward_sources} LIBS scoria_runtime LINK_OPTIONS -Wl,--wrap=pread)

add_executable(bench_cancel ${PROJECT_SOURCE_DIR}/tools/bench_cancel.c)
target_link_libraries(bench_cancel PRIVATE scoria_runtime scoria_options)
