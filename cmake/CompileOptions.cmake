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
  set(RNNKERNELS_SANITIZE_FLAGS -fsanitize=address,undefined -fno-sanitize-recover=all)
elseif(RNNKERNELS_SANITIZE STREQUAL "thread")
  set(RNNKERNELS_SANITIZE_FLAGS -fsanitize=thread)
else()
  message(FATAL_ERROR "RNNKERNELS_SANITIZE: expected none, address or thread, got ${RNNKERNELS_SANITIZE}")
endif()
if(RNNKERNELS_SANITIZE_FLAGS)
  # Lines are all that a report needs. Where variables live costs g++ up to nine tenths of its time on unrolled tiles.
  target_compile_options(rnnkernels_options INTERFACE ${RNNKERNELS_SANITIZE_FLAGS} -fno-omit-frame-pointer -g1)
  target_link_options(rnnkernels_options INTERFACE ${RNNKERNELS_SANITIZE_FLAGS})
endif()
