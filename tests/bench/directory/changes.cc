#include <atomic>
#include <thread>

#include "proto/check.h"
#include "services/directory/holder_stream.h"
#include "tests/bench/directory/churn.h"
#include "tests/bench/directory/filled_index.h"
#include "tests/bench/directory/measure.h"
#include "tests/bench/directory/scenarios.h"

namespace stem::bench {
namespace {

constexpr uint32_t kBatchKeys = 4096;

// A stream that has said hello and sent an empty snapshot, and the bytes of what it says next.
class Announcer {
 public:
  Announcer(Membership& membership, PrefixIndex& index, uint32_t node) : stream_(membership, index) {
    v1::AnnounceMessage hello;
    *hello.mutable_hello() = HelloOf(node);
    STEM_CHECK(stream_.OnMessage(hello, BenchNow()).ok());
    v1::AnnounceMessage chunk;
    chunk.mutable_chunk()->set_last(true);
    v1::InternedNamespace* interned = chunk.mutable_chunk()->add_namespaces();
    interned->set_number(1);
    const NamespaceFingerprint space = BenchSpace();
    interned->set_fingerprint(space.bytes().data(), space.bytes().size());
    STEM_CHECK(stream_.OnMessage(chunk, BenchNow()).ok());
  }

  void Begin() { batch_.Clear(), batch_.mutable_batch()->set_sequence(sequence_ + 1); }
  void Run(uint64_t chain, uint32_t first, uint32_t count, bool remove = false) {
    v1::ChangeRun* run = batch_.mutable_batch()->add_runs();
    run->set_namespace_(1);
    run->set_remove(remove);
    if (remove) run->set_reason(v1::REMOVE_REASON_EVICTED);
    if (!remove) run->set_tier(v1::TIER_DRAM);
    if (first > 0) run->set_parent(PackKeys(KeysAt(chain, first - 1, 1)));
    run->set_keys(PackKeys(KeysAt(chain, first, count)));
    sequence_ += count;
  }
  std::string End() const { return batch_.SerializeAsString(); }

  // What a directory does with it: decode, validate, apply.
  void Receive(const std::string& bytes) {
    STEM_CHECK(received_.ParseFromString(bytes));
    const auto outcome = stream_.OnMessage(received_, BenchNow());
    STEM_CHECK(outcome.ok() && !outcome->resync);
  }

 private:
  HolderStream stream_;
  uint64_t sequence_ = 0;
  v1::AnnounceMessage batch_, received_;
};

// Adds all of the shape, one batch of some 4,096 keys at a time; `run_blocks` keys in a run. Keys are made and encoded
// before the clock starts.
double ThroughStream(const Shape& shape, uint32_t run_blocks, uint64_t changes_max) {
  FilledIndex filled({.blocks = 1});
  std::vector<std::unique_ptr<Announcer>> nodes;
  for (uint32_t node = 0; node < shape.nodes(); ++node) {
    nodes.push_back(std::make_unique<Announcer>(filled.membership, filled.index, node));
    nodes.back()->Begin();
  }
  std::vector<uint32_t> waiting(nodes.size());
  double seconds = 0;
  uint64_t changes = 0;
  const auto send = [&](uint32_t node) {
    const std::string bytes = nodes[node]->End();
    const Clock::time_point begin = Clock::now();
    nodes[node]->Receive(bytes);
    seconds += SecondsSince(begin);
    changes += waiting[node];
    waiting[node] = 0;
    nodes[node]->Begin();
  };
  for (uint64_t chain = 0; chain < shape.chains() && changes < changes_max; ++chain) {
    for (uint32_t node = 0; node < shape.nodes(); ++node) {
      const uint32_t held = shape.held(chain, node);
      for (uint32_t first = 0; first < held; first += run_blocks) {
        const uint32_t count = std::min(run_blocks, held - first);
        nodes[node]->Run(chain, first, count);
        waiting[node] += count;
        if (waiting[node] >= kBatchKeys) send(node);
      }
    }
  }
  for (uint32_t node = 0; node < shape.nodes(); ++node) {
    if (waiting[node] > 0) send(node);
  }
  const Clock::time_point begin = Clock::now();
  while (filled.index.Step()) {
  }
  return static_cast<double>(changes) / (seconds + SecondsSince(begin));
}

}  // namespace

Json Changes(const Shape& shape) {
  Json row;
  {
    FilledIndex filled(shape);
    double seconds = 0;
    const uint64_t changes = filled.Fill(&seconds);
    row["changes"] = changes;
    row["adds/s"] = static_cast<double>(changes) / seconds;
    row["churn/s"] = Churn(filled).Ceiling(1);
  }
  row["stream_adds/s"] = ThroughStream(shape, shape.chain_blocks, UINT64_MAX);
  row["stream_1_block_runs/s"] = ThroughStream(shape, 1, 2'000'000);
  return row;
}

namespace {

// Matches random stems, 64 blocks deep, until it ends; the longest match of each of its spells.
class Matcher {
 public:
  explicit Matcher(const FilledIndex& filled) : filled_(filled), thread_([this] { Loop(); }) {}
  ~Matcher() {
    stop_ = true;
    thread_.join();
  }
  // Ends the spell; a new one begins.
  Longest NextSpell() {
    const uint64_t spell = ++wanted_;
    while (spell_ != spell) std::this_thread::sleep_for(std::chrono::microseconds(100));
    return last_;
  }

