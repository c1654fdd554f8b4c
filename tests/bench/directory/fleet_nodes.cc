#include "tests/bench/directory/fleet_nodes.h"

#include <algorithm>
#include <chrono>

#include "proto/mutex.h"
#include "tests/bench/directory/directory_process.h"
#include "tests/bench/directory/filled_index.h"
#include "tests/bench/directory/measure.h"

namespace stem::bench {
namespace {

constexpr uint32_t kChunkKeys = 4096;
constexpr uint32_t kChunksUnderWay = 2;
constexpr double kBeatsPerHeartbeat = 2.5;

void Intern(v1::InternedNamespace* interned) {
  const NamespaceFingerprint space = BenchSpace();
  interned->set_number(1);
  interned->set_fingerprint(space.bytes().data(), space.bytes().size());
}

}  // namespace

FleetNode::FleetNode(const FleetOptions& options, uint32_t number)
    : number_(number),
      owner_(number / options.copies),
      chain_blocks_(options.chain_blocks),
      chains_(static_cast<uint32_t>(
          std::max<uint64_t>(2, options.blocks * options.copies / options.nodes / options.chain_blocks))),
      stable_(chains_ / 2) {}

v1::ChangeRun* FleetNode::AddRun(uint64_t ordinal, v1::ChangeRun* run) const {
  run->set_namespace_(1);
  run->set_tier(v1::TIER_DRAM);
  run->set_keys(PackKeys(KeysAt(ChainAt(ordinal), 0, chain_blocks_)));
  return run;
}

void FleetNode::FillChunk(uint64_t turns, uint32_t index, v1::SnapshotChunk& chunk) const {
  const uint32_t per_chunk = std::max(1u, kChunkKeys / chain_blocks_);
  const uint32_t first = index * per_chunk, last = std::min(first + per_chunk, chains_);
  chunk.set_sequence(sequence(turns));
  chunk.set_index(index);
  chunk.set_last(last == chains_);
  Intern(chunk.add_namespaces());
  for (uint32_t i = first; i < last; ++i) AddRun(i < stable_ ? i : i + turns, chunk.add_runs());
}

void FleetNode::FillBatch(uint64_t turn, v1::Batch& batch) const {
  batch.set_sequence(sequence(turn) + 1);
  AddRun(chains_ + turn, batch.add_runs());
  v1::ChangeRun* gone = AddRun(stable_ + turn, batch.add_runs());
  gone->set_tier(v1::TIER_UNSPECIFIED);
  gone->set_remove(true);
  gone->set_reason(v1::REMOVE_REASON_EVICTED);
}

// Hello, snapshot, then what churned; a heartbeat whenever one is due. One message is under way at a time.
class FleetStream final : public grpc::ClientBidiReactor<v1::AnnounceMessage, v1::AnnounceReply> {
 public:
  FleetStream(const FleetNode& node, v1::Directory::Stub& stub, const ClusterSecret& secret,
              std::atomic<uint64_t>& resyncs)
      : node_(node), resyncs_(resyncs) {
    MutexLock lock(mutex_);
    secret.AddToken(context_);
    stub.async()->Announce(&context_, this);
    AddHold();  // for Poke
    StartRead(&reply_);
    *message_.mutable_hello() = HelloOf(node.number());
    writing_ = true;
    StartWrite(&message_);
    StartCall();
  }
  ~FleetStream() override {
    context_.TryCancel();
    MutexLock lock(mutex_);
    while (!done_) over_.Wait(mutex_);
  }

  void Poke(bool beat) {
    MutexLock lock(mutex_);
    beat_ = beat_ || beat;
    Next();
  }
  bool done() const {
    MutexLock lock(mutex_);
    return done_;
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(mutex_);
    writing_ = false;
    if (ok) Next();
  }
  void OnReadDone(bool ok) override {
    MutexLock lock(mutex_);
    if (!ok) {
      ended_ = true;
      RemoveHold();
      return;
    }
    if (reply_.has_acknowledge()) chunks_taken_ = reply_.acknowledge().chunks();
    if (reply_.has_resync()) {
      ++resyncs_;
      snapshot_ = true;
      chunk_ = chunks_taken_ = 0;
    }
    StartRead(&reply_);
    Next();
  }
  void OnDone(const grpc::Status&) override {
    MutexLock lock(mutex_);
    done_ = true;
    over_.NotifyAll();
  }

