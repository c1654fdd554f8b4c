# How a library, a binary, a test, a bench and a fuzz target are declared.

add_library(stem_strict INTERFACE)
add_library(stem::strict ALIAS stem_strict)
target_compile_options(stem_strict INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wno-missing-field-initializers -Wnon-virtual-dtor
    -Woverloaded-virtual -Werror>
  $<$<COMPILE_LANG_AND_ID:CXX,Clang>:-Wthread-safety>
  $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)

add_library(stem_base INTERFACE)  # what every part of ours is compiled with
target_include_directories(stem_base INTERFACE ${PROJECT_SOURCE_DIR})
if(STEM_SANITIZE)
  target_compile_options(stem_base INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${STEM_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(stem_base INTERFACE -fsanitize=${STEM_SANITIZE})
  if(STEM_SANITIZE STREQUAL "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(stem_base INTERFACE -Wno-tsan)  # it does not follow fences, which order what it need not know of
  endif()
endif()
if(STEM_FUZZ)
  target_compile_options(stem_base INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=fuzzer-no-link>)
endif()

# stem_library(part SOURCES a.cc ... DEPS other ...): target stem_<part>, alias stem::<part>.
function(stem_library part)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  if(ARG_SOURCES)
    add_library(stem_${part} STATIC ${ARG_SOURCES})
    target_link_libraries(stem_${part} PUBLIC stem_base ${ARG_DEPS} PRIVATE stem::strict ${ARG_PRIVATE_DEPS})
  else()
    add_library(stem_${part} INTERFACE)
    target_link_libraries(stem_${part} INTERFACE stem_base ${ARG_DEPS})
  endif()
  add_library(stem::${part} ALIAS stem_${part})
endfunction()

# stem_binary(name SOURCES main.cc ... DEPS ...): lands in bin/.
function(stem_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE stem_base stem::strict ${ARG_DEPS})
  install(TARGETS ${name} RUNTIME DESTINATION bin)
endfunction()

# stem_test(path/x_test.cc LABELS unit ... DEPS stem::x ... [SOURCES more.cc] [TIMEOUT s] [SERIAL]): one ctest entry
# named after the path. Every *_test.cc under tests/ must be declared so (tests/tidy checks).
function(stem_test source)
  if(NOT STEM_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "SERIAL" "TIMEOUT" "LABELS;DEPS;SOURCES" ${ARGN})
  string(REGEX REPLACE "\\.cc$" "" name ${source})
  string(REPLACE "/" "." name ${name})
  add_executable(${name} ${CMAKE_CURRENT_SOURCE_DIR}/${source} ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE stem_base stem::strict ${ARG_DEPS} GTest::gmock GTest::gtest GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(STEM_SANITIZE)
    math(EXPR ARG_TIMEOUT "5 * ${ARG_TIMEOUT}")  # sanitized code on a busy machine
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
  if(ARG_SERIAL)
    set_tests_properties(${name} PROPERTIES RUN_SERIAL ON)
  endif()
  if(STEM_SANITIZE MATCHES "thread")
    # UCX's memory hooks call an intercepted lock while a thread ends, when ThreadSanitizer has forgotten it: a crash.
    set_tests_properties(${name} PROPERTIES ENVIRONMENT
      "TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/support/tsan.supp:halt_on_error=1:second_deadlock_stack=1;UCX_MEM_MMAP_HOOK_MODE=none")
  endif()
endfunction()

# stem_pytest(path/x_test.py LABELS engines ... [TIMEOUT s]): Python tests against the build's daemons. tests/engines/venv.sh makes
# their environment, outside the tree; where it cannot, they are skipped.
function(stem_pytest source)
  if(NOT STEM_TESTS OR STEM_SANITIZE)
    return()
  endif()
  cmake_parse_arguments(ARG "" "TIMEOUT" "LABELS" ${ARGN})
  string(REGEX REPLACE "\\.py$" "" name ${source})
  string(REPLACE "/" "." name ${name})
  add_test(NAME ${name} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/engines/pytest.sh ${CMAKE_BINARY_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/${source})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 900)  # the first one makes the environment
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT} SKIP_RETURN_CODE 77 RESOURCE_LOCK engines)
endfunction()

# stem_bench(x_bench.cc DEPS ...): a Google Benchmark binary in bin/.
function(stem_bench source)
  if(NOT STEM_BENCH)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${CMAKE_CURRENT_SOURCE_DIR}/${source})
  target_link_libraries(${name} PRIVATE stem_base stem::strict ${ARG_DEPS} benchmark::benchmark)
endfunction()

# stem_fuzz(x_fuzz.cc DEPS ...): a libFuzzer target in fuzz/; its corpus is tests/fuzz/corpus/x.
function(stem_fuzz source)
  if(NOT STEM_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${CMAKE_CURRENT_SOURCE_DIR}/${source})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
  target_link_libraries(${name} PRIVATE stem_base stem::strict ${ARG_DEPS})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  string(REGEX REPLACE "_fuzz$" "" corpus ${name})
  add_test(NAME fuzz.${corpus} COMMAND ${name} -max_total_time=10 -timeout=5 -rss_limit_mb=2048
    ${CMAKE_BINARY_DIR}/fuzz/${corpus}.found ${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${corpus})
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz/${corpus}.found)
  set_tests_properties(fuzz.${corpus} PROPERTIES LABELS fuzz TIMEOUT 120)
endfunction()
