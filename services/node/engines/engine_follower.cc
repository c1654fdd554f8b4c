#include "services/node/engines/engine_follower.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "zmq.hpp"

namespace stem {
namespace {

using Json = nlohmann::json;

constexpr size_t kNamespaceBytesMax = 1 << 20;
constexpr int kPollMillis = 100;
constexpr int kReplayMillis = 2000;   // of silence, after which no more is expected
constexpr int kQueueMax = 2000;       // batches that wait here; what does not fit is replayed

bool EngineBinds(const std::string& endpoint) {
  return absl::StrContains(endpoint, "*") || absl::StrContains(endpoint, "::") || absl::StartsWith(endpoint, "ipc://");
}

// What to connect to where the engine binds every address.
std::string Nearest(const std::string& endpoint) { return absl::StrReplaceAll(endpoint, {{"*", "127.0.0.1"}, {"[::]", "[::1]"}}); }

// Of numbers in network order, in 8 bytes.
std::optional<uint64_t> NumberOf(const std::string& frame) {
  if (frame.size() != sizeof(uint64_t)) return std::nullopt;
  uint64_t big = 0;
  std::memcpy(&big, frame.data(), sizeof(big));
  return __builtin_bswap64(big);
}

absl::StatusOr<NamespaceSpec> SpecOf(const std::string& path, const std::string& written) {
  const Json json = Json::parse(written, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, " is no JSON object"));
  const auto text = [&](const char* name) { return json.contains(name) && json[name].is_string() ? json[name].get<std::string>() : ""; };
  NamespaceSpec spec;
  spec.model = text("model");
  spec.revision = text("revision");
  spec.weights_digest = text("weights_digest");
  spec.kv_dtype = text("kv_dtype");
  spec.scale_scheme = text("scale_scheme");
  spec.layout = text("layout");
  spec.instruction_set = text("instruction_set");
  spec.tokenizer_digest = text("tokenizer_digest");
  spec.block_tokens = json.contains("block_tokens") && json["block_tokens"].is_number_unsigned() ? json["block_tokens"].get<uint32_t>() : 0;
  STEM_ASSIGN(spec.spill_encoding, ParseSpillEncoding(text("spill_encoding")));
  const std::string scheme = text("hash_scheme");
  spec.hash_scheme = scheme == "sha256" ? HashScheme::kSha256 : scheme == "external" ? HashScheme::kExternal : HashScheme::kXxh3;
  if (!json.contains("parts") || !json["parts"].is_array()) return absl::InvalidArgumentError(absl::StrCat(path, " has no list of parts"));
  for (const Json& bytes : json["parts"]) {  // as the connector registers them: one a rank
    const auto rank = static_cast<uint32_t>(spec.parts.size());
    if (bytes.is_object()) return absl::UnimplementedError(absl::StrCat(path, " is of an engine with sliding windows, whose events are not followed"));
    if (!bytes.is_number_unsigned()) return absl::InvalidArgumentError(absl::StrCat(path, " has a part that is no number of bytes"));
    spec.parts.push_back({.id = rank, .head_first = rank, .block_bytes = bytes.get<uint64_t>()});
  }
  return spec;
}

// What an engine's connector wrote, and who the engine runs as.
struct NamespaceFile {
  NamespaceSpec spec;
  uid_t owner = 0;
};

absl::StatusOr<NamespaceFile> ReadNamespaceFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  const absl::Cleanup release = [fd] { close(fd); };
  struct stat status = {};
  std::string bytes(kNamespaceBytesMax, 0);
  const ssize_t count = fstat(fd, &status) == 0 && S_ISREG(status.st_mode) ? read(fd, bytes.data(), bytes.size()) : -1;
  if (count < 0) return absl::NotFoundError(absl::StrCat("cannot read ", path, ": it is no file"));
  bytes.resize(static_cast<size_t>(count));
  STEM_ASSIGN(NamespaceSpec spec, SpecOf(path, bytes));
  return NamespaceFile{.spec = std::move(spec), .owner = status.st_uid};
}

