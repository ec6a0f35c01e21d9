# Runs what README.md has a newcomer run, without installing packages, from the repository's root: the model must write text.
cmake_minimum_required(VERSION 3.25)

file(STRINGS README.md lines REGEX "&& cmake --workflow --preset generate$")
list(LENGTH lines count)
if(NOT count EQUAL 1)
    message(FATAL_ERROR "README.md has ${count} lines that end in 'cmake --workflow --preset generate', must be 1")
endif()

execute_process(
    COMMAND ${CMAKE_COMMAND} --workflow --preset generate
    OUTPUT_VARIABLE output
    ERROR_VARIABLE output
    COMMAND_ERROR_IS_FATAL ANY
)
if(NOT output MATCHES "And it came to pass[^\n]* [^\n]* [^\n]*" OR NOT output MATCHES "written: 400 tokens, [0-9]+ tokens/s; cache: bf16, [0-9]+ bytes")
    message(FATAL_ERROR "no text in:\n${output}")
endif()
message("${output}")
