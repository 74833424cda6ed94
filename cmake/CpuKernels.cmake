# rnnkernels_add_cpu_kernels(TARGET): one object library per (instruction set, dtype) from csrc/cpu/kernels.cpp, one per
# instruction set from half_kernels.cpp and int8_kernels.cpp, and with avx512 one from bf16_kernels.cpp for each of its extensions
# AVX512-BF16 and AMX, linked into TARGET.  The instruction sets are those of the processor compiled for,
# or of them the ones in RNNKERNELS_ISAS; which one runs is decided at run time by csrc/cpu/dispatch.cpp, which learns from
# RNNKERNELS_HAVE_<ISA> what was built.
set(RNNKERNELS_ISAS "" CACHE STRING "Instruction sets to build, scalar among them (empty: all of the processor)")
option(RNNKERNELS_EMULATE_AMX "For tests: build AMX kernels on isa/emulated_amx.h, which AVX-512 runs" OFF)
if(CMAKE_OSX_ARCHITECTURES)
  set(RNNKERNELS_PROCESSOR "${CMAKE_OSX_ARCHITECTURES}")
else()
  set(RNNKERNELS_PROCESSOR "${CMAKE_SYSTEM_PROCESSOR}")
endif()

set(RNNKERNELS_ALL_ISAS scalar)
set(RNNKERNELS_FLAGS_scalar "")
if(RNNKERNELS_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND RNNKERNELS_ALL_ISAS avx2 avx512)
  # csrc/cpu/cpuid.cpp asks for exactly these features.  g++ 12 has no -march=znver4: the flags are named.
  set(RNNKERNELS_FLAGS_avx2 -mavx2 -mfma -mf16c -mbmi -mbmi2)
  set(RNNKERNELS_FLAGS_avx512 ${RNNKERNELS_FLAGS_avx2} -mavx512f -mavx512cd -mavx512bw -mavx512dq -mavx512vl
      $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>  # g++ 12 warns of its own intrinsics (GCC bug 105593)
      $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  set(RNNKERNELS_FLAGS_avx512bf16 ${RNNKERNELS_FLAGS_avx512} -mavx512bf16)
  set(RNNKERNELS_FLAGS_amx ${RNNKERNELS_FLAGS_avx512})  # its instructions are written as assembly
  set(RNNKERNELS_FLAGS_avx512vnni ${RNNKERNELS_FLAGS_avx512} -mavx512vnni)  # of int8_kernels.cpp alone, where the CPU has it
elseif(RNNKERNELS_PROCESSOR MATCHES "^(aarch64|arm64)$")
  list(APPEND RNNKERNELS_ALL_ISAS neon)  # part of the baseline: no flag
  set(RNNKERNELS_FLAGS_neon "")
endif()

if(NOT RNNKERNELS_ISAS)
  set(RNNKERNELS_ISAS ${RNNKERNELS_ALL_ISAS})
endif()
set(RNNKERNELS_UNKNOWN_ISAS ${RNNKERNELS_ISAS})
list(REMOVE_ITEM RNNKERNELS_UNKNOWN_ISAS ${RNNKERNELS_ALL_ISAS})
if(RNNKERNELS_UNKNOWN_ISAS OR NOT scalar IN_LIST RNNKERNELS_ISAS)
  message(FATAL_ERROR "RNNKERNELS_ISAS: expected scalar and any of ${RNNKERNELS_ALL_ISAS}, got ${RNNKERNELS_ISAS}")
endif()

set(RNNKERNELS_DTYPES f32 f64)
set(RNNKERNELS_REALS float double)

# The kernels of one instruction set from one file, as the object library `objects`; more arguments are definitions.
function(rnnkernels_add_kernel_objects target objects isa file)
  add_library(${objects} OBJECT "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../csrc/cpu/${file}")
  target_compile_definitions(${objects} PRIVATE RNNKERNELS_ISA=${isa} ${ARGN})
  # Kernels throw nothing; a reference to the exception handler would be shared across instruction sets.
  target_compile_options(${objects} PRIVATE ${RNNKERNELS_FLAGS_${isa}} -fno-exceptions)
  target_link_libraries(${objects} PRIVATE rnnkernels_options)
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
endfunction()

function(rnnkernels_add_cpu_kernels target)
  if(avx512 IN_LIST RNNKERNELS_ISAS)
    rnnkernels_add_kernel_objects(${target} kernels_avx512bf16_bf16 avx512bf16 bf16_kernels.cpp)
    if(CMAKE_SYSTEM_NAME STREQUAL Linux)  # which alone is asked for tiles (cpuid.cpp)
      set(emulated $<$<BOOL:${RNNKERNELS_EMULATE_AMX}>:RNNKERNELS_EMULATE_AMX=1>)
      rnnkernels_add_kernel_objects(${target} kernels_amx_bf16 amx bf16_kernels.cpp ${emulated})
      target_compile_definitions(${target} PRIVATE RNNKERNELS_HAVE_AMX=1 ${emulated})
    endif()
  endif()
  foreach(isa IN LISTS RNNKERNELS_ISAS)
    foreach(dtype real IN ZIP_LISTS RNNKERNELS_DTYPES RNNKERNELS_REALS)
      rnnkernels_add_kernel_objects(${target} kernels_${isa}_${dtype} ${isa} kernels.cpp
                                    RNNKERNELS_REAL=${real} RNNKERNELS_DTYPE=${dtype})
    endforeach()
    rnnkernels_add_kernel_objects(${target} kernels_${isa}_half ${isa} half_kernels.cpp)
    string(REPLACE avx512 avx512vnni int8_isa ${isa})
    rnnkernels_add_kernel_objects(${target} kernels_${isa}_int8 ${int8_isa} int8_kernels.cpp)
    string(TOUPPER ${isa} name)
    target_compile_definitions(${target} PRIVATE RNNKERNELS_HAVE_${name}=1)
  endforeach()
  message(STATUS "rnnkernels: CPU kernels for ${RNNKERNELS_ISAS}; sanitizers: ${RNNKERNELS_SANITIZE}")
endfunction()
