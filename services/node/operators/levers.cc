#include "services/node/operators/levers.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace stem {
namespace {

constexpr absl::Duration kBringWaitMax = absl::Seconds(10);  // for slots and for what others bring, of one call

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

// What left with a single block.
void Append(const BlockPool::Withdrawn& one, BlockPool::Withdrawn* all) {
  all->gone.insert(all->gone.end(), one.gone.begin(), one.gone.end());
  all->records.insert(all->records.end(), one.records.begin(), one.records.end());
  all->in_use += one.in_use;
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
    for (const Part& part : space->spec.parts) {
      if (space->pool().Find({space->fingerprint, PartKey(*last, part.id)}) != BlockPool::Presence::kAbsent) return space;
    }
  }
  return absl::NotFoundError(absl::StrCat("key ", last->ToHex(), " is not held on this node"));
}

Levers::HeldRun Levers::RunOf(const Space& space, const std::vector<BlockKey>& keys) {
  std::vector<BlockName> names;
  for (const BlockKey& key : keys) {
    for (const Part& part : space.spec.parts) names.push_back({space.fingerprint, PartKey(key, part.id)});
  }
  std::vector<BlockPool::Presence> found;
  space.pool().FindAll(names, found);
  HeldRun run;
  for (size_t block = 0; block < keys.size(); ++block) {
    const size_t begin = run.names.size();
    for (size_t i = 0; i < space.spec.parts.size(); ++i) {
      const size_t at = block * space.spec.parts.size() + i;
      if (found[at] != BlockPool::Presence::kAbsent) {
        run.names.push_back(names[at]);
      } else if (space.spec.parts[i].group == GroupKind::kFull) {  // of a window or a state only some blocks are held, which are enough
        run.names.resize(begin);
        return run;
      }
    }
    if (run.names.size() > begin) run.ends.push_back(run.names.size());
  }
  return run;
}

absl::StatusOr<uint32_t> Levers::KeepRun(const Space& space, const KeepCall& call) {
  const std::vector<BlockKey> keys = call.keys.size() > 1 ? call.keys : ChainKeys(space, call.keys.front());
  const BlockName last{space.fingerprint, call.keys.back()};
  const HeldRun run = RunOf(space, keys);
  if (run.ends.empty()) return absl::NotFoundError(absl::StrCat("no leading block of the chain to ", last.key.ToHex(), " is held on this node"));
  // Before anything is read: a promotion takes others' slots.
  STEM_TRY(space.pool().MayKeep(run.names));
  std::vector<BlockPin> pins;  // till they are kept, so that what is brought later evicts nothing of them
  const absl::Status brought = parts_.promoter.BringRun(space.pool(), run.names, absl::Now() + kBringWaitMax, nullptr,
                                                        [&](BlockPin pin, bool /*waited*/) { pins.push_back(std::move(pin)); });
  const auto blocks = static_cast<uint32_t>(std::upper_bound(run.ends.begin(), run.ends.end(), pins.size()) - run.ends.begin());
  if (blocks == 0) return brought;
  const auto names = std::span(run.names).first(run.ends[blocks - 1]);
  STEM_TRY(parts_.kept.Keep(space.pool(), last, names, blocks, absl::Now() + call.duration));
  return blocks;
}

absl::StatusOr<v1::KeepReply> Levers::Keep(const KeepCall& call) {
  STEM_ASSIGN(const Space* const space, SpaceOf(call.space, call.keys.back()));
  const BlockName last{space->fingerprint, call.keys.back()};
  BlockPool& pool = space->pool();
  uint32_t blocks = 0;
  if (call.duration == absl::ZeroDuration()) {
    blocks = parts_.kept.LetGo(last);
  } else {
    STEM_ASSIGN(blocks, KeepRun(*space, call));
  }
  const BlockPool::Stats stats = pool.stats();
  v1::KeepReply reply;
  reply.set_blocks(blocks);
  reply.set_bytes_kept(stats.slots_kept * pool.geometry().slot_bytes);
  reply.set_bytes_kept_max(stats.slots_max / 2 * pool.geometry().slot_bytes);
  parts_.log.Info("stem_kept", {{"key", last.key.ToHex()}, {"blocks", blocks}, {"seconds", absl::ToInt64Seconds(call.duration)}});
  return reply;
}

absl::Status Levers::Take(const BlockPool::Withdrawn& evicted, v1::EvictReply* reply) {
  reply->set_blocks(reply->blocks() + evicted.gone.size());
  reply->set_blocks_in_use(reply->blocks_in_use() + evicted.in_use);
  parts_.kept.Forget(evicted.gone);
  return parts_.promoter.RemoveSpilled(evicted.records);
}

absl::Status Levers::EvictStem(const Space& space, const BlockKey& last, v1::EvictReply* reply) {
  BlockPool& pool = space.pool();
  for (const Part& part : space.spec.parts) {  // each hangs together by itself, and any may be held without the others
    for (bool more = true; more;) {
      BlockPool::Withdrawn evicted = pool.Evict({space.fingerprint, PartKey(last, part.id)});
      more = evicted.more;
      const std::vector<BlockName> led = evicted.gone;
      for (const Part& other : space.spec.parts) {  // windows and states have no parents: they go with the blocks that they are of
        if (other.id == part.id || other.group == GroupKind::kFull) continue;
        for (const BlockName& name : led) {
          const BlockKey key = PartKey(name.key, part.id);  // of the block
          Append(pool.Evict({space.fingerprint, PartKey(key, other.id)}), &evicted);
        }
      }
      STEM_TRY(Take(evicted, reply));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::EvictReply> Levers::Evict(const EvictCall& call) {
  STEM_ASSIGN(const Space* const space, SpaceOf(call.space, call.last));
  v1::EvictReply reply;
  if (call.last.has_value()) {
    STEM_TRY(EvictStem(*space, *call.last, &reply));
  } else {
    BlockId next = 0;
    for (bool more = true; more;) {
      const BlockPool::Withdrawn evicted = space->pool().EvictSpace(space->fingerprint, &next);
      more = evicted.more;
      STEM_TRY(Take(evicted, &reply));
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
