#include "services/node/levers.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace stem {
namespace {

constexpr size_t kPromotesPerSweep = 16;
constexpr absl::Duration kSlotWaitMax = absl::Milliseconds(500);

// The part by which a chain hangs together: blocks of window and state parts have no parents.
uint32_t LeadPart(const Space& space) {
  for (const Part& part : space.spec.parts) {
    if (part.group == GroupKind::kFull) return part.id;
  }
  return space.spec.parts.front().id;
}

// Keys of the chain that ends with `last`, as this node knows it.
std::vector<BlockKey> ChainKeys(const Space& space, BlockKey last) {
  const uint32_t part = LeadPart(space);
  std::vector<BlockKey> keys;
  for (const BlockName& name : space.pool().ChainTo({space.fingerprint, PartKey(last, part)})) keys.push_back(PartKey(name.key, part));
  return keys;
}

void Add(BlockPool::Withdrawn more, BlockPool::Withdrawn* all) {
  all->gone.insert(all->gone.end(), more.gone.begin(), more.gone.end());
  all->records.insert(all->records.end(), more.records.begin(), more.records.end());
  all->in_use += more.in_use;
}

}  // namespace

v1::DrainReply Levers::SetDrain(bool on) {
  parts_.drain.Set(on);
  parts_.on_drain(on);
  v1::DrainReply reply;
  reply.set_draining(on);
  reply.set_sessions(parts_.sessions.size());
  reply.set_leases(parts_.leases.size());
  parts_.log.Info(on ? "draining" : "resumed", {{"sessions", reply.sessions()}, {"leases", reply.leases()}});
  return reply;
}

absl::StatusOr<const Space*> Levers::SpaceOf(const std::optional<NamespaceFingerprint>& fingerprint,
                                             const std::optional<BlockKey>& last) const {
  if (fingerprint.has_value()) {
    const Space* const space = parts_.spaces.Find(*fingerprint);
    if (space != nullptr) return space;
    return absl::NotFoundError(absl::StrCat("namespace ", fingerprint->ToHex(), " is not known on this node"));
  }
  for (const Space* space : parts_.spaces.All()) {
    const BlockName name{space->fingerprint, PartKey(*last, LeadPart(*space))};
    if (space->pool().Find(name) != BlockPool::Presence::kAbsent) return space;
  }
  return absl::NotFoundError(absl::StrCat("key ", last->ToHex(), " is not held on this node"));
}

void Levers::Promote(BlockPool& pool, const std::vector<BlockName>& names) const {
  for (size_t next = 0; next < names.size();) {
    std::vector<Filling> fillings;
    for (; next < names.size() && fillings.size() < kPromotesPerSweep; ++next) {
      if (pool.Find(names[next]) != BlockPool::Presence::kSsd) continue;
      absl::StatusOr<Filling> filling = Promoter::Begin(pool, names[next], absl::Now() + kSlotWaitMax);
      if (!filling.ok()) return;  // the pool is full of what is in use
      fillings.push_back(*std::move(filling));
    }
    (void)parts_.promoter.Promote(pool, std::move(fillings), nullptr);
  }
}

std::vector<BlockName> Levers::BringToDram(const Space& space, const std::vector<BlockKey>& keys, uint32_t* blocks) const {
  BlockPool& pool = space.pool();
  std::vector<BlockName> all;
  for (const BlockKey& key : keys) {
    for (const Part& part : space.spec.parts) all.push_back({space.fingerprint, PartKey(key, part.id)});
  }
  Promote(pool, all);
  std::vector<BlockName> names;
  *blocks = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    if (pool.Find(all[i]) == BlockPool::Presence::kDram) {
      names.push_back(all[i]);
    } else if (space.spec.parts[i % space.spec.parts.size()].group == GroupKind::kFull) {
      break;  // of a window or a state only some blocks are held, which are enough
    }
    if ((i + 1) % space.spec.parts.size() == 0) ++*blocks;
  }
  return names;
}