 private:
  void Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || ended_) return;
    message_.Clear();
    if (snapshot_ && !beat_ && chunk_ < chunks_taken_ + kChunksUnderWay) {
      if (chunk_ == 0) sent_ = node_.turns();
      node_.FillChunk(sent_, chunk_++, *message_.mutable_chunk());
      snapshot_ = !message_.chunk().last();
    } else if (!snapshot_ && sent_ < node_.turns()) {
      node_.FillBatch(sent_++, *message_.mutable_batch());
    } else if (beat_) {
      beat_ = false;
      message_.mutable_heartbeat()->set_sequence(node_.sequence(node_.turns()));
    } else {
      return;
    }
    writing_ = true;
    StartWrite(&message_);
  }

  const FleetNode& node_;
  std::atomic<uint64_t>& resyncs_;
  mutable Mutex mutex_;
  CondVar over_;
  grpc::ClientContext context_;
  v1::AnnounceMessage message_ ABSL_GUARDED_BY(mutex_);
  v1::AnnounceReply reply_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  bool beat_ ABSL_GUARDED_BY(mutex_) = false;
  bool snapshot_ ABSL_GUARDED_BY(mutex_) = true;  // is being sent, or must be
  uint32_t chunk_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t chunks_taken_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t sent_ ABSL_GUARDED_BY(mutex_) = 0;  // turns that the directory was told
};

Fleet::Fleet(const FleetOptions& options, std::vector<std::string> directories)
    : options_(options), directories_(std::move(directories)), secret_(BenchSecret()), alive_(options.nodes) {
  for (uint32_t i = 0; i < options_.nodes; ++i) {
    nodes_.push_back(std::make_unique<FleetNode>(options_, i));
    stubs_.emplace_back();
    for (const std::string& address : directories_) stubs_[i].push_back(v1::Directory::NewStub(OwnChannel(address)));
    streams_.emplace_back(directories_.size());
  }
}

Fleet::~Fleet() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void Fleet::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void Fleet::KillNodes(uint32_t count) { alive_ -= std::min<uint32_t>(count, alive_); }

// A node must speak twice per heartbeat.
void Fleet::Loop() {
  const Clock::time_point begin = Clock::now();
  const double visits_per_second = kBeatsPerHeartbeat * 1e3 * options_.nodes / options_.heartbeat_ms;
  const double turns_per_second = options_.churn_per_second / (2.0 * options_.chain_blocks);
  uint64_t visits = 0, turns = 0;
  while (!stop_) {
    const double now = SecondsSince(begin);
    for (; turns < static_cast<uint64_t>(now * turns_per_second); ++turns) {
      const uint32_t owner = static_cast<uint32_t>(turns % options_.nodes) / options_.copies * options_.copies;
      for (uint32_t i = owner; i < std::min(owner + options_.copies, options_.nodes); ++i) nodes_[i]->Turn();
    }
    for (; visits < static_cast<uint64_t>(now * visits_per_second); ++visits) {
      Visit(static_cast<uint32_t>(visits % options_.nodes));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  streams_.clear();
}

void Fleet::Visit(uint32_t number) {
  for (size_t i = 0; i < directories_.size(); ++i) {
    std::unique_ptr<FleetStream>& stream = streams_[number][i];
    if (number >= alive_) {
      stream.reset();
    } else if (stream == nullptr || stream->done()) {
      stream = std::make_unique<FleetStream>(*nodes_[number], *stubs_[number][i], secret_, resyncs_);
    } else {
      stream->Poke(true);
    }
  }
}

}  // namespace stem::bench
