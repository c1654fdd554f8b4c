#include "kernels/device_arena.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "absl/strings/str_cat.h"
#include "kernels/from_cuda.h"
#include "proto/status.h"

namespace stem {
namespace {

absl::Status FromDriver(CUresult result, absl::string_view what) {
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  const std::string message = absl::StrCat(what, ": CUDA driver error ", static_cast<int>(result));
  if (result == CUDA_ERROR_OUT_OF_MEMORY) return absl::ResourceExhaustedError(message);
  if (result == CUDA_ERROR_NOT_SUPPORTED) return absl::UnimplementedError(message);
  if (result == CUDA_ERROR_NO_DEVICE) return absl::UnavailableError(message);
  return absl::InternalError(message);
}

struct Driver {
  decltype(cuDeviceGet)* device = nullptr;
  decltype(cuDeviceGetAttribute)* attribute = nullptr;
  decltype(cuMemGetAllocationGranularity)* granularity = nullptr;
  decltype(cuMemCreate)* create = nullptr;
  decltype(cuMemRelease)* release = nullptr;
  decltype(cuMemExportToShareableHandle)* export_handle = nullptr;
  decltype(cuMemImportFromShareableHandle)* import_handle = nullptr;
  decltype(cuMemAddressReserve)* reserve = nullptr;
  decltype(cuMemAddressFree)* free_address = nullptr;
  decltype(cuMemMap)* map = nullptr;
  decltype(cuMemUnmap)* unmap = nullptr;
  decltype(cuMemSetAccess)* set_access = nullptr;
};

absl::StatusOr<Driver> FindDriver() {
  int devices = 0;
  STEM_TRY(FromCuda(cudaGetDeviceCount(&devices), "counting GPUs"));
  Driver driver;
  STEM_TRY(FindInDriver("cuDeviceGet", driver.device));
  STEM_TRY(FindInDriver("cuDeviceGetAttribute", driver.attribute));
  STEM_TRY(FindInDriver("cuMemGetAllocationGranularity", driver.granularity));
  STEM_TRY(FindInDriver("cuMemCreate", driver.create));
  STEM_TRY(FindInDriver("cuMemRelease", driver.release));
  STEM_TRY(FindInDriver("cuMemExportToShareableHandle", driver.export_handle));
  STEM_TRY(FindInDriver("cuMemImportFromShareableHandle", driver.import_handle));
  STEM_TRY(FindInDriver("cuMemAddressReserve", driver.reserve));
  STEM_TRY(FindInDriver("cuMemAddressFree", driver.free_address));
  STEM_TRY(FindInDriver("cuMemMap", driver.map));
  STEM_TRY(FindInDriver("cuMemUnmap", driver.unmap));
  STEM_TRY(FindInDriver("cuMemSetAccess", driver.set_access));
  return driver;
}

// Looked up once; the answer is kept.
absl::StatusOr<const Driver*> TheDriver() {
  static const absl::StatusOr<Driver> found = FindDriver();
  if (found.ok()) return &*found;
  return found.status();
}

absl::StatusOr<CUmemAllocationProp> PropertiesOf(const Driver& driver, int device) {
  CUdevice handle = 0;
  int rdma = 0;
  STEM_TRY(FromDriver(driver.device(&handle, device), absl::StrCat("GPU ", device)));
  STEM_TRY(FromDriver(driver.attribute(&rdma, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED, handle),
                      "asking whether network devices can reach GPU memory"));
  CUmemAllocationProp properties = {};
  properties.allocFlags.gpuDirectRDMACapable = rdma != 0;
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  properties.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device};
  return properties;
}

// The GPU's primary context, made if need be, while this lives; then the thread's own device again.
class OnDevice {
 public:
  static absl::StatusOr<OnDevice> Enter(int device) {
    int before = 0;
    STEM_TRY(FromCuda(cudaGetDevice(&before), "asking for the current GPU"));
    STEM_TRY(FromCuda(cudaSetDevice(device), absl::StrCat("using GPU ", device)));
    return OnDevice(before);
  }
  OnDevice(OnDevice&& other) noexcept : before_(std::exchange(other.before_, -1)) {}
  ~OnDevice() {
    if (before_ >= 0) cudaSetDevice(before_);
  }

