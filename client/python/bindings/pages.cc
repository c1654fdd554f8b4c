#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/page_mover.h"
#include "client/python/bindings/client.h"
#include "client/python/bindings/errors.h"
#include "client/python/bindings/memory.h"
#include "client/python/bindings/module.h"
#include "kernels/copy_queue.h"
#include "nanobind/nanobind.h"
#include "nanobind/stl/array.h"
#include "nanobind/stl/optional.h"
#include "nanobind/stl/pair.h"
#include "nanobind/stl/string.h"
#include "nanobind/stl/tuple.h"
#include "nanobind/stl/vector.h"

namespace stem::python {

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

// (address, bytes of a page, bytes from one page to the next, block table) of each plane.
using Planes = std::vector<std::tuple<uint64_t, uint64_t, uint64_t, uint32_t>>;
// (id, planes) of each part.
using Parts = std::vector<std::pair<uint32_t, Planes>>;
// A CUDA stream's handle, as torch has it; 0 = the default stream.
using StreamHandle = std::optional<uint64_t>;

// A mover and the client that it uses. Whoever drops the last reference waits for threads, and must not have the GIL.
struct Moving {
  std::shared_ptr<CacheClient> client;
  std::unique_ptr<PageMover> mover;
};

// Threads: any, with the GIL.
class PyMover {
 public:
  PyMover(const PyClient& client, const Parts& parts, uint32_t page_count, std::vector<uint32_t> pages_per_block, uint32_t load_threads,
          const std::string& proof, std::optional<int> gpu)
      : gpu_(gpu) {
    if (proof != "full" && proof != "header") throw nb::value_error("proof is full or header");
    EnginePages pages{.parts = {}, .page_count = page_count, .pages_per_block = std::move(pages_per_block)};
    for (const auto& [id, planes] : parts) {
      EnginePart& part = pages.parts.emplace_back(EnginePart{.id = id, .planes = {}});
      for (const auto& [address, page_bytes, stride_bytes, table] : planes) {
        part.planes.push_back({reinterpret_cast<std::byte*>(address), page_bytes, stride_bytes, table});
      }
    }
    if (gpu.has_value()) pages.make_queue = [gpu = *gpu](size_t pinned_bytes) { return MakeGpuQueue(gpu, pinned_bytes); };
    const LiveClient guard = client.get();  // so that what fails here is not the last to let go of it
    auto moving = std::make_shared<Moving>(Moving{.client = client.Share(), .mover = nullptr});
    moving->mover = ValueOf(PageMover::Create(*moving->client, std::move(pages), load_threads,
                                              proof == "full" ? LocalProof::kFull : LocalProof::kHeader));
    moving_ = std::move(moving);
  }
  ~PyMover() { Close(); }
  PyMover(const PyMover&) = delete;
  PyMover& operator=(const PyMover&) = delete;

  void Close() {
    std::shared_ptr<Moving> last = std::move(moving_);  // no other thread takes it: this one has the GIL
    if (last == nullptr) return;
    const nb::gil_scoped_release released;
    last.reset();
  }
  // For as long as the caller keeps the GIL. Throws StatusError once it is closed.
  PageMover& get() const { return *Share()->mover; }
  // What nothing of a job may come before. Throws when the pages are the host's.
  std::function<absl::StatusOr<bool>()> After(const StreamHandle& stream) const {
    if (!stream.has_value()) return {};
    if (!gpu_.has_value()) throw nb::value_error("after is for pages on a GPU; these are the host's");
    auto event = std::make_shared<const Event>(ValueOf(EventBehind(*gpu_, reinterpret_cast<CUstream_st*>(*stream))));
    return [event = std::move(event)] { return event->Reached(); };
  }
  MoveResult Run(const MoveJob& job) const {
    std::shared_ptr<Moving> shared = Share();
    const nb::gil_scoped_release released;
    const std::shared_ptr<Moving> moving = std::move(shared);  // dropped before the GIL is back
    return moving->mover->Run(job);
  }

 private:
  const std::shared_ptr<Moving>& Share() const {
    if (moving_ == nullptr) throw StatusError(absl::FailedPreconditionError("the mover is closed"));
    return moving_;
  }

  const std::optional<int> gpu_;
  std::shared_ptr<Moving> moving_;
};

MoveJob JobOf(std::function<absl::StatusOr<bool>()> after, bool save, const nb::bytes& keys, uint32_t first_block, std::vector<int32_t> pages, double timeout_s,
              std::string request, std::string traceparent, const nb::bytes& probe, const Conversation& conversation) {
  return {.save = save,
          .keys = KeysOf(keys),
          .first_block = first_block,
          .pages = std::move(pages),
          .after = std::move(after),
          .timeout = absl::Seconds(timeout_s),
          .request = std::move(request),
          .traceparent = std::move(traceparent),
          .probe = ProbeFrom(probe),
          .conversation = conversation};
}

}  // namespace

