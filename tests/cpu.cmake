# The experts on the CPU: their tests and their benchmarks (tools/bench-cpu-experts, tools/bench-cpu-peer).
foreach(bench bench_cpu_experts bench_cpu_model)
    add_executable(${bench} ${PROJECT_SOURCE_DIR}/tools/${bench}.c gguf_builder.c model_builder.c)
    target_include_directories(${bench} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
    target_link_libraries(${bench} PRIVATE scoria_cpu scoria_options)
endforeach()

scoria_test(test_cpu_experts SOURCES gguf_builder.c model_builder.c LIBS scoria_cpu)
