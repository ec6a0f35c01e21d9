# For AArch64 Linux from any Debian machine, and its programs run by QEMU's user mode: the packages g++-aarch64-linux-gnu, qemu-user
# and googletest (its sources). QEMU emulates every extension that it knows; QEMU_CPU=cortex-a57 in the environment takes them away.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)

# Only headers, but Debian keeps their description beside the host's libraries, where a cross build does not look.
file(GLOB xsimd_DIR /usr/lib/*/cmake/xsimd)
set(FETCHCONTENT_SOURCE_DIR_GOOGLETEST /usr/src/googletest CACHE PATH "Sources of GoogleTest")