// Why none of the namespaces of `memory`'s group is `spec`.
std::string WhyNone(const NamespaceSpec& spec, const GroupMemory& memory, const SpaceTable& spaces) {
  std::vector<std::string> nearest;
  for (const Space* space : spaces.All()) {
    std::vector<std::string> fields = space->memory == &memory ? DifferingFields(space->spec, spec) : std::vector<std::string>();
    if (!fields.empty() && (nearest.empty() || fields.size() < nearest.size())) nearest = std::move(fields);
  }
  if (nearest.empty()) return absl::StrCat("group ", memory.group.name, " has registered no namespace yet");
  return absl::StrCat("no namespace that group ", memory.group.name, " has registered is this one; the nearest differs: ", absl::StrJoin(nearest, ", "));
}

// The namespace of the engine whose connector wrote `path`: of its user's group, as others' keys are not its own.
absl::StatusOr<const Space*> FindSpace(const std::string& path, const SpaceTable& spaces) {
  STEM_ASSIGN(const NamespaceFile file, ReadNamespaceFile(path));
  STEM_ASSIGN(const GroupMemory* const memory, spaces.MemoryOf(file.owner));
  const Space* const space = spaces.Find(FingerprintOf(file.spec, memory->group.name));
  if (space == nullptr) return absl::NotFoundError(WhyNone(file.spec, *memory, spaces));
  return space;
}

}  // namespace

absl::Status CheckEngineFollower(const EngineFollowerOptions& options) {
  if (options.endpoint.empty()) {
    return options.replay.empty() && options.namespace_file.empty()
               ? absl::OkStatus()
               : absl::InvalidArgumentError("--kv-events-replay and --kv-events-namespace need --kv-events");
  }
  for (const auto& [flag, endpoint] : {std::pair("--kv-events", options.endpoint), std::pair("--kv-events-replay", options.replay)}) {
    absl::string_view address = endpoint;
    if (endpoint.empty() || absl::StartsWith(endpoint, "ipc://")) continue;
    if (absl::ConsumePrefix(&address, "tcp://") && ParseHostPort(address).ok() && ParseHostPort(address)->port != 0) continue;
    return absl::InvalidArgumentError(absl::StrCat(flag, ": '", endpoint, "' is no ZeroMQ endpoint; use tcp://HOST:PORT or ipc://PATH"));
  }
  if (options.namespace_file.empty()) {
    return absl::InvalidArgumentError("--kv-events needs --kv-events-namespace: the file that the engine's connector writes "
                                      "(its setting namespace_file)");
  }
  return absl::OkStatus();
}

std::optional<HostPort> ListenAddressOf(const EngineFollowerOptions& options) {
  if (options.endpoint.empty() || EngineBinds(options.endpoint)) return std::nullopt;
  return *ParseHostPort(absl::StripPrefix(options.endpoint, "tcp://"));
}

// The subscription and the way to ask for what was missed. Throws zmq::error_t.
class EngineFollower::Sockets {
 public:
  explicit Sockets(const EngineFollowerOptions& options) : options_(options), live_(context_, zmq::socket_type::sub) {
    live_.set(zmq::sockopt::rcvhwm, kQueueMax);
    live_.set(zmq::sockopt::linger, 0);
    live_.set(zmq::sockopt::maxmsgsize, int64_t{kEventBytesMax});
    live_.set(zmq::sockopt::subscribe, "");
    live_.set(zmq::sockopt::ipv6, true);
    if (EngineBinds(options.endpoint)) {
      live_.connect(Nearest(options.endpoint));
    } else {
      live_.bind(absl::StrReplaceAll(options.endpoint, {{"localhost", "127.0.0.1"}}));  // which takes no names
    }
  }

  // (number, payload) of a batch; nothing when none came in time.
  std::optional<std::pair<uint64_t, std::string>> Next() { return Receive(live_, kPollMillis); }

