#include "services/node/announce/announcer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "proto/validate.h"
#include "proto/wire_status.h"
#include "services/node/announce/chain_order.h"
#include "services/node/spaces/remove_reason.h"
#include "services/runtime/clock.h"

namespace stem {
namespace {

constexpr size_t kChangesPerBatch = 4096;
// A change goes out at once; those that follow it so soon go together. A message wakes five threads, which costs more than a small block's copy.
constexpr absl::Duration kTogether = absl::Milliseconds(1);
constexpr absl::Duration kChunkPatience = absl::Seconds(30);
constexpr absl::Duration kBackoffMin = absl::Milliseconds(50);
constexpr absl::Duration kBackoffMax = absl::Seconds(1);

bool IsLast(const v1::ChangeRun& run, const std::optional<BlockKey>& key) {
  return key && absl::EndsWith(run.keys(), key->bytes());
}

}  // namespace

struct Announcer::Interned {
  const SpaceTable& spaces;
  absl::flat_hash_map<NamespaceFingerprint, uint32_t> numbers = {};

  uint32_t Number(const NamespaceFingerprint& space, google::protobuf::RepeatedPtrField<v1::InternedNamespace>* added) {
    const auto [it, is_new] = numbers.try_emplace(space, static_cast<uint32_t>(numbers.size() + 1));
    if (is_new) {
      v1::InternedNamespace* const interned = added->Add();
      interned->set_number(it->second);
      interned->set_fingerprint(std::string(space.bytes()));
      interned->set_engine_cache(spaces.Find(space) == nullptr);  // EngineCacheOf one of them
    }
    return it->second;
  }

  // Adds `change` to the last of `runs` when it goes on with it: same thing happened, to the next block of the chain. What
  // leaves needs no order: leaves go first.
  template <typename Message>
  void Append(const BlockChange& change, Message* message) {
    const uint32_t number = Number(change.name.space, message->mutable_namespaces());
    const bool remove = change.residence == Residence::kGone;
    const v1::Tier tier = remove ? v1::TIER_UNSPECIFIED
                          : change.residence == Residence::kDram ? v1::TIER_DRAM
                                                                 : v1::TIER_SSD;
    const GoneReason why = change.reason == GoneReason::kNone ? GoneReason::kEvicted : change.reason;  // what is not said made room
    const v1::RemoveReason reason = remove ? ToMessage(why) : v1::REMOVE_REASON_UNSPECIFIED;
    v1::ChangeRun* run = message->runs().empty() ? nullptr : message->mutable_runs(message->runs_size() - 1);
    const bool goes_on = run != nullptr && run->namespace_() == number && run->remove() == remove && run->tier() == tier &&
                         run->reason() == reason && (remove || IsLast(*run, change.parent));
    if (!goes_on) {
      run = message->add_runs();
      run->set_namespace_(number);
      run->set_remove(remove);
      run->set_tier(tier);
      run->set_reason(reason);
      if (change.parent.has_value() && !remove) run->set_parent(std::string(change.parent->bytes()));
    }
    const absl::string_view key = change.name.key.bytes();
    run->mutable_keys()->append(key.data(), key.size());
  }
};

Announcer::Announcer(Options options, const ChangeLog& changes, const SpaceTable& spaces, const ClusterSecret& secret,
                     Logger& log)
    : options_(std::move(options)),
      changes_(changes),
      spaces_(spaces),
      secret_(secret),
      log_(log),
      started_(absl::Now()),
      thread_([this] { Run(); }) {}

Announcer::~Announcer() {
  stopping_ = true;
  {
    MutexLock lock(mutex_);
    if (context_ != nullptr) context_->TryCancel();
    stopped_.NotifyAll();
    chunk_taken_.NotifyAll();
  }
  thread_.join();
}

void Announcer::Run() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  const auto stub = v1::Directory::NewStub(
      grpc::CreateCustomChannel(options_.directory, grpc::InsecureChannelCredentials(), arguments));
  absl::Duration backoff = kBackoffMin;
  while (!stopping_) {
    const absl::Time began = absl::Now();
    const absl::Status status = Speak(*stub);
    connected_ = false;
    if (stopping_) return;
    if (absl::Now() - began > kBackoffMax) backoff = kBackoffMin;  // it held for a while
    log_.Warn("directory_stream_ended", {{"directory", options_.directory}, {"why", status.message()}});
    MutexLock lock(mutex_);
    if (!stopping_) stopped_.WaitFor(mutex_, backoff);
    backoff = std::min(backoff * 2, kBackoffMax);
  }
}