 private:
  void Loop() {
    MatchCall call = filled_.CallOf(0, 64);
    const std::shared_ptr<const MemberView> view = filled_.membership.View(BenchNow());
    Longest longest;
    for (uint64_t i = 0; !stop_; ++i) {
      filled_.MakeCall(Mix(i) % filled_.shape.chains(), 64, call);
      const uint64_t begin = TicksNow();
      const ChainMatch match = MatchChain(filled_.index, *view, call);
      longest.Add(static_cast<double>(TicksNow() - begin) * scale_.ns_per_tick);
      STEM_CHECK(match.matched_blocks <= call.keys.size());
      if (wanted_ == spell_) continue;
      last_ = longest;
      longest.Clear();
      ++spell_;
    }
  }

  const FilledIndex& filled_;
  const TickScale scale_ = TickScale::Measure();
  Longest last_;
  std::atomic<uint64_t> wanted_{0}, spell_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace

Json Forget(const Shape& shape) {
  FilledIndex filled(shape);
  filled.Fill();
  Matcher matcher(filled);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  matcher.NextSpell();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const Longest alone = matcher.NextSpell();
  const Clock::time_point begin = Clock::now();
  filled.index.CloseSlot(filled.slots[0], SlotEnd::kLost);
  const double invisible_ns = SecondsSince(begin) * 1e9;
  uint64_t steps = 0;
  Longest step;
  for (bool more = true; more; ++steps) {
    const Clock::time_point from = Clock::now();
    more = filled.index.Step();
    step.Add(SecondsSince(from) * 1e9);
  }
  const double reclaimed = SecondsSince(begin);
  const Longest beside = matcher.NextSpell();
  uint64_t held = 0;
  for (uint64_t chain = 0; chain < shape.chains(); ++chain) held += shape.held(chain, 0);
  return {{"node_blocks", held},
          {"invisible_ns", invisible_ns},
          {"reclaimed_ms", reclaimed * 1e3},
          {"steps", steps},
          {"step_us_max", step.ns() / 1e3},
          {"match_us_max_beside", beside.ns() / 1e3},
          {"match_us_max_alone", alone.ns() / 1e3},
          {"interrupted", step.interrupted() + beside.interrupted()}};
}

Json Visible(const Shape& shape, uint32_t repeats) {
  FilledIndex filled(shape);
  filled.Fill();
  Announcer node(filled.membership, filled.index, 20'000);
  const std::shared_ptr<const MemberView> view = filled.membership.View(BenchNow());
  std::atomic<uint64_t> wanted{0}, seen{0};
  std::atomic<int64_t> seen_at{0};
  constexpr uint64_t kFresh = 1ULL << 41;  // chains nobody has
  std::thread reader([&] {
    for (uint64_t turn = 1; turn <= repeats; ++turn) {
      const MatchCall call = filled.CallOf(0, 1);
      MatchCall mine = call;
      mine.keys = KeysAt(kFresh + turn, 0, 64);
      wanted = turn;
      while (MatchChain(filled.index, *view, mine).matched_blocks < 64) {
      }
      seen_at = Clock::now().time_since_epoch().count();
      seen = turn;
    }
  });
  Samples delays;
  for (uint64_t turn = 1; turn <= repeats; ++turn) {
    node.Begin();
    node.Run(kFresh + turn, 0, 64);
    const std::string bytes = node.End();
    while (wanted != turn) {
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));  // it is looking now
    const int64_t begin = Clock::now().time_since_epoch().count();
    node.Receive(bytes);
    while (seen != turn) {
    }
    delays.Add(static_cast<double>(seen_at - begin));
  }
  reader.join();
  return {{"announced_blocks", 64}, {"p50_us", delays.At(0.5) / 1e3}, {"p99_us", delays.At(0.99) / 1e3}};
}

}  // namespace stem::bench