  // Batches from number `first` on, each given to `on_batch`, until the engine says that there are no more or that returns false.
  template <typename OnBatch>
  void Replay(uint64_t first, const std::atomic<bool>& stopping, OnBatch on_batch) {
    if (options_.replay.empty()) return;
    zmq::socket_t ask(context_, zmq::socket_type::dealer);
    ask.set(zmq::sockopt::linger, 0);
    ask.set(zmq::sockopt::maxmsgsize, int64_t{kEventBytesMax});
    ask.set(zmq::sockopt::ipv6, true);
    ask.connect(Nearest(options_.replay));
    const uint64_t big = __builtin_bswap64(first);
    ask.send(zmq::message_t(), zmq::send_flags::sndmore | zmq::send_flags::dontwait);
    ask.send(zmq::buffer(&big, sizeof(big)), zmq::send_flags::dontwait);
    while (!stopping) {
      const auto batch = Receive(ask, kReplayMillis);
      if (!batch.has_value() || batch->second.empty()) return;
      if (!on_batch(batch->first, batch->second)) return;
    }
  }

 private:
  // The last two frames of a message.
  static std::optional<std::pair<uint64_t, std::string>> Receive(zmq::socket_t& socket, int timeout_ms) {
    socket.set(zmq::sockopt::rcvtimeo, timeout_ms);
    std::string frames[2];
    while (true) {
      zmq::message_t frame;
      if (!socket.recv(frame).has_value()) return std::nullopt;
      frames[0] = std::move(frames[1]);
      frames[1] = frame.to_string();
      if (!frame.more()) break;
    }
    const std::optional<uint64_t> number = NumberOf(frames[0]);
    if (!number.has_value()) return std::nullopt;
    return std::pair(*number, std::move(frames[1]));
  }

  const EngineFollowerOptions& options_;
  zmq::context_t context_;
  zmq::socket_t live_;
};

EngineFollower::EngineFollower(EngineFollowerOptions options, const SpaceTable& spaces, EngineBlocks::OnChange on_change,
                               Logger& log)
    : options_(std::move(options)), spaces_(spaces), on_change_(std::move(on_change)), log_(log), thread_([this] { Run(); }) {}

EngineFollower::~EngineFollower() {
  stopping_ = true;
  thread_.join();
}

void EngineFollower::Snapshot(const EngineBlocks::OnChange& each) const {
  MutexLock lock(mutex_);
  if (blocks_ != nullptr) blocks_->Snapshot(each);
}

EngineBlocksStats EngineFollower::stats() const {
  MutexLock lock(mutex_);
  return blocks_ != nullptr ? blocks_->stats() : EngineBlocksStats();
}

void EngineFollower::Fill(MetricsPage& page) const {
  const EngineBlocksStats known = stats();
  bool followed = false;
  {
    MutexLock lock(mutex_);
    followed = blocks_ != nullptr;
  }
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    page.Counter(absl::StrCat("stemcache_node_engine_", name), help, static_cast<double>(value));
  };
  page.Gauge("stemcache_node_engine_followed", "1 once the engine's namespace is known and its KV events are followed; until then the log says why not",
             followed ? 1 : 0);
  page.Gauge("stemcache_node_engine_cached_blocks", "Blocks in the engine's own cache, as its KV events tell", static_cast<double>(known.blocks));
  counter("event_batches_total", "Batches of KV events that came", batches_);
  counter("event_replayed_batches_total", "Of those, asked for again after a gap or at the start", replayed_);
  counter("event_refused_batches_total", "Of those, not understood: see the log for the setting", refused_batches_);
  counter("event_lost_batches_total", "Batches that never came: the cache was forgotten", lost_);
  counter("stored_blocks_total", "Blocks of the engine's size that it stored", known.stored);
  counter("removed_blocks_total", "And that left", known.removed);
  counter("unfollowed_blocks_total", "And that have no key here: adapters, embeddings, behind what is not known", known.dropped);
}

const Space* EngineFollower::AwaitSpace() {
  std::string told;  // why not, logged when it changes
  for (absl::Time asked = absl::InfinitePast(); !stopping_; absl::SleepFor(absl::Milliseconds(kPollMillis))) {
    if (absl::Now() - asked < absl::Seconds(1)) continue;
    asked = absl::Now();
    const absl::StatusOr<const Space*> space = FindSpace(options_.namespace_file, spaces_);
    if (space.ok()) return *space;
    if (told == space.status().message()) continue;
    told = std::string(space.status().message());
    log_.Warn("kv_events_waiting", {{"namespace_file", options_.namespace_file}, {"why", told}});
  }
  return nullptr;
}