absl::StatusOr<v1::KeepReply> Levers::Keep(const KeepCall& call) {
  STEM_ASSIGN(const Space* const space, SpaceOf(call.space, call.keys.back()));
  const BlockName last{space->fingerprint, call.keys.back()};
  BlockPool& pool = space->pool();
  uint32_t blocks = 0;
  if (call.duration == absl::ZeroDuration()) {
    blocks = parts_.kept.LetGo(last);
  } else {
    std::vector<BlockKey> keys = call.keys;
    if (keys.size() == 1) keys = ChainKeys(*space, keys.front());
    const std::vector<BlockName> names = BringToDram(*space, keys, &blocks);
    if (blocks == 0) return absl::NotFoundError(absl::StrCat("no leading block of the chain to ", last.key.ToHex(), " is held on this node"));
    STEM_TRY(parts_.kept.Keep(pool, last, names, blocks, absl::Now() + call.duration));
  }
  const BlockPool::Stats stats = pool.stats();
  v1::KeepReply reply;
  reply.set_blocks(blocks);
  reply.set_bytes_kept(stats.slots_kept * pool.geometry().slot_bytes);
  reply.set_bytes_kept_max(stats.slots_max / 2 * pool.geometry().slot_bytes);
  parts_.log.Info("stem_kept", {{"key", last.key.ToHex()}, {"blocks", blocks}, {"seconds", absl::ToInt64Seconds(call.duration)}});
  return reply;
}

absl::StatusOr<v1::EvictReply> Levers::Evict(const EvictCall& call) {
  STEM_ASSIGN(const Space* const space, SpaceOf(call.space, call.last));
  BlockPool& pool = space->pool();
  v1::EvictReply reply;
  const auto take = [&](const BlockPool::Withdrawn& evicted) {
    reply.set_blocks(reply.blocks() + evicted.gone.size());
    reply.set_blocks_in_use(reply.blocks_in_use() + evicted.in_use);
    parts_.kept.Forget(evicted.gone);
    return parts_.promoter.RemoveSpilled(evicted.records);
  };
  if (!call.last.has_value()) {
    for (BlockId next = 0;;) {
      const BlockPool::Withdrawn evicted = pool.EvictSpace(space->fingerprint, &next);
      STEM_TRY(take(evicted));
      if (!evicted.more) break;
    }
  } else {
    const uint32_t lead = LeadPart(*space);
    while (true) {
      BlockPool::Withdrawn evicted = pool.Evict({space->fingerprint, PartKey(*call.last, lead)});
      const std::vector<BlockName> led = evicted.gone;  // their other parts go with them
      for (const BlockName& name : led) {
        for (const Part& part : space->spec.parts) {
          if (part.id != lead) Add(pool.Evict({space->fingerprint, PartKey(PartKey(name.key, lead), part.id)}), &evicted);
        }
      }
      STEM_TRY(take(evicted));
      if (!evicted.more) break;
    }
  }
  parts_.log.Info("evicted", {{"namespace", space->fingerprint.ToHex()},
                              {"key", call.last.has_value() ? call.last->ToHex() : "all"},
                              {"blocks", reply.blocks()},
                              {"in_use", reply.blocks_in_use()}});
  return reply;
}

absl::StatusOr<v1::SetQuotaReply> Levers::SetQuota(const SetQuotaCall& call) {
  STEM_ASSIGN(const SpaceTable::Quota quota, parts_.spaces.SetQuota(call.tenant, {call.dram_bytes, call.ssd_bytes}));
  parts_.log.Info("quota_set", {{"group", call.tenant}, {"dram_bytes", quota.dram_bytes}, {"ssd_bytes", quota.ssd_bytes}});
  v1::SetQuotaReply reply;
  reply.set_dram_bytes(quota.dram_bytes);
  reply.set_ssd_bytes(quota.ssd_bytes);
  return reply;
}

}  // namespace stem
