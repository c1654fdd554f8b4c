#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cache_client.h"
#include "client/python/bindings/calls.h"
#include "client/python/bindings/client.h"
#include "client/python/bindings/errors.h"
#include "client/python/bindings/memory.h"
#include "client/python/bindings/module.h"
#include "nanobind/stl/array.h"
#include "nanobind/stl/optional.h"
#include "nanobind/stl/pair.h"
#include "nanobind/stl/string.h"
#include "nanobind/stl/tuple.h"
#include "nanobind/stl/vector.h"
#include "proto/miss_cause.h"

namespace stem::python {

namespace nb = nanobind;
using nb::literals::operator""_a;
namespace v1 = stemcache::v1;

PyClient::PyClient(CacheClient::Options options, double timeout_s) {
  const nb::gil_scoped_release released;
  client_ = ValueOf(CacheClient::Connect(std::move(options), After(timeout_s)));
}

PyClient::~PyClient() { Close(); }

void PyClient::Close() {
  std::shared_ptr<CacheClient> client;
  {
    MutexLock lock(mutex_);
    client = std::move(client_);
    client_ = nullptr;
  }
  if (client == nullptr) return;
  const nb::gil_scoped_release released;  // callbacks that run want it
  client.reset();
}

std::shared_ptr<CacheClient> PyClient::Share() const {
  MutexLock lock(mutex_);
  if (client_ == nullptr) throw StatusError(absl::FailedPreconditionError("the client is closed"));
  return client_;
}

void PyClient::GiveBack(std::shared_ptr<CacheClient>& user) const {
  MutexLock lock(mutex_);
  if (client_ != nullptr) user.reset();
}

LiveClient::~LiveClient() {
  owner_.GiveBack(client_);
  if (client_ == nullptr) return;
  const nb::gil_scoped_release released;
  client_.reset();
}

namespace {

absl::string_view TextOf(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

const char* SourceName(v1::Source source) {
  switch (source) {
    case v1::SOURCE_LOCAL_DRAM: return "local_dram";
    case v1::SOURCE_REMOTE_DRAM: return "remote_dram";
    case v1::SOURCE_LOCAL_SSD: return "local_ssd";
    case v1::SOURCE_REMOTE_SSD: return "remote_ssd";
    default: return "none";
  }
}

nb::dict BySource(const std::array<uint64_t, 5>& counts) {
  nb::dict out;
  for (int source = v1::SOURCE_LOCAL_DRAM; source <= v1::SOURCE_REMOTE_SSD; ++source) {
    out[SourceName(static_cast<v1::Source>(source))] = counts[static_cast<size_t>(source)];
  }
  return out;
}

nb::dict StatsOf(const PyClient& client) {
  const ClientStats stats = client.get()->stats();
  nb::dict out;
  out["payloads_loaded"] = BySource(stats.payloads_loaded);
  out["bytes_loaded"] = BySource(stats.bytes_loaded);
  out["proofs_failed"] = stats.proofs_failed;
  out["payloads_committed"] = stats.payloads_committed;
  out["bytes_committed"] = stats.bytes_committed;
  out["stems_broken"] = stats.stems_broken;
  out["reattaches"] = stats.reattaches;
  out["messages_refused"] = stats.messages_refused;
  return out;
}

// ---- Hasher

class PyHasher {
 public:
  PyHasher(const PyClient& client, const nb::bytes& salt) : hasher_(ValueOf(client.get()->NewHasher(TextOf(salt)))) {}

  void Restart(const nb::bytes& salt) { Check(hasher_.Restart(TextOf(salt))); }
  void AddExtra(uint32_t tag, const nb::bytes& bytes, uint32_t offset_tokens) {
    Check(hasher_.AddExtra({.tag = static_cast<ExtraTag>(tag > 4 ? 0 : tag), .bytes = TextOf(bytes), .offset_tokens = offset_tokens}));
  }
  nb::bytes Append(nb::handle tokens) {
    const std::vector<uint32_t> ids = TokensOf(tokens);
    std::vector<BlockKey> keys;
    Check(hasher_.AppendTokens(ids, keys));
    return Packed(keys);
  }
  nb::bytes AppendHash(const nb::bytes& hash) {
    std::vector<BlockKey> keys;
    Check(hasher_.AppendHash(TextOf(hash), keys));
    return Packed(keys);
  }
  size_t blocks() const { return hasher_.blocks(); }
  uint32_t tail_tokens() const { return hasher_.tail_tokens(); }
  nb::bytes probe() const {
    const std::optional<Probe> probe = hasher_.probe();
    return probe.has_value() ? nb::bytes(probe->bytes().data(), probe->bytes().size()) : nb::bytes("", 0);
  }

 private:
  ChainHasher hasher_;
};

// ---- Fetch

struct PyView {
  View view;
};

std::vector<std::span<std::byte>> SpansOf(nb::handle destinations, std::vector<HostBytes>& held) {
  std::vector<std::span<std::byte>> spans;
  for (nb::handle each : nb::iter(destinations)) {
    if (each.is_none()) {
      spans.emplace_back();
      continue;
    }
    held.emplace_back(each, /*writable=*/true);
    spans.push_back(held.back().bytes());
  }
  return spans;
}

// How far it came goes with the exception.
template <typename Result>
void CheckLoaded(const Result& result) {
  if (result.status.ok()) return;
  const nb::object exception = ExceptionOf(result.status);
  exception.attr("blocks_loaded") = result.blocks_loaded;
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
  throw nb::python_error();
}

uint32_t LoadedOf(const LoadResult& result) {
  CheckLoaded(result);
  return result.blocks_loaded;
}

GetResult GotOf(GetResult result) {
  CheckLoaded(result);
  return result;
}

// What `call` returns for the memory of `destinations`, which is held meanwhile, and the GIL is not.
template <typename Waiting>
auto CallInto(nb::handle destinations, Waiting call) {
  std::vector<HostBytes> held;
  const std::vector<std::span<std::byte>> spans = SpansOf(destinations, held);
  const nb::gil_scoped_release released;
  return call(std::span(spans));
}

uint32_t Load(const PyClient& self, const Stem& stem, uint32_t first_block, nb::handle destinations, double timeout_s) {
  const LiveClient client = self.get();
  return LoadedOf(CallInto(destinations, [&](auto spans) { return client->Load(stem, first_block, spans, After(timeout_s)); }));
}

AcquireOptions AcquireOptionsOf(std::vector<uint32_t> parts, std::string request, std::string traceparent, double compute_s,
                                const nb::bytes& probe, const Conversation& conversation) {
  return {.parts = std::move(parts),
          .request = std::move(request),
          .traceparent = std::move(traceparent),
          .compute = absl::Seconds(compute_s),
          .probe = ProbeFrom(probe),
          .conversation = conversation};
}

const Stem& Held(const Stem& stem) {
  if (!stem.valid()) throw StatusError(absl::InvalidArgumentError("the stem was released"));
  return stem;
}

std::vector<std::tuple<uint32_t, uint32_t, std::string>> TuplesOf(const std::vector<MissRun>& misses) {
  std::vector<std::tuple<uint32_t, uint32_t, std::string>> out;
  for (const MissRun& run : misses) out.emplace_back(run.first, run.count, CauseName(run.cause));
  return out;
}

std::optional<std::tuple<std::string, std::string, std::string>> DifferenceOf(const Stem& stem) {
  const v1::Difference difference = Held(stem).difference();
  if (difference.field().empty()) return std::nullopt;
  return std::tuple(difference.field(), difference.asked(), difference.known());
}

// ---- Publish

class PyReservation {
 public:
  explicit PyReservation(Reservation reservation) : reservation_(std::move(reservation)) {}
  Reservation& get() {
    if (!reservation_.valid()) throw StatusError(absl::InvalidArgumentError("the reservation was committed or abandoned"));
    return reservation_;
  }
  Reservation Take() {
    get();
    return std::move(reservation_);
  }
  void Abandon() { reservation_ = Reservation(); }
  // Positions, and the staging of each as an array that must not be used after the commit.
  nb::list Wanted(nb::handle self) {
    nb::list out;
    for (const WantedPayload& wanted : get().wanted()) {
      out.append(nb::make_tuple(wanted.block, wanted.part, ArrayOf(wanted.staging, self, /*writable=*/true)));
    }
    return out;
  }

 private:
  Reservation reservation_;
};

ReserveOptions ReserveOptionsOf(const std::optional<nb::bytes>& parent, std::vector<uint32_t> parts, std::string traceparent,
                                const nb::bytes& probe, const Conversation& conversation) {
  ReserveOptions options{.parent = {},
                         .parts = std::move(parts),
                         .traceparent = std::move(traceparent),
                         .probe = ProbeFrom(probe),
                         .conversation = conversation};
  if (!parent.has_value()) return options;
  const std::vector<BlockKey> key = KeysOf(*parent);
  if (key.size() != 1) throw nb::value_error("parent is one key of 16 bytes");
  options.parent = key.front();
  return options;
}

template <typename T>
void BindCall(nb::module_& module, const char* name) {
  nb::class_<Call<T>>(module, name, "A call that runs; take its result once it is done.")
      .def("done", [](const Call<T>& call) { return call.pending->done(); }, "True once `result` does not raise for being early.")
      .def("result", [](const Call<T>& call) {
        if constexpr (std::is_same_v<T, LoadResult>) {
          return LoadedOf(call.pending->Take());
        } else if constexpr (std::is_same_v<T, GetResult>) {
          return GotOf(call.pending->Take());
        } else if constexpr (std::is_same_v<T, absl::StatusOr<Reservation>>) {
          return PyReservation(ValueOf(call.pending->Take()));
        } else {
          return ValueOf(call.pending->Take());
        }
      }, "The result, once, or its exception.");
}

void BindNamespace(nb::module_& module) {
  nb::class_<Part>(module, "Part", "One piece of a block that is published and read apart.")
      .def("__init__",
           [](Part* self, uint64_t block_bytes, uint32_t id, uint32_t layer_first, uint32_t layer_count, uint32_t head_first,
              uint32_t head_count, uint32_t window_tokens) {
             new (self) Part{.id = id, .group = window_tokens > 0 ? GroupKind::kWindow : GroupKind::kFull, .window_tokens = window_tokens,
                             .layer_first = layer_first, .layer_count = layer_count, .head_first = head_first,
                             .head_count = head_count, .block_bytes = block_bytes};
           },
           "block_bytes"_a, "id"_a = 0, "layer_first"_a = 0, "layer_count"_a = 1, "head_first"_a = 0, "head_count"_a = 1,
           "window_tokens"_a = 0, "window_tokens: a reader needs it only of the blocks that cover so many tokens before its stem's end; 0 = of all.")
      .def_ro("id", &Part::id)
      .def_ro("block_bytes", &Part::block_bytes)
      .def_ro("window_tokens", &Part::window_tokens)
      .def_ro("layer_first", &Part::layer_first)
      .def_ro("layer_count", &Part::layer_count)
      .def_ro("head_first", &Part::head_first)
      .def_ro("head_count", &Part::head_count);
  nb::class_<NamespaceSpec>(module, "Namespace", "Everything that must be equal for KV to be reusable.")
      .def("__init__",
           [](NamespaceSpec* self, std::string model, std::string kv_dtype, std::string layout, uint32_t block_tokens,
              std::vector<Part> parts, std::string revision, std::string weights_digest, std::string scale_scheme,
              std::string instruction_set, const std::string& hash_scheme, std::string tokenizer_digest,
              std::string chat_template_digest, const std::string& spill_encoding) {
             const absl::StatusOr<SpillEncoding> spill = ParseSpillEncoding(spill_encoding);
             if (!spill.ok()) throw nb::value_error(std::string(spill.status().message()).c_str());
             HashScheme scheme = HashScheme::kXxh3;
             if (hash_scheme == "sha256") scheme = HashScheme::kSha256;
             else if (hash_scheme == "external") scheme = HashScheme::kExternal;
             else if (hash_scheme != "xxh3") throw nb::value_error("hash_scheme is xxh3, sha256 or external");
             new (self) NamespaceSpec{std::move(model), std::move(revision), std::move(weights_digest), std::move(kv_dtype),
                                      std::move(scale_scheme), std::move(layout), std::move(instruction_set), block_tokens,
                                      scheme, std::move(parts), std::move(tokenizer_digest), std::move(chat_template_digest),
                                      *spill};
           },
           nb::kw_only(), "model"_a, "kv_dtype"_a, "layout"_a, "block_tokens"_a, "parts"_a, "revision"_a = "",
           "weights_digest"_a = "", "scale_scheme"_a = "", "instruction_set"_a = "", "hash_scheme"_a = "xxh3",
           "tokenizer_digest"_a = "", "chat_template_digest"_a = "", "spill_encoding"_a = "exact")
      .def_ro("model", &NamespaceSpec::model)
      .def_ro("revision", &NamespaceSpec::revision)
      .def_ro("weights_digest", &NamespaceSpec::weights_digest)
      .def_ro("kv_dtype", &NamespaceSpec::kv_dtype)
      .def_ro("scale_scheme", &NamespaceSpec::scale_scheme)
      .def_ro("layout", &NamespaceSpec::layout)
      .def_ro("instruction_set", &NamespaceSpec::instruction_set)
      .def_ro("block_tokens", &NamespaceSpec::block_tokens)
      .def_ro("parts", &NamespaceSpec::parts)
      .def_ro("tokenizer_digest", &NamespaceSpec::tokenizer_digest)
      .def_prop_ro("spill_encoding", [](const NamespaceSpec& spec) { return SpillEncodingName(spec.spill_encoding); })
      .def("differing_fields", &DifferingFields, "other"_a, "Names and values of the fields in which two differ.");
}

void BindHandles(nb::module_& module) {
  nb::class_<PyHasher>(module, "Hasher", "Keys of one chain at a time, 16 bytes each, packed. One thread at a time.")
      .def(nb::init<const PyClient&, nb::bytes>(), "client"_a, "salt"_a = nb::bytes("", 0))
      .def("restart", &PyHasher::Restart, "salt"_a = nb::bytes("", 0), "Forgets the chain and begins another.")
      .def("add_extra", &PyHasher::AddExtra, "tag"_a, "bytes"_a, "offset_tokens"_a = 0,
           "Something besides tokens that the KV of the block depends on that the next token belongs to. Tags: 1 LoRA, "
           "2 multimodal, 3 prompt embedding, 4 other.")
      .def("append", &PyHasher::Append, "tokens"_a, "Adds tokens; the keys of the blocks that became full.")
      .def("append_hash", &PyHasher::AppendHash, "hash"_a, "The key of the engine's own hash of the next block.")
      .def_prop_ro("blocks", &PyHasher::blocks)
      .def_prop_ro("tail_tokens", &PyHasher::tail_tokens)
      .def_prop_ro("probe", &PyHasher::probe, "Of the chain's first tokens, for acquire and reserve; empty before 16 tokens.");

  nb::class_<PyView>(module, "View", "A payload in place, only to read; keeps its stem pinned.")
      .def_prop_ro("payload", [](nb::handle_t<PyView> self) {
        return ArrayOf(nb::cast<const PyView&>(self).view.payload(), self, /*writable=*/false);
      }, "Its bytes, by the buffer protocol and DLPack.")
      .def_prop_ro("intact", [](const PyView& view) { return view.view.intact(); },
                   "Ask after reading: False means that what was read is a miss.");

  nb::class_<Stem>(module, "Stem", "The pinned, leading run of a chain that is held somewhere.")
      .def_prop_ro("matched_blocks", [](const Stem& stem) { return Held(stem).matched_blocks(); })
      .def_prop_ro("landed_blocks", [](const Stem& stem) { return Held(stem).landed_blocks(); })
      .def_prop_ro("chain_blocks", [](const Stem& stem) { return Held(stem).chain_blocks(); })
      .def_prop_ro("exact", [](const Stem& stem) { return Held(stem).truth().exact(); })
      .def_prop_ro("misses", [](const Stem& stem) { return TuplesOf(Held(stem).misses()); }, "(first block, blocks, cause) for what lies behind matched_blocks.")
      .def_prop_ro("difference", &DifferenceOf,
                   "(field, asked, known) with an incompatible miss: in what the namespace differs under which the prompt is known.")
      .def("source", [](const Stem& stem, uint32_t block) {
        if (block >= Held(stem).chain_blocks()) throw nb::index_error(absl::StrCat("block ", block, " of ", stem.chain_blocks()).c_str());
        return SourceName(stem.source(block));
      }, "block"_a, "Where a block came from; 'none' until it landed.")
      .def("__enter__", [](nb::handle self) { return nb::borrow(self); })
      .def("__exit__", [](Stem& stem, nb::args) { stem = Stem(); })
      .def("release", [](Stem& stem) { stem = Stem(); }, "Gives it back; never waits.");

  nb::class_<GetResult>(module, "Got", "What a `get` brought.")
      .def_ro("blocks_loaded", &GetResult::blocks_loaded, "The leading run that is proved and complete in the destinations.")
      .def_prop_ro("misses", [](const GetResult& got) { return TuplesOf(got.misses); }, "(first block, blocks, cause) for what lies behind it.");

  nb::class_<PyReservation>(module, "Reservation", "The right to publish some blocks, with the memory to write them to.")
      .def_prop_ro("wanted", [](nb::handle_t<PyReservation> self) { return nb::cast<PyReservation&>(self).Wanted(self); },
                   "(block, part, staging) for each payload to write before the commit, and not after.")
      .def_prop_ro("held", [](PyReservation& r) { return r.get().held(); })
      .def_prop_ro("being_published", [](PyReservation& r) { return r.get().being_published(); })
      .def_prop_ro("refused", [](PyReservation& r) { return r.get().refused(); })
      .def_prop_ro("reason", [](PyReservation& r) { return r.get().reason(); })
      .def_prop_ro("staging_bytes_missing", [](PyReservation& r) { return r.get().staging_bytes_missing(); })
      .def("abandon", &PyReservation::Abandon);

  nb::class_<CommitResult>(module, "Committed")
      .def_ro("committed", &CommitResult::committed)
      .def_ro("duplicate", &CommitResult::duplicate)
      .def_ro("refused", &CommitResult::refused)
      .def_ro("reason", &CommitResult::reason);
  BindCall<absl::StatusOr<Stem>>(module, "AcquireCall");
  BindCall<LoadResult>(module, "LoadCall");
  BindCall<GetResult>(module, "GetCall");
  BindCall<absl::StatusOr<Reservation>>(module, "ReserveCall");
  BindCall<absl::StatusOr<CommitResult>>(module, "CommitCall");
}

void BindStarts(nb::class_<PyClient>& client) {
  client
      .def("start_acquire",
           [](const PyClient& self, const nb::bytes& keys, std::vector<uint32_t> parts, std::string request,
              std::string traceparent, double compute_s, double timeout_s, const nb::bytes& probe, uint64_t conversation,
              const std::string& outlook, nb::object notify) {
             Call<absl::StatusOr<Stem>> call;
             AcquireOptions options = AcquireOptionsOf(std::move(parts), std::move(request), std::move(traceparent), compute_s, probe,
                                                       ConversationOf(conversation, outlook));
             self.get()->AcquireAsync(KeysOf(keys), options, After(timeout_s), call.Ending(std::move(notify)));
             return call;
           },
           "keys"_a, nb::kw_only(), "parts"_a = std::vector<uint32_t>(), "request"_a = "", "traceparent"_a = "",
           "compute_s"_a = 0.0, "timeout_s"_a = 0.2, "probe"_a = nb::bytes("", 0), "conversation"_a = uint64_t{0}, "outlook"_a = "unknown",
           "notify"_a.none() = nb::none(),
           "As `acquire`, without waiting. `notify` is called without arguments on a thread of the client.")
      .def("start_load",
           [](const PyClient& self, const Stem& stem, uint32_t first_block, nb::handle destinations, double timeout_s,
              nb::object notify) {
             Call<LoadResult> call;
             call.pending->destinations = SpansOf(destinations, call.pending->held);
             self.get()->LoadAsync(stem, first_block, call.pending->destinations, After(timeout_s), call.Ending(std::move(notify)));
             return call;
           },
           "stem"_a, "first_block"_a, "destinations"_a, nb::kw_only(), "timeout_s"_a = 5.0, "notify"_a.none() = nb::none())
      .def("start_get",
           [](const PyClient& self, const nb::bytes& keys, nb::handle destinations, std::vector<uint32_t> parts, std::string request,
              std::string traceparent, double compute_s, double timeout_s, const nb::bytes& probe, uint64_t conversation,
              const std::string& outlook, nb::object notify) {
             Call<GetResult> call;
             AcquireOptions options = AcquireOptionsOf(std::move(parts), std::move(request), std::move(traceparent), compute_s, probe,
                                                       ConversationOf(conversation, outlook));
             call.pending->destinations = SpansOf(destinations, call.pending->held);
             self.get()->GetAsync(KeysOf(keys), options, call.pending->destinations, After(timeout_s), call.Ending(std::move(notify)));
             return call;
           },
           "keys"_a, "destinations"_a, nb::kw_only(), "parts"_a = std::vector<uint32_t>(), "request"_a = "", "traceparent"_a = "",
           "compute_s"_a = 0.0, "timeout_s"_a = 5.0, "probe"_a = nb::bytes("", 0), "conversation"_a = uint64_t{0}, "outlook"_a = "unknown",
           "notify"_a.none() = nb::none())
      .def("start_reserve",
           [](const PyClient& self, const nb::bytes& keys, const std::optional<nb::bytes>& parent, std::vector<uint32_t> parts,
              std::string traceparent, double timeout_s, const nb::bytes& probe, uint64_t conversation, const std::string& outlook,
              nb::object notify) {
             Call<absl::StatusOr<Reservation>> call;
             const ReserveOptions options =
                 ReserveOptionsOf(parent, std::move(parts), std::move(traceparent), probe, ConversationOf(conversation, outlook));
             self.get()->ReserveAsync(KeysOf(keys), options, After(timeout_s), call.Ending(std::move(notify)));
             return call;
           },
           "keys"_a, nb::kw_only(), "parent"_a = nb::none(), "parts"_a = std::vector<uint32_t>(), "traceparent"_a = "",
           "timeout_s"_a = 1.0, "probe"_a = nb::bytes("", 0), "conversation"_a = uint64_t{0}, "outlook"_a = "unknown",
           "notify"_a.none() = nb::none())
      .def("start_commit",
           [](const PyClient& self, PyReservation& reservation, double timeout_s, nb::object notify) {
             Call<absl::StatusOr<CommitResult>> call;
             self.get()->CommitAsync(reservation.Take(), After(timeout_s), call.Ending(std::move(notify)));
             return call;
           },
           "reservation"_a, nb::kw_only(), "timeout_s"_a = 5.0, "notify"_a.none() = nb::none());
}

CacheClient::Options OptionsOf(std::string node, const NamespaceSpec& space, uint64_t staging_bytes, std::string client_name,
                               std::string shared_group, const std::string& proof) {
  if (proof != "full" && proof != "header") throw nb::value_error("proof is full or header");
  return {.node = std::move(node),
          .space = space,
          .staging_bytes = staging_bytes,
          .client_name = std::move(client_name),
          .shared_group = std::move(shared_group),
          .local_proof = proof == "full" ? LocalProof::kFull : LocalProof::kHeader};
}

void BindWaits(nb::class_<PyClient>& client) {
  client
      .def("acquire",
           [](const PyClient& self, const nb::bytes& keys, std::vector<uint32_t> parts, std::string request,
              std::string traceparent, double compute_s, double timeout_s, const nb::bytes& probe, uint64_t conversation,
              const std::string& outlook) {
             const std::vector<BlockKey> chain = KeysOf(keys);
             const AcquireOptions options = AcquireOptionsOf(std::move(parts), std::move(request), std::move(traceparent), compute_s, probe,
                                                             ConversationOf(conversation, outlook));
             const LiveClient live = self.get();
             const nb::gil_scoped_release released;
             return ValueOf(live->Acquire(chain, options, After(timeout_s)));
           },
           "keys"_a, nb::kw_only(), "parts"_a = std::vector<uint32_t>(), "request"_a = "", "traceparent"_a = "",
           "compute_s"_a = 0.0, "timeout_s"_a = 0.2, "probe"_a = nb::bytes("", 0), "conversation"_a = uint64_t{0}, "outlook"_a = "unknown",
           "Pins the longest stem of a chain. A miss is a Stem that matched nothing. conversation: `stemcache.conversation_id` of the "
           "chat that the request belongs to, 0 = not told; outlook: what comes after it there, unknown, will_resume or ended.")
      .def("load", &Load, "stem"_a, "first_block"_a, "destinations"_a, nb::kw_only(), "timeout_s"_a = 5.0,
           "Copies blocks from first_block on, each proved, into one buffer (or tensor) a position; None skips one. Returns how "
           "many; an exception has it as `blocks_loaded`.")
      .def("get",
           [](const PyClient& self, const nb::bytes& keys, nb::handle destinations, std::vector<uint32_t> parts, std::string request,
              std::string traceparent, double compute_s, double timeout_s, const nb::bytes& probe, uint64_t conversation,
              const std::string& outlook) {
             const std::vector<BlockKey> chain = KeysOf(keys);
             const AcquireOptions options = AcquireOptionsOf(std::move(parts), std::move(request), std::move(traceparent), compute_s, probe,
                                                             ConversationOf(conversation, outlook));
             const LiveClient live = self.get();
             return GotOf(CallInto(destinations, [&](auto spans) { return live->Get(chain, options, spans, After(timeout_s)); }));
           },
           "keys"_a, "destinations"_a, nb::kw_only(), "parts"_a = std::vector<uint32_t>(), "request"_a = "", "traceparent"_a = "",
           "compute_s"_a = 0.0, "timeout_s"_a = 5.0, "probe"_a = nb::bytes("", 0), "conversation"_a = uint64_t{0}, "outlook"_a = "unknown",
           "`acquire`, `load` and release in one: one buffer (or tensor) a position of the whole chain; None skips one. What lies whole in "
           "the node's memory is copied without a call to it, which is the fastest way to a block. An exception has `blocks_loaded`.")
      .def("read",
           [](const PyClient& self, const Stem& stem, uint32_t position, double timeout_s) {
             const LiveClient live = self.get();
             const nb::gil_scoped_release released;
             return PyView{ValueOf(live->Read(stem, position, After(timeout_s)))};
           },
           "stem"_a, "position"_a, nb::kw_only(), "timeout_s"_a = 5.0, "A payload in place, its header checked.")
      .def("reserve",
           [](const PyClient& self, const nb::bytes& keys, const std::optional<nb::bytes>& parent, std::vector<uint32_t> parts,
              std::string traceparent, double timeout_s, const nb::bytes& probe, uint64_t conversation, const std::string& outlook) {
             const std::vector<BlockKey> chain = KeysOf(keys);
             const ReserveOptions options =
                 ReserveOptionsOf(parent, std::move(parts), std::move(traceparent), probe, ConversationOf(conversation, outlook));
             const LiveClient live = self.get();
             const nb::gil_scoped_release released;
             return PyReservation(ValueOf(live->Reserve(chain, options, After(timeout_s))));
           },
           "keys"_a, nb::kw_only(), "parent"_a = nb::none(), "parts"_a = std::vector<uint32_t>(), "traceparent"_a = "",
           "timeout_s"_a = 1.0, "probe"_a = nb::bytes("", 0), "conversation"_a = uint64_t{0}, "outlook"_a = "unknown",
           "Asks which blocks the node wants, and gives memory to write them to.")
      .def("commit",
           [](const PyClient& self, PyReservation& reservation, double timeout_s) {
             Reservation taken = reservation.Take();
             const LiveClient live = self.get();
             const nb::gil_scoped_release released;
             return ValueOf(live->Commit(std::move(taken), After(timeout_s)));
           },
           "reservation"_a, nb::kw_only(), "timeout_s"_a = 5.0, "Publishes what was written, and uses the reservation up.")
      .def("end_conversation", [](const PyClient& self, uint64_t conversation) { self.get()->EndConversation(conversation); }, "conversation"_a,
           "Tells the node that a conversation ended after its last request. Never waits; nothing happens while there is no node.");
}

}  // namespace

void BindClient(nb::module_& module) {
  BindNamespace(module);
  nb::class_<PyClient> client(module, "Client", "A client of this host's node; stemcache.Client adds what asyncio needs.");
  client
      .def("__init__",
           [](PyClient* self, std::string node, const NamespaceSpec& space, uint64_t staging_bytes, std::string client_name,
              std::string shared_group, const std::string& proof, double timeout_s) {
             new (self) PyClient(OptionsOf(std::move(node), space, staging_bytes, std::move(client_name), std::move(shared_group), proof),
                                 timeout_s);
           },
           "node"_a, "namespace"_a, nb::kw_only(), "staging_bytes"_a = uint64_t{64} << 20, "client_name"_a = "", "shared_group"_a = "",
           "proof"_a = "full", "timeout_s"_a = 5.0)
      .def("close", &PyClient::Close,
           "Refuses calls from now on, and ends those that `start_*` began. Blocking calls that run, and each PageMover until its own "
           "`close`, keep the client alive: then it ends with the last of them. Stems and views stay readable.")
      .def_prop_ro("connected", [](const PyClient& self) { return self.get()->connected(); })
      .def_prop_ro("incarnation", [](const PyClient& self) { return self.get()->incarnation(); })
      .def_prop_ro("node", [](const PyClient& self) { return self.get()->node(); })
      .def_prop_ro("warnings", [](const PyClient& self) { return self.get()->warnings(); },
                   "What the node said at attach: like-named namespaces that differ, and in which field.")
      .def_prop_ro("fingerprint", [](const PyClient& self) {
        const NamespaceFingerprint fingerprint = self.get()->fingerprint();
        return nb::bytes(fingerprint.bytes().data(), fingerprint.bytes().size());
      })
      .def_prop_ro("namespace", [](const PyClient& self) { return self.get()->space(); })
      .def("stats", &StatsOf, "Counts since the start, by name; by source where a block comes from somewhere.");
  BindHandles(module);
  BindWaits(client);
  BindStarts(client);
}

}  // namespace stem::python