void EngineFollower::Run() {
  const Space* const space = AwaitSpace();
  if (space == nullptr) return;
  absl::StatusOr<std::unique_ptr<EngineBlocks>> made = EngineBlocks::Create(space->spec, space->fingerprint, space->root, on_change_);
  if (!made.ok()) return log_.Error("kv_events_refused", {{"endpoint", options_.endpoint}, {"why", made.status().message()}});
  EngineBlocks& blocks = **made;
  {
    MutexLock lock(mutex_);
    blocks_ = *std::move(made);
  }
  log_.Info("kv_events_followed", {{"endpoint", options_.endpoint}, {"namespace", space->fingerprint.ToHex()}});
  while (!stopping_) {
    try {
      Follow(blocks);
    } catch (const zmq::error_t& error) {
      log_.Warn("kv_events_socket", {{"endpoint", options_.endpoint}, {"why", error.what()}});
      for (int i = 0; i < 10 && !stopping_; ++i) absl::SleepFor(absl::Milliseconds(kPollMillis));
    }
  }
}

void EngineFollower::Follow(EngineBlocks& blocks) {
  Sockets sockets(options_);
  CatchUp(sockets, blocks);
  while (!stopping_) {
    if (const auto batch = sockets.Next(); batch.has_value()) OnBatch(sockets, blocks, batch->first, batch->second);
  }
}

void EngineFollower::CatchUp(Sockets& sockets, EngineBlocks& blocks) {
  bool anew = false;
  const auto on_batch = [&](uint64_t number, const std::string& payload) {
    const absl::StatusOr<EngineEventBatch> batch = DecodeEngineEvents(payload);
    if (number + 1 == next_ && batch.ok() && batch->unix_seconds != applied_unix_seconds_) anew = true;
    if (anew || number < next_) return !anew;
    if (number > next_ && next_ > 0) {  // older ones are kept no longer
      lost_ += number - next_;
      blocks.Clear();
    }
    ++replayed_;
    ApplyBatch(blocks, number, batch);
    return true;
  };
  sockets.Replay(next_ > 0 ? next_ - 1 : 0, stopping_, on_batch);
  if (!anew) return;
  BeginAnew(blocks, next_ - 1);
  anew = false;
  sockets.Replay(0, stopping_, on_batch);
}

void EngineFollower::OnBatch(Sockets& sockets, EngineBlocks& blocks, uint64_t number, const std::string& payload) {
  const absl::StatusOr<EngineEventBatch> batch = DecodeEngineEvents(payload);
  // A number that was applied comes again when the replay had it, and from another life of the engine, in which it was made later.
  const bool later = batch.ok() && batch->unix_seconds > applied_unix_seconds_;
  if (number < last_live_ || (number < next_ && later)) BeginAnew(blocks, number);
  last_live_ = number;
  if (number > next_) {
    log_.Warn("kv_events_gap", {{"endpoint", options_.endpoint}, {"expected", next_}, {"received", number}});
    CatchUp(sockets, blocks);
  }
  if (number < next_) return;  // the replay had it
  if (number > next_) {        // and not all that came before: who is still there is not known
    lost_ += number - next_;
    blocks.Clear();
  }
  ApplyBatch(blocks, number, batch);
}

void EngineFollower::BeginAnew(EngineBlocks& blocks, uint64_t number) {
  log_.Info("kv_events_restarted", {{"endpoint", options_.endpoint}, {"batch", number}});
  blocks.Clear();
  next_ = 0;
}

void EngineFollower::ApplyBatch(EngineBlocks& blocks, uint64_t number, const absl::StatusOr<EngineEventBatch>& batch) {
  ++batches_;
  next_ = number + 1;
  absl::Status applied = batch.status();
  if (batch.ok()) {
    applied_unix_seconds_ = batch->unix_seconds;
    for (size_t i = 0; applied.ok() && i < batch->events.size(); ++i) applied = blocks.Apply(batch->events[i]);
  }
  if (applied.ok()) return;
  ++refused_batches_;
  blocks.Clear();  // what it would have taken away is not known
  if (refused_ == applied.message()) return;
  refused_ = std::string(applied.message());
  log_.Error("kv_events_refused", {{"endpoint", options_.endpoint}, {"why", refused_}});
}

}  // namespace stem
