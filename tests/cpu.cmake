# The experts on the CPU: their tests and their benchmark (tools/bench-cpu-experts).
add_executable(bench_cpu_experts ${PROJECT_SOURCE_DIR}/tools/bench_cpu_experts.c gguf_builder.c model_builder.c)
target_include_directories(bench_cpu_experts PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(bench_cpu_experts PRIVATE scoria_cpu scoria_options)

scoria_test(test_cpu_experts SOURCES gguf_builder.c model_builder.c LIBS scoria_cpu)
