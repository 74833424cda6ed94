# The interface target `rnnkernels_options`: what every native source is compiled and linked with.  The numerical
# contract (docs/accuracy.md) rests on -ffp-contract=off: GCC contracts even intrinsics, and a contracted product rounds
# differently per instruction set.  No flag here may let the compiler reorder or drop floating-point operations.
add_library(rnnkernels_options INTERFACE)
target_include_directories(rnnkernels_options INTERFACE "${CMAKE_CURRENT_LIST_DIR}/../csrc")
target_compile_options(rnnkernels_options INTERFACE
  -ffp-contract=off -fno-math-errno
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion
  $<$<BOOL:${RNNKERNELS_NATIVE_WARNINGS_AS_ERRORS}>:-Werror>)

if(RNNKERNELS_SANITIZE STREQUAL "none")
  set(RNNKERNELS_SANITIZE_FLAGS "")
elseif(RNNKERNELS_SANITIZE STREQUAL "address")
  # Unrolled tiles have thousands of accesses, and all checks together take g++ 12 times as long as none. Left out: a null
  # pointer ends the process anyhow, object-size asks what the address sanitizer knows, no class is virtual, and a pointer that
  # wraps round is caught where it is used.
  set(RNNKERNELS_SANITIZE_FLAGS -fsanitize=address,undefined -fno-sanitize-recover=all
      -fno-sanitize=null,object-size,vptr,pointer-overflow)
elseif(RNNKERNELS_SANITIZE STREQUAL "thread")
  set(RNNKERNELS_SANITIZE_FLAGS -fsanitize=thread)
else()
  message(FATAL_ERROR "RNNKERNELS_SANITIZE: expected none, address or thread, got ${RNNKERNELS_SANITIZE}")
endif()
if(RNNKERNELS_SANITIZE_FLAGS)
  target_compile_options(rnnkernels_options INTERFACE ${RNNKERNELS_SANITIZE_FLAGS} -fno-omit-frame-pointer -g)
  target_link_options(rnnkernels_options INTERFACE ${RNNKERNELS_SANITIZE_FLAGS})
endif()
