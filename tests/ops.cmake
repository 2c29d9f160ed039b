# The operations and the GPU layer, on every driver.
add_library(test_ops_common OBJECT op_device.c op_cases.c op_kv.c op_reference.c model_builder.c gguf_builder.c)
target_link_libraries(test_ops_common PRIVATE scoria_runtime ${CMOCKA} scoria_options)

foreach(test test_ops test_ops_commands test_ops_faults test_ops_linear test_ops_experts test_ops_single test_ops_attention test_top_k
        test_quantize test_shared_input test_rates)
    scoria_test(${test} SOURCES $<TARGET_OBJECTS:test_ops_common> LIBS scoria_runtime LABELS driver)
endforeach()

add_test(NAME spirv COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/validate-spirv ${PROJECT_BINARY_DIR}/shaders)
set_tests_properties(spirv PROPERTIES SKIP_RETURN_CODE 77)

scoria_test(test_bound LIBS scoria_runtime)
scoria_test(test_gpu LIBS scoria_runtime LABELS driver
    LINK_OPTIONS -Wl,--wrap=volkLoadDeviceTable,--wrap=volkLoadInstanceOnly)
scoria_test(test_upload LIBS scoria_runtime LABELS driver)
scoria_test(test_kernel_bench LIBS scoria_runtime LABELS driver LINK_OPTIONS -Wl,--wrap=volkLoadDeviceTable)
