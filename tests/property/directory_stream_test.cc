// Whatever streams lose, repeat and reorder, and whoever restarts: once they are quiet, the index is the union of what
// the live nodes hold. Replay one seed with --gtest_random_seed=SEED.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <memory>
#include <random>

#include "services/directory/chain_match.h"
#include "services/directory/holder_stream.h"
#include "tests/support/announce.h"
#include "tests/support/index_lookup.h"

namespace stem {
namespace {

using namespace ::stem::testing;  // NOLINT: message builders

constexpr uint64_t kKeys = 40;
constexpr int kSteps = 1500;
constexpr int kSeeds = 150;
constexpr absl::Duration kStaleMax = absl::Seconds(2);

using Random = std::mt19937_64;

bool OneIn(Random& random, uint64_t n) { return random() % n == 0; }

// The model of a node: what it holds, and the messages that are on their way.
struct ModelNode {
  std::string name;
  bool alive = true;
  uint64_t incarnation = 1;
  uint64_t sequence = 0;
  std::map<uint64_t, v1::Tier> held;
  std::vector<Change> unsent;
  std::deque<v1::AnnounceMessage> wire;
  std::unique_ptr<HolderStream> stream;

  void Flush(const NamespaceFingerprint& space) {
    if (unsent.empty()) return;
    wire.push_back(BatchOf(sequence + 1 - unsent.size(), space, unsent));
    unsent.clear();
  }
  void SendSnapshot(Random& random, const NamespaceFingerprint& space) {
    if (OneIn(random, 2)) unsent.clear();  // the snapshot has them; to send them again must do no harm
    std::vector<Change> adds;
    for (const auto& [key, tier] : held) adds.push_back(Adds({KeyOf(key)}, tier));
    const size_t chunk_adds = 1 + random() % 10;
    const size_t chunks = std::max<size_t>(1, (adds.size() + chunk_adds - 1) / chunk_adds);
    for (size_t i = 0; i < chunks; ++i) {
      const size_t end = std::min(adds.size(), (i + 1) * chunk_adds);
      const std::vector<Change> part(adds.begin() + static_cast<ptrdiff_t>(i * chunk_adds), adds.begin() + static_cast<ptrdiff_t>(end));
      wire.push_back(ChunkOf(sequence, static_cast<uint32_t>(i), i + 1 == chunks, space, part));
    }
  }
  void ChangeOne(Random& random) {
    const uint64_t key = random() % kKeys;
    const auto tier = static_cast<v1::Tier>(v1::TIER_GPU + random() % 3);
    ++sequence;
    if (held.contains(key) && OneIn(random, 2)) {
      held.erase(key);
      unsent.push_back(Removes({KeyOf(key)}));
    } else {
      held[key] = tier;
      unsent.push_back(Adds({KeyOf(key)}, tier));
    }
  }
  // What survives a restart is what was on SSD; nothing of it is numbered yet.
  void Restart(Random& random) {
    std::erase_if(held, [](const auto& each) { return each.second != v1::TIER_SSD; });
    incarnation = random() | 1;
    sequence = 0;
    unsent.clear();
    alive = true;
  }
};

class World {
 public:
  explicit World(uint64_t seed) : random_(seed) {
    for (size_t i = 0; i < 3; ++i) nodes_[i].name = std::string(1, static_cast<char>('a' + i));
    RestartDirectory();
  }

  void Disturb() {
    for (int step = 0; step < kSteps; ++step) {
      ModelNode& node = nodes_[random_() % nodes_.size()];
      switch (random_() % 16) {
        case 0: case 1: case 2: node.alive ? node.ChangeOne(random_) : void(); break;
        case 3: node.alive ? node.Flush(space_) : void(); break;
        case 4: Beat(node); break;
        case 5: now_ += absl::Milliseconds(random_() % 60); break;
        case 6: directory_->membership.Tick(now_); break;
        case 7: directory_->index.Step(); break;
        case 8: Rare(node); break;
        default: Deliver(node, /*faults=*/true); break;
      }
    }
  }

  // No more faults: heartbeats until every snapshot that was lost has been asked for again, everything delivered.
  void Quieten() {
    for (uint32_t round = 0; round < HolderStream::kRetryBeats * 17; ++round) {
      now_ += absl::Milliseconds(50);
      for (ModelNode& node : nodes_) {
        Beat(node);
        while (!node.wire.empty()) Deliver(node, /*faults=*/false);
      }
      directory_->membership.Tick(now_);
    }
    while (directory_->index.Step()) {
    }
  }

