// The structures that DLPack hands from one library to another, as its specification lays them out
// (https://dmlc.github.io/dlpack/latest/c_api.html): those of version 1 and the ones before.
#pragma once

#include <cstdint>

namespace rnnkernels::bindings::dlpack {

enum DeviceType : int32_t { cpu = 1, cuda = 2, cuda_managed = 13 };
enum TypeCode : uint8_t { integer = 0, floating = 2, bfloat = 4 };

struct Device {
  int32_t type, id;
};
struct Type {
  uint8_t code, bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t rank;
  Type type;
  int64_t* sizes;
  int64_t* strides;  // in elements; null: C-contiguous
  uint64_t byte_offset;
};

// What a capsule named "dltensor" holds. Whoever takes it renames the capsule and calls the deleter once.
struct Managed {
  Tensor tensor;
  void* context;
  void (*deleter)(Managed*);
};

// What one named "dltensor_versioned" holds.
struct ManagedVersioned {
  struct {
    uint32_t major, minor;
  } version;
  void* context;
  void (*deleter)(ManagedVersioned*);
  uint64_t flags;
  Tensor tensor;
};
constexpr uint64_t read_only = 1;
constexpr uint32_t known_major = 1;

}  // namespace rnnkernels::bindings::dlpack
