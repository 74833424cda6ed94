# The extension module rnnkernels._cuda: csrc/cuda/kernels.cu once for each row of numbers.inc, dispatch.cu, and the bindings over
# arrays of a device.  RNNKERNELS_CUDA, a definition or an environment variable, decides:
#   auto  where nvcc and an NVIDIA driver are found, so that a machine without a GPU installs in half a minute.  An nvcc that is
#         too old or does not work is warned of and skipped: it never breaks the install of the CPU's kernels
#   on    or fail
#   off
set(RNNKERNELS_CUDA_ARCHITECTURES "80-real;90-real;90-virtual" CACHE STRING
    "GPUs to compile for; -virtual ones are PTX, which newer ones run")

if(NOT DEFINED RNNKERNELS_CUDA)
  set(RNNKERNELS_CUDA auto)
  if(DEFINED ENV{RNNKERNELS_CUDA})
    set(RNNKERNELS_CUDA "$ENV{RNNKERNELS_CUDA}")
  endif()
endif()
if(NOT RNNKERNELS_CUDA MATCHES "^(auto|on|off)$")
  message(FATAL_ERROR "RNNKERNELS_CUDA: expected auto, on or off, got ${RNNKERNELS_CUDA}")
endif()

function(rnnkernels_cuda_is_missing reason)
  if(RNNKERNELS_CUDA STREQUAL "on")
    message(FATAL_ERROR "rnnkernels: RNNKERNELS_CUDA=on, but ${reason}")
  endif()
  if(RNNKERNELS_NVCC AND EXISTS /proc/driver/nvidia/version AND NOT RNNKERNELS_CUDA STREQUAL "off")
    message(WARNING "rnnkernels: no CUDA kernels: ${reason}")
  else()
    message(STATUS "rnnkernels: no CUDA kernels: ${reason}")
  endif()
endfunction()

# Sets RNNKERNELS_NVCC, and `reason` to why it cannot be used, or to nothing.
macro(rnnkernels_find_nvcc)
  find_program(RNNKERNELS_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda /opt/cuda PATH_SUFFIXES bin)
  set(reason "")
  if(RNNKERNELS_CUDA STREQUAL "off")
    set(reason "RNNKERNELS_CUDA=off")
  elseif(RNNKERNELS_CUDA STREQUAL "auto" AND NOT EXISTS /proc/driver/nvidia/version)
    set(reason "no NVIDIA driver on this machine (RNNKERNELS_CUDA=on builds them all the same)")
  elseif(NOT RNNKERNELS_NVCC)
    set(reason "nvcc was not found")
  else()
    execute_process(COMMAND "${RNNKERNELS_NVCC}" --version OUTPUT_VARIABLE said ERROR_QUIET)
    if(NOT said MATCHES "release ([0-9]+)\\.")
      set(reason "${RNNKERNELS_NVCC} does not say its version")
    elseif(CMAKE_MATCH_1 LESS 12)
      set(reason "${RNNKERNELS_NVCC} is of CUDA ${CMAKE_MATCH_1}, and 12 or later is needed")
    else()
      include(CheckLanguage)
      set(CMAKE_CUDA_COMPILER "${RNNKERNELS_NVCC}")
      set(CMAKE_CUDA_ARCHITECTURES ${RNNKERNELS_CUDA_ARCHITECTURES})
      if(RNNKERNELS_CUDA STREQUAL "auto")
        check_language(CUDA)
        if(NOT CMAKE_CUDA_COMPILER)
          set(reason "${RNNKERNELS_NVCC} does not compile with this C++ compiler")
        endif()
      endif()
    endif()
  endif()
endmacro()

rnnkernels_find_nvcc()
if(reason)
  rnnkernels_cuda_is_missing("${reason}")
  return()
endif()

enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)

# --fmad=false: products and sums are fused where the source says so, as on the CPU.
add_library(rnnkernels_cuda_options INTERFACE)
target_include_directories(rnnkernels_cuda_options INTERFACE "${CMAKE_CURRENT_LIST_DIR}/../csrc")
target_compile_options(rnnkernels_cuda_options INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false>
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${RNNKERNELS_NATIVE_WARNINGS_AS_ERRORS}>>:-Werror=all-warnings>
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${RNNKERNELS_NATIVE_WARNINGS_AS_ERRORS}>>:-Xptxas=-warn-spills,-Werror>)

set(bindings arrays call cuda_module device_backend heads numpy_arrays recurrent shapes)
list(TRANSFORM bindings PREPEND csrc/bindings/)
list(TRANSFORM bindings APPEND .cpp)
set_source_files_properties(${bindings} csrc/traits.cpp csrc/cuda/blas.cpp PROPERTIES COMPILE_OPTIONS
                            "$<TARGET_PROPERTY:rnnkernels_options,INTERFACE_COMPILE_OPTIONS>")
pybind11_add_module(_cuda MODULE NO_EXTRAS ${bindings} csrc/traits.cpp csrc/cuda/blas.cpp csrc/cuda/dispatch.cu)
string(REGEX REPLACE "([0-9a-z]+)-real" "sm_\\1" targets "${RNNKERNELS_CUDA_ARCHITECTURES}")
string(REGEX REPLACE "([0-9a-z]+)-virtual" "compute_\\1" targets "${targets}")
string(REPLACE ";" " " targets "${targets}")
target_compile_definitions(_cuda PRIVATE $<$<COMPILE_LANGUAGE:CXX>:RNNKERNELS_DEVICE_ARRAYS=1>
                           $<$<COMPILE_LANGUAGE:CXX>:RNNKERNELS_MODULE=_cuda>
                           $<$<COMPILE_LANGUAGE:CXX>:RNNKERNELS_CUDA_TARGETS="${targets}">)
target_link_libraries(_cuda PRIVATE rnnkernels_cuda_options ${CMAKE_DL_LIBS})
set_target_properties(_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static)

file(STRINGS csrc/cuda/numbers.inc rows REGEX "^RNNKERNELS_NUMBER")
foreach(row IN LISTS rows)
  string(REGEX MATCH "\\((.+), (.+)\\)" row "${row}")
  add_library(cuda_kernels_${CMAKE_MATCH_1} OBJECT csrc/cuda/kernels.cu)
  target_compile_definitions(cuda_kernels_${CMAKE_MATCH_1}
                             PRIVATE RNNKERNELS_PASSES=${CMAKE_MATCH_1} RNNKERNELS_TYPE=${CMAKE_MATCH_2})
  target_link_libraries(cuda_kernels_${CMAKE_MATCH_1} PRIVATE rnnkernels_cuda_options)
  target_sources(_cuda PRIVATE $<TARGET_OBJECTS:cuda_kernels_${CMAKE_MATCH_1}>)
endforeach()

install(TARGETS _cuda LIBRARY DESTINATION rnnkernels)
message(STATUS "rnnkernels: CUDA kernels for ${targets}")