  void ExpectUnion() {
    const auto view = directory_->membership.View(now_);
    EXPECT_EQ(directory_->membership.Truth(now_).exact(), std::any_of(nodes_.begin(), nodes_.end(), [](const auto& node) { return node.alive; }));
    size_t distinct = 0;
    for (uint64_t key = 0; key < kKeys; ++key) {
      std::map<std::string, int> expected;
      for (const ModelNode& node : nodes_) {
        if (node.alive && node.held.contains(key)) expected[node.name] = node.held.at(key);
      }
      distinct += expected.empty() ? 0 : 1;
      const FoundBlock found = FindBlock(directory_->index, IndexedAs({.space = space_, .key = KeyOf(key)}));
      std::map<std::string, int> actual;
      for (const FoundHolder holder : found.holders) {
        ASSERT_LT(holder.slot, view->slots.size());
        ASSERT_EQ(view->slots[holder.slot].use, MemberView::Use::kCounts);
        actual[view->nodes[view->slots[holder.slot].node].address->node()] = holder.tier;
      }
      EXPECT_EQ(actual, expected) << "key " << key;
    }
    EXPECT_EQ(directory_->index.counts().blocks, distinct);
    for (const auto& status : directory_->membership.Status(now_)) {
      const ModelNode& node = nodes_[static_cast<size_t>(status.message.address().node()[0] - 'a')];
      EXPECT_EQ(status.message.state(), node.alive ? "live" : "lost") << node.name;
      EXPECT_EQ(status.message.blocks_dram() + status.message.blocks_ssd(), node.alive ? node.held.size() : 0);
    }
  }

 private:
  struct DirectoryCore {
    explicit DirectoryCore(absl::Time now)
        : index({.bytes_max = 64 << 20, .ghosts_max = 1 << 16}), membership(index, {.heartbeat = absl::Milliseconds(100), .stale_max = kStaleMax, .started = now}) {}
    PrefixIndex index;
    Membership membership;
  };

  void RestartDirectory() {
    for (ModelNode& node : nodes_) node.stream.reset();
    directory_ = std::make_unique<DirectoryCore>(now_);
    for (ModelNode& node : nodes_) node.alive ? Connect(node) : void();
  }

  // A second stream before the first is known to be closed is what a reconnect looks like.
  void Connect(ModelNode& node) {
    if (OneIn(random_, 2)) Close(node);
    node.stream = std::make_unique<HolderStream>(directory_->membership, directory_->index);
    node.wire.clear();
    node.wire.push_back(HelloOf(node.name, node.incarnation));
    node.SendSnapshot(random_, space_);
  }

  static void Close(ModelNode& node) {
    if (node.stream != nullptr) node.stream->OnClosed();
  }

  void Beat(ModelNode& node) {
    if (!node.alive) return;
    node.Flush(space_);
    node.wire.push_back(BeatOf(node.sequence));
  }

  void Rare(ModelNode& node) {
    switch (random_() % 12) {
      case 0: node.Restart(random_); Connect(node); break;
      case 1: node.alive ? Connect(node) : void(); break;
      case 2: node.alive = false; node.wire.clear(); Close(node); break;
      case 3: RestartDirectory(); break;
      case 4: now_ += absl::Milliseconds(random_() % 3000); break;
      default: break;
    }
  }

  void Deliver(ModelNode& node, bool faults) {
    if (node.wire.empty()) return;
    const size_t at = faults && OneIn(random_, 10) ? random_() % std::min<size_t>(3, node.wire.size()) : 0;
    const v1::AnnounceMessage message = node.wire[at];
    if (!faults || !OneIn(random_, 20)) node.wire.erase(node.wire.begin() + static_cast<ptrdiff_t>(at));  // else it comes again
    if (faults && OneIn(random_, 20)) return;  // lost
    const auto outcome = node.stream->OnMessage(message, now_);
    if (!outcome.ok()) return Connect(node);
    if (outcome->resync && !(faults && OneIn(random_, 10))) node.SendSnapshot(random_, space_);
  }

  Random random_;
  const NamespaceFingerprint space_ = SpaceOf(1);
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  std::array<ModelNode, 3> nodes_;
  std::unique_ptr<DirectoryCore> directory_;
};

TEST(DirectoryStreamProperty, QuietStreamsMakeTheUnion) {
  const int only = GTEST_FLAG_GET(random_seed);
  for (int seed = only != 0 ? only : 1; seed <= (only != 0 ? only : kSeeds); ++seed) {
    SCOPED_TRACE(::testing::Message() << "replay with --gtest_random_seed=" << seed);
    World world(static_cast<uint64_t>(seed));
    for (int phase = 0; phase < 3; ++phase) {
      world.Disturb();
      world.Quieten();
      world.ExpectUnion();
    }
    if (::testing::Test::HasFailure()) break;
  }
}

}  // namespace
}  // namespace stem