void BindPages(nb::module_& module) {
  nb::class_<MoveResult>(module, "MoveResult")
      .def_ro("ticket", &MoveResult::ticket)
      .def_ro("save", &MoveResult::save)
      .def_prop_ro("ok", [](const MoveResult& result) { return result.status.ok(); })
      .def_prop_ro("error", [](const MoveResult& result) -> nb::object {
        return result.status.ok() ? nb::none() : ExceptionOf(result.status);
      }, "The exception of the first block that was not moved, not raised, or None.")
      .def_ro("blocks_moved", &MoveResult::blocks_moved)
      .def_ro("blocks_held", &MoveResult::blocks_held)
      .def_ro("blocks_refused", &MoveResult::blocks_refused)
      .def_ro("blocks_from", &MoveResult::blocks_from, "By source: none, local and remote DRAM, local and remote SSD.")
      .def_ro("bytes", &MoveResult::bytes)
      .def_prop_ro("took_s", [](const MoveResult& result) { return absl::ToDoubleSeconds(result.took); });

  module.def("check_gpu", [](int gpu) { ValueOf(MakeGpuQueue(gpu, 4096)); }, "gpu"_a, nb::call_guard<nb::gil_scoped_release>(),
             "Raises the reason where a PageMover could not reach pages of that CUDA device: no GPU, a build without CUDA, no pinned memory.");

  nb::class_<PyMover>(module, "PageMover",
                      "Moves blocks between the tier and an engine's pages, on threads of its own.\n\n"
                      "parts: (id, planes) of each part of the namespace, by ascending id; planes: (address, bytes of a page, stride, block "
                      "table) of each layer, or of K and V of each, in the payload's order. Their memory must live until `close`. "
                      "pages_per_block: of each block table. gpu: the CUDA device whose memory the pages are; None = the host's.")
      .def(nb::init<const PyClient&, const Parts&, uint32_t, std::vector<uint32_t>, uint32_t, const std::string&, std::optional<int>>(),
           "client"_a, "parts"_a, nb::kw_only(), "page_count"_a, "pages_per_block"_a, "load_threads"_a = 1, "proof"_a = "full", "gpu"_a = nb::none())
      .def("submit",
           [](const PyMover& self, bool save, const nb::bytes& keys, uint32_t first_block, std::vector<int32_t> pages,
              double timeout_s, std::string request, std::string traceparent, const nb::bytes& probe, uint64_t conversation,
              const std::string& outlook, const StreamHandle& after) {
             return ValueOf(self.get().Submit(JobOf(self.After(after), save, keys, first_block, std::move(pages), timeout_s, std::move(request),
                                                    std::move(traceparent), probe, ConversationOf(conversation, outlook))));
           },
           nb::kw_only(), "save"_a, "keys"_a, "first_block"_a, "pages"_a, "timeout_s"_a = 5.0, "request"_a = "", "traceparent"_a = "",
           "probe"_a = nb::bytes("", 0), "conversation"_a = uint64_t{0}, "outlook"_a = "unknown",
           "after"_a = nb::none(), "Queues a job and returns its ticket. keys: of the chain from its first block to the last to move; pages: of each block table "
           "in turn those of the blocks from first_block on, -1 = a page that a load leaves alone, or that a save does not have. after: a CUDA stream of the GPU (an "
           "integer, as `torch.cuda.current_stream().cuda_stream`), of which all that is queued so far uses the pages before the job does.")
      .def("run",
           [](const PyMover& self, bool save, const nb::bytes& keys, uint32_t first_block, std::vector<int32_t> pages,
              double timeout_s, std::string request, std::string traceparent, const nb::bytes& probe, uint64_t conversation,
              const std::string& outlook, const StreamHandle& after) {
             return self.Run(JobOf(self.After(after), save, keys, first_block, std::move(pages), timeout_s, std::move(request), std::move(traceparent), probe,
                                   ConversationOf(conversation, outlook)));
           },
           nb::kw_only(), "save"_a, "keys"_a, "first_block"_a, "pages"_a, "timeout_s"_a = 5.0, "request"_a = "", "traceparent"_a = "",
           "probe"_a = nb::bytes("", 0), "conversation"_a = uint64_t{0}, "outlook"_a = "unknown",
           "after"_a = nb::none(), "The same at once, in this thread.")
      .def("poll", [](const PyMover& self) { return self.get().Poll(); }, "Results of what ended since the last call.")
      .def_prop_ro("outstanding", [](const PyMover& self) { return self.get().outstanding(); })
      .def("close", &PyMover::Close, "Ends the threads after the jobs that run, a `run` in another thread too; what waits is dropped.");
}

}  // namespace stem::python
