// Random publishes, fetches, spills, promotions, quarantines, pins and operators' levers against the laws: chains are closed on the node,
// announced changes add up to what is held, pinned bytes never change, nothing leaks.
#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "storage/pool/block_pool.h"

namespace stem {
namespace {

constexpr uint64_t kBlockBytes = 64;
constexpr size_t kSlots = 24;
constexpr uint64_t kNames = 64;  // block n's parent is n / 2; 1 starts the only chain tree

BlockName Name(uint64_t number) { return {{{.low = 9, .high = 9}}, {{.low = number, .high = number * 31}}}; }

std::optional<BlockKey> Parent(uint64_t number) {
  if (number == 1) return std::nullopt;
  return Name(number / 2).key;
}

class World {
 public:
  World(uint64_t seed, uint64_t ssd_bytes) : random_(seed) {
    const SlotGeometry geometry = SlotGeometry::For(kBlockBytes);
    memory_.resize(kSlots * geometry.slot_bytes);
    slot_map_.resize(SlotMapLayout(kSlots).bytes());
    pool_ = std::make_unique<BlockPool>(
        std::span(memory_), geometry,
        BlockPool::Options{.ssd_bytes_max = ssd_bytes, .spill_ahead_slots = 3, .on_change = [this](const BlockChange& change) {
                             if (change.residence == Residence::kGone) {
                               announced_.erase(change.name.key.low);
                             } else {
                               announced_[change.name.key.low] = change.residence;
                             }
                           },
                           .slot_map = slot_map_});
  }

  void Step() {
    const uint64_t number = 1 + random_() % (kNames - 1);
    switch (random_() % 12) {
      case 0:
      case 1:
      case 2: Fill(number); break;
      case 3: Pin(number); break;
      case 4:
        if (!pins_.empty()) pins_.erase(pins_.begin() + static_cast<ptrdiff_t>(random_() % pins_.size()));
        break;
      case 5: Spill(); break;
      case 6: pool_->Touch(std::vector<BlockName>{Name(number / 2 + 1), Name(number)}); break;
      case 7:
        if (random_() % 8 == 0) ForgetLater(pool_->Quarantine(Name(number), GenerationOf(number)));
        break;
      case 8: Keep(number); break;
      case 9:
        if (random_() % 8 == 0) ForgetLater(pool_->Evict(Name(number)));
        break;
      case 10: {
        const uint64_t slots = 4 + random_() % (kSlots - 3);
        const bool room = slots >= 2 * pool_->stats().slots_kept;
        ASSERT_EQ(pool_->SetQuota(slots * pool_->geometry().slot_bytes, 0).ok(), room);
        ASSERT_FALSE(pool_->EvictOverQuota());
        break;
      }
      case 11:  // a lever's removals reach the store in their own time
        if (!removals_.empty() && random_() % 8 == 0) {
          Forget(removals_.front());
          removals_.erase(removals_.begin());
        }
        break;
    }
  }

  void Check() {
    std::map<uint64_t, Residence> held;
    pool_->Snapshot([&](const BlockChange& change) { held[change.name.key.low] = change.residence; });
    ASSERT_EQ(held, announced_) << "the changes are the state";
    for (const auto& [number, residence] : held) {
      if (number == 1) continue;
      ASSERT_TRUE(held.contains(number / 2)) << "block " << number << " is held without its parent";
    }
    const absl::StatusOr<SlotMap> shown = SlotMap::Over(slot_map_, kSlots);
    ASSERT_TRUE(shown.ok()) << shown.status();
    for (uint64_t number = 1; number < kNames; ++number) {
      const auto found = shown->Find(Name(number), [&](const SlotMap::Place& place) { return HeaderOf(place.slot).name == Name(number); });
      const auto it = held.find(number);
      ASSERT_EQ(found.has_value(), it != held.end() && it->second == Residence::kDram) << "clients are shown what is Ready, " << number;
      ASSERT_TRUE(!found.has_value() || found->generation == HeaderOf(found->slot).generation);
    }
    for (const auto& [number, residence] : held) ASSERT_TRUE(residence != Residence::kSsd || disk_.contains(number)) << number << " lost its record";
    for (const auto& [number, generation] : disk_) {
      ASSERT_TRUE(held.contains(number) || Leaving({Name(number), generation})) << "a record of " << number << " that nobody removes";
    }
    const BlockPool::Stats stats = pool_->stats();
    for (const std::vector<BlockPin>& kept : kept_) {
      for (const BlockPin& pin : kept) {
        // Only Evict and Quarantine take a kept block away, and then for good.
        const auto it = held.find(pin.meta().name.key.low);
        if (it != held.end() && pool_->Pin(pin.meta().name).meta().generation == pin.meta().generation) {
          ASSERT_EQ(it->second, Residence::kDram);
        }
      }
    }
    ASSERT_LE(stats.slots_kept, stats.slots_max / 2);
    for (const BlockPin& pin : pins_) {
      ASSERT_EQ(pin.view().header().name, pin.meta().name);
      ASSERT_EQ(pin.view().header().generation, pin.meta().generation);
      for (std::byte byte : pin.view().payload(kBlockBytes)) ASSERT_EQ(byte, static_cast<std::byte>(pin.meta().name.key.low));
    }
  }

  void End() {
    pins_.clear();
    awaits_.clear();
    for (std::vector<BlockPin>& kept : kept_) pool_->LetGo(std::move(kept));
    ASSERT_EQ(pool_->stats().slots_kept, 0u);
    const BlockPool::Stats stats = pool_->stats();
    ASSERT_EQ(stats.pins, 0u);
    ASSERT_EQ(stats.filling, 0u);
    ASSERT_EQ(stats.slots_pinned, 0u);
    ASSERT_EQ(stats.slots_free + stats.blocks_dram, kSlots) << "a slot leaked";
    for (uint64_t number = kNames; number > 0; --number) pool_->Evict(Name(number));
    ASSERT_EQ(pool_->stats().slots_free, kSlots);
    ASSERT_EQ(pool_->stats().ssd_bytes, 0u);
  }

