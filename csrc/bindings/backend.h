// Which module is being built. _core binds the CPU backend and NumPy's arrays, _cuda the CUDA backend and arrays of a device;
// the rest of this folder is the same text for both, on what either header declares:
//
//   backend::forward, ...           the kernels;  run(kernel, args, execution) without the GIL
//   Execution                       how a call runs; whoever makes or moves memory is given it
//   Array                           a checked view of a Python object;  is_array, as_array;  object_of, sizes_of, strides_of
//                                   (bytes), data_of, element_of, itemsize_of, dtype_text, is_direct (C-contiguous and
//                                   aligned), is_transposed (of such a matrix), is_writeable, shares_memory;  new_array,
//                                   direct_copy, transposed, copy_into;  an_array is what errors call one
//   Scratch                         memory of the call;  zero, copy, add
//   Integers                        lengths, ids, targets, where kernels read them
//   Count                           of targets, where kernels write it
#pragma once

#ifdef RNNKERNELS_DEVICE_ARRAYS
#include "device_backend.h"
#else
#include "cpu_backend.h"
#endif
