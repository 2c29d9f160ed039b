# The cache of experts without a device: the simulator (tools/simulate-experts) and the policy's tests.
add_library(scoria_replay STATIC ${PROJECT_SOURCE_DIR}/tools/belady.c ${PROJECT_SOURCE_DIR}/tools/belady_priced.c
            ${PROJECT_SOURCE_DIR}/tools/replay.c ${PROJECT_SOURCE_DIR}/tools/routing_file.c)
target_include_directories(scoria_replay PUBLIC ${PROJECT_SOURCE_DIR}/tools)
target_link_libraries(scoria_replay PUBLIC scoria_policy PRIVATE scoria_options)

add_executable(simulate_experts ${PROJECT_SOURCE_DIR}/tools/simulate_experts.c ${PROJECT_SOURCE_DIR}/cli/curve.c)
target_include_directories(simulate_experts PRIVATE ${PROJECT_SOURCE_DIR}/cli)
target_link_libraries(simulate_experts PRIVATE scoria_replay m scoria_options)

scoria_test(test_duel LIBS scoria_policy)
scoria_test(test_policy LIBS scoria_replay DEFINITIONS SCORIA_TEST_VECTORS="${CMAKE_CURRENT_SOURCE_DIR}/vectors")

# for tools/bench-budgets
add_executable(draw_curves ${PROJECT_SOURCE_DIR}/tools/draw_curves.c ${PROJECT_SOURCE_DIR}/cli/curve.c)
target_include_directories(draw_curves PRIVATE ${PROJECT_SOURCE_DIR}/cli)
target_link_libraries(draw_curves PRIVATE scoria_loader m scoria_options)