absl::Status Announcer::Speak(v1::Directory::Stub& stub) {
  grpc::ClientContext context;
  secret_.AddToken(context);
  {
    MutexLock lock(mutex_);
    if (stopping_) return absl::CancelledError("stopping");
    context_ = &context;
    replies_ended_ = false;
  }
  resync_ = false;
  acknowledged_ = 0;  // what an earlier stream's directory knew may be gone with it
  const std::unique_ptr<Stream> stream = stub.Announce(&context);
  v1::AnnounceMessage hello;
  *hello.mutable_hello() = options_.hello;
  hello.mutable_hello()->set_uptime_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(absl::Now() - started_)));
  bool alive = stream->Write(hello);
  std::thread reader([this, &stream] { ReadReplies(*stream); });

  Interned interned{.spaces = spaces_};
  uint64_t sent = changes_.sequence();
  alive = alive && SendSnapshot(*stream, interned, sent);
  connected_ = alive;
  if (alive) log_.Info("directory_stream_open", {{"directory", options_.directory}, {"sequence", sent}});
  bool begins = true;
  absl::Time beaten = absl::InfinitePast();
  absl::Time told = absl::InfinitePast();
  while (alive && !stopping_) {
    absl::SleepFor(told + kTogether - MonotonicNow());  // a host's clock that is set back must not silence it
    const ChangeLog::Slice slice = changes_.ReadAfter(sent, kChangesPerBatch, options_.heartbeat);
    if (slice.lost || resync_.exchange(false)) {
      sent = changes_.sequence();
      log_.Warn("snapshot_resent", {{"directory", options_.directory}, {"sequence", sent}});
      alive = SendSnapshot(*stream, interned, sent);
    } else if (!slice.changes.empty()) {
      alive = SendChanges(*stream, interned, slice.changes, sent + 1);
      sent += slice.changes.size();
      told = MonotonicNow();
    }
    const absl::Time now = MonotonicNow();
    if (alive && (slice.changes.empty() || now - beaten >= options_.heartbeat)) {  // steady changes do not silence it
      beaten = now;
      v1::AnnounceMessage message;
      *message.mutable_heartbeat() = options_.usage(std::exchange(begins, false));
      message.mutable_heartbeat()->set_sequence(sent);
      alive = stream->Write(message);
    }
  }
  stream->WritesDone();
  context.TryCancel();
  reader.join();
  const grpc::Status status = stream->Finish();
  MutexLock lock(mutex_);
  context_ = nullptr;
  return FromGrpc(status);
}

bool Announcer::AwaitChunksTaken(uint32_t sent) {
  const absl::Time until = absl::Now() + kChunkPatience;
  MutexLock lock(mutex_);
  while (sent > chunks_taken_ + 1 && !replies_ended_ && !resync_ && !stopping_) {
    const absl::Duration left = until - absl::Now();
    if (left <= absl::ZeroDuration()) break;
    chunk_taken_.WaitFor(mutex_, left);
  }
  return !replies_ended_ && !resync_ && !stopping_;
}

bool Announcer::SendSnapshot(Stream& stream, Interned& interned, uint64_t sequence) {
  {
    MutexLock lock(mutex_);
    chunks_taken_ = 0;
  }
  uint32_t index = 0;
  size_t changes = 0;
  bool alive = true;
  bool going_on = true;
  interned.numbers.clear();  // a snapshot names every namespace that it uses again
  v1::AnnounceMessage message;
  const auto flush = [&](bool last) {
    message.mutable_chunk()->set_sequence(sequence);
    message.mutable_chunk()->set_index(index++);
    message.mutable_chunk()->set_last(last);
    alive = alive && stream.Write(message);
    if (!last) going_on = alive && AwaitChunksTaken(index);
    message.Clear();
    changes = 0;
  };
  // Collected first: nothing may be written to the network under a pool's lock.
  std::vector<BlockChange> held;
  const auto hold = [&](const BlockChange& change) { held.push_back(change); };
  for (const BlockPool* pool : spaces_.pools()) pool->Snapshot(hold);
  if (options_.engine_cache) options_.engine_cache(hold);
  for (const BlockChange& change : InChainOrder(held)) {
    interned.Append(change, message.mutable_chunk());
    if (++changes == kChangesPerBatch) flush(false);
    if (!going_on) return alive;  // asked for anew, or over
  }
  flush(true);
  return alive;
}

bool Announcer::SendChanges(Stream& stream, Interned& interned, const std::vector<BlockChange>& changes,
                            uint64_t first) const {
  v1::AnnounceMessage message;
  v1::Batch* const batch = message.mutable_batch();
  batch->set_sequence(first);
  for (const BlockChange& change : changes) interned.Append(change, batch);
  return stream.Write(message);
}

void Announcer::ReadReplies(Stream& stream) {
  v1::AnnounceReply reply;
  while (stream.Read(&reply)) {
    if (reply.has_acknowledge()) {
      acknowledged_ = reply.acknowledge().sequence();
      MutexLock lock(mutex_);
      chunks_taken_ = reply.acknowledge().chunks();
      chunk_taken_.NotifyAll();
    }
    if (reply.has_resync()) {
      log_.Warn("resync_asked", {{"directory", options_.directory},
                                 {"expected", reply.resync().expected()},
                                 {"received", reply.resync().received()}});
      resync_ = true;
      MutexLock lock(mutex_);
      chunk_taken_.NotifyAll();
    }
  }
  MutexLock lock(mutex_);
  replies_ended_ = true;
  chunk_taken_.NotifyAll();
}

}  // namespace stem