 private:
  explicit OnDevice(int before) : before_(before) {}
  int before_;
};

}  // namespace

// Takes the handle over, whatever happens.
absl::StatusOr<DeviceArena> DeviceArena::Map(int device, unsigned long long handle, size_t size_bytes) {
  STEM_ASSIGN(const Driver* const driver, TheDriver());
  CUdeviceptr address = 0;
  absl::Status status = FromDriver(driver->reserve(&address, size_bytes, 0, 0, 0),
                                   absl::StrCat("reserving ", size_bytes, " bytes of addresses"));
  if (status.ok()) {
    status = FromDriver(driver->map(address, size_bytes, 0, handle, 0), "mapping GPU memory");
    if (!status.ok()) driver->free_address(address, size_bytes);
  }
  if (!status.ok()) {
    driver->release(handle);
    return status;
  }
  DeviceArena arena(reinterpret_cast<std::byte*>(address), size_bytes, handle);  // undoes all of it from here on
  const CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device},
                                  .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  STEM_TRY(FromDriver(driver->set_access(address, size_bytes, &access, 1), "opening GPU memory"));
  return arena;
}

absl::StatusOr<DeviceArena> DeviceArena::Create(int device, size_t size_bytes) {
  STEM_ASSIGN(const Driver* const driver, TheDriver());
  STEM_ASSIGN(const OnDevice on_device, OnDevice::Enter(device));
  if (size_bytes == 0) return absl::InvalidArgumentError("a GPU arena of 0 bytes");
  STEM_ASSIGN(const CUmemAllocationProp properties, PropertiesOf(*driver, device));
  size_t granularity = 0;
  STEM_TRY(FromDriver(driver->granularity(&granularity, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
                      "asking for the allocation size"));
  const size_t rounded = (size_bytes + granularity - 1) / granularity * granularity;
  CUmemGenericAllocationHandle handle = 0;
  STEM_TRY(FromDriver(driver->create(&handle, rounded, &properties, 0),
                      absl::StrCat("allocating ", rounded, " bytes of shared GPU memory")));
  return Map(device, handle, rounded);
}

absl::StatusOr<DeviceArena> DeviceArena::Import(int device, int fd, size_t size_bytes) {
  STEM_ASSIGN(const Driver* const driver, TheDriver());
  STEM_ASSIGN(const OnDevice on_device, OnDevice::Enter(device));
  if (fd < 0 || size_bytes == 0) {
    return absl::InvalidArgumentError(absl::StrCat("importing ", size_bytes, " bytes from descriptor ", fd));
  }
  CUmemGenericAllocationHandle handle = 0;
  STEM_TRY(FromDriver(driver->import_handle(&handle, reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
                                            CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
                      absl::StrCat("importing GPU memory from descriptor ", fd)));
  return Map(device, handle, size_bytes);
}

DeviceArena::~DeviceArena() {
  if (data_ == nullptr) return;
  const absl::StatusOr<const Driver*> driver = TheDriver();
  if (!driver.ok()) return;  // it was there when this was made
  const auto address = reinterpret_cast<CUdeviceptr>(data_);
  (*driver)->unmap(address, size_bytes_);
  (*driver)->free_address(address, size_bytes_);
  (*driver)->release(handle_);
}

absl::StatusOr<int> DeviceArena::Export() const {
  STEM_ASSIGN(const Driver* const driver, TheDriver());
  int fd = -1;
  STEM_TRY(FromDriver(driver->export_handle(&fd, handle_, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                      "exporting GPU memory"));
  return fd;
}

}  // namespace stem