 private:
  SlotHeader HeaderOf(uint32_t slot) {
    const SlotGeometry& geometry = pool_->geometry();
    return SlotView<std::byte>(std::span(memory_).subspan(slot * geometry.slot_bytes, geometry.slot_bytes), geometry).header();
  }
  void Fill(uint64_t number) {
    absl::StatusOr<Filling> filling = pool_->BeginFill(Name(number), Parent(number), absl::Now());
    if (!filling.ok()) return;
    const std::span<std::byte> payload = filling->view().payload(kBlockBytes);
    if (filling->promoted().has_value()) {
      ASSERT_TRUE(disk_.contains(number)) << "promoted from a record that was never stored";
      ASSERT_EQ(filling->promoted()->generation, disk_[number]);
    }
    std::fill(payload.begin(), payload.end(), static_cast<std::byte>(number));
    BlockAwait awaited;
    BlockPin pinned;
    if (random_() % 4 == 0) {
      ASSERT_EQ(pool_->PinOrAwait(Name(number), &pinned, &awaited), BlockPool::Presence::kFilling);
    }
    if (random_() % 4 == 0) {
      ASSERT_EQ(filling->GiveUp(), !awaited.valid());
    }
    if (random_() % 5 == 0) return;  // given up
    const bool named = pool_->Find(Name(number)) == BlockPool::Presence::kFilling;
    if (awaited.valid() && awaits_.size() < 3) awaits_.push_back(std::move(awaited));
    if (awaits_.size() == 3) awaits_.erase(awaits_.begin());
    const absl::StatusOr<BlockPin> pin = std::move(*filling).Commit(kBlockBytes, 1, 2);
    ASSERT_EQ(pin.ok(), named) << pin.status();
  }
  void Pin(uint64_t number) {
    BlockPin pin = pool_->Pin(Name(number));
    if (pin.valid() && pins_.size() < kSlots / 2) pins_.push_back(std::move(pin));
  }
  // The chain to a block, or lets the oldest go.
  void Keep(uint64_t number) {
    if (kept_.size() >= 3) {
      pool_->LetGo(std::move(kept_.front()));
      kept_.erase(kept_.begin());
      return;
    }
    const std::vector<BlockName> chain = pool_->ChainTo(Name(number));
    for (size_t i = 1; i < chain.size(); ++i) ASSERT_EQ(chain[i - 1].key.low, chain[i].key.low / 2);
    absl::StatusOr<std::vector<BlockPin>> kept = pool_->Keep(chain);
    if (kept.ok()) kept_.push_back(*std::move(kept));
  }
  void Spill() {
    std::vector<BlockPin> batch = pool_->TakeSpillBatch(4 * kBlockBytes);
    if (batch.empty()) return;
    Forget(pool_->MakeSsdRoom(batch.size() * SpillRecordBytes(kBlockBytes)));
    const bool stored = random_() % 6 != 0;
    // Before the store has the record: it is to be removed from there later.
    if (random_() % 10 == 0) ForgetLater(pool_->Evict(batch.front().meta().name));
    for (const BlockPin& pin : batch) {
      if (stored) disk_[pin.meta().name.key.low] = pin.meta().generation;
    }
    Forget(pool_->FinishSpill(std::move(batch), stored));
  }
  uint64_t GenerationOf(uint64_t number) {
    const BlockPin pin = pool_->Pin(Name(number));
    if (pin.valid()) return pin.meta().generation;
    return disk_.contains(number) ? disk_[number] : 0;
  }
  bool Leaving(const SpillRecordId& record) const {
    return std::any_of(removals_.begin(), removals_.end(), [&](const std::vector<SpillRecordId>& records) {
      return std::find(records.begin(), records.end(), record) != records.end();
    });
  }
  void ForgetLater(const BlockPool::Withdrawn& withdrawn) {
    if (!withdrawn.records.empty()) removals_.push_back(withdrawn.records);
  }
  void Forget(const std::vector<SpillRecordId>& records) {
    for (const SpillRecordId& record : records) {
      const auto it = disk_.find(record.name.key.low);
      if (it != disk_.end() && it->second == record.generation) disk_.erase(it);
    }
  }

  std::mt19937_64 random_;
  std::vector<std::byte> memory_;
  std::vector<std::byte> slot_map_;
  std::map<uint64_t, Residence> announced_;
  std::map<uint64_t, uint64_t> disk_;  // number -> generation in the record
  std::vector<std::vector<SpillRecordId>> removals_;  // that levers have begun and the store has not seen
  std::unique_ptr<BlockPool> pool_;
  std::vector<BlockPin> pins_;
  std::vector<BlockAwait> awaits_;
  std::vector<std::vector<BlockPin>> kept_;
};

TEST(BlockPoolPropertyTest, LawsHoldForAnyOrderOfEvents) {
  const uint64_t first_seed = std::random_device()();
  for (uint64_t seed = first_seed; seed < first_seed + 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    World world(seed, seed % 3 == 0 ? 0 : (seed % 3 == 1 ? 1ULL << 20 : 20 * SpillRecordBytes(kBlockBytes)));
    for (int step = 0; step < 1500; ++step) {
      world.Step();
      world.Check();
      if (::testing::Test::HasFatalFailure()) return;
    }
    world.End();
    if (::testing::Test::HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace stem
