#include "client/python/bindings/memory.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace stem::python {

namespace nb = nanobind;

namespace {

constexpr int kHost = 1, kPinnedCuda = 3;  // DLPack's devices

}  // namespace

HostBytes::HostBytes(nb::handle from, bool writable) {
  const int flags = PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0);
  if (PyObject_CheckBuffer(from.ptr())) {
    if (PyObject_GetBuffer(from.ptr(), &buffer_, flags) != 0) {
      PyErr_Clear();
      throw nb::type_error(writable ? "contiguous memory that can be written is wanted" : "contiguous memory is wanted");
    }
    has_buffer_ = true;
    bytes_ = {static_cast<std::byte*>(buffer_.buf), static_cast<size_t>(buffer_.len)};
    return;
  }
  if (!nb::hasattr(from, "__dlpack__")) {
    throw nb::type_error("memory is wanted: an object with the buffer protocol or __dlpack__");
  }
  const nb::tuple device = nb::cast<nb::tuple>(from.attr("__dlpack_device__")());
  const int kind = nb::cast<int>(nb::object(device[0]));
  if (kind != kHost && kind != kPinnedCuda) throw nb::type_error("memory on the host is wanted, not a device's");
  nb::ndarray<nb::c_contig> array;
  const bool taken = writable ? nb::try_cast(from, array, /*convert=*/false) : nb::try_cast(from, tensor_, /*convert=*/false);
  if (!taken) throw nb::type_error("contiguous memory in row-major order is wanted, which can be written if it is written to");
  if (writable) tensor_ = nb::ndarray<nb::ro, nb::c_contig>(array);
  bytes_ = {static_cast<std::byte*>(const_cast<void*>(static_cast<const void*>(tensor_.data()))), tensor_.nbytes()};
}

HostBytes::HostBytes(HostBytes&& other) noexcept
    : buffer_(other.buffer_),
      has_buffer_(std::exchange(other.has_buffer_, false)),
      tensor_(std::move(other.tensor_)),
      bytes_(other.bytes_) {}

HostBytes::~HostBytes() {
  if (!has_buffer_ && !tensor_.is_valid()) return;  // moved from
  if (Py_IsInitialized() == 0) {
    new nb::ndarray<nb::ro, nb::c_contig>(std::move(tensor_));  // nobody is left to free it, nor the buffer
    return;
  }
  const nb::gil_scoped_acquire gil;
  if (has_buffer_) PyBuffer_Release(&buffer_);
  tensor_ = {};
}

std::optional<Probe> ProbeFrom(const nb::bytes& bytes) {
  if (bytes.size() == 0) return std::nullopt;
  if (bytes.size() != sizeof(Probe)) throw nb::value_error("probe is 16 bytes, or empty");
  return (*UnpackNames<Probe>({bytes.c_str(), bytes.size()}))[0];
}

Conversation ConversationOf(uint64_t id, const std::string& outlook) {
  if (outlook == "unknown") return {.id = id, .outlook = Outlook::kUnknown};
  if (outlook == "will_resume") return {.id = id, .outlook = Outlook::kWillResume};
  if (outlook == "ended") return {.id = id, .outlook = Outlook::kEnded};
  throw nb::value_error("outlook is unknown, will_resume or ended");
}

std::vector<BlockKey> KeysOf(const nb::bytes& packed) {
  std::optional<std::vector<BlockKey>> keys = UnpackNames<BlockKey>({packed.c_str(), packed.size()});
  if (keys.has_value()) return *std::move(keys);
  throw nb::value_error(absl::StrCat("keys have ", packed.size(), " bytes; they are 16 bytes each, packed").c_str());
}

nb::bytes Packed(std::span<const BlockKey> keys) { return nb::bytes(reinterpret_cast<const char*>(keys.data()), keys.size_bytes()); }

std::vector<uint32_t> TokensOf(nb::handle tokens) {
  std::vector<uint32_t> out;
  nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> array;
  if (nb::try_cast(tokens, array, /*convert=*/false)) {
    out.assign(array.data(), array.data() + array.size());
    return out;
  }
  const nb::object list = nb::steal(PySequence_Fast(tokens.ptr(), "tokens are a sequence of integers"));
  if (!list.is_valid()) throw nb::python_error();
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(list.ptr());
  PyObject** items = PySequence_Fast_ITEMS(list.ptr());
  out.reserve(static_cast<size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    const long long token = PyLong_AsLongLong(items[i]);
    if (token == -1 && PyErr_Occurred() != nullptr) throw nb::python_error();
    if (token < 0 || token > std::numeric_limits<uint32_t>::max()) {
      throw nb::value_error(absl::StrCat("token ", i, " is ", token, "; ids are 0 to 2^32-1").c_str());
    }
    out.push_back(static_cast<uint32_t>(token));
  }
  return out;
}

nb::object ArrayOf(std::span<const std::byte> bytes, nb::handle owner, bool writable) {
  const size_t shape = bytes.size();
  if (writable) {
    return nb::cast(nb::ndarray<nb::array_api, uint8_t, nb::ndim<1>>(const_cast<std::byte*>(bytes.data()), 1, &shape, owner));
  }
  return nb::cast(nb::ndarray<nb::array_api, const uint8_t, nb::ndim<1>>(bytes.data(), 1, &shape, owner));
}

}  // namespace stem::python
