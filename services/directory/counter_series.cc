#include "services/directory/counter_series.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

namespace stem {

namespace v1 = ::stemcache::v1;

namespace {

using google::protobuf::RepeatedField;
using Scalar = uint64_t (v1::NodeCounters::*)() const;
using SetScalar = void (v1::NodeCounters::*)(uint64_t);

constexpr int kTenantsMax = 64;  // in one point
constexpr size_t kLengthBytes = sizeof(uint32_t);

// The fields that add up.
struct ScalarField {
  Scalar get;
  SetScalar set;
};
constexpr ScalarField kScalars[] = {
    {&v1::NodeCounters::requests, &v1::NodeCounters::set_requests},
    {&v1::NodeCounters::tokens_asked, &v1::NodeCounters::set_tokens_asked},
    {&v1::NodeCounters::prefill_saved_us, &v1::NodeCounters::set_prefill_saved_us},
    {&v1::NodeCounters::deadline_misses, &v1::NodeCounters::set_deadline_misses},
    {&v1::NodeCounters::integrity_failures, &v1::NodeCounters::set_integrity_failures},
    {&v1::NodeCounters::blocks_published, &v1::NodeCounters::set_blocks_published},
    {&v1::NodeCounters::blocks_refused, &v1::NodeCounters::set_blocks_refused},
    {&v1::NodeCounters::blocks_evicted, &v1::NodeCounters::set_blocks_evicted},
    {&v1::NodeCounters::blocks_spilled, &v1::NodeCounters::set_blocks_spilled},
};

uint32_t LengthAt(const std::vector<char>& bytes, size_t at) {
  uint32_t length = 0;
  std::memcpy(&length, bytes.data() + at, kLengthBytes);
  return length;
}

uint64_t Above(uint64_t now, uint64_t before) { return now - std::min(now, before); }

void AddList(const RepeatedField<uint64_t>& more, RepeatedField<uint64_t>* list) {
  if (list->size() < more.size()) list->Resize(more.size(), 0);
  for (int i = 0; i < more.size(); ++i) (*list)[i] += more[i];
}

void ListSince(const RepeatedField<uint64_t>& before, const RepeatedField<uint64_t>& now, RepeatedField<uint64_t>* list) {
  for (int i = 0; i < now.size(); ++i) list->Add(Above(now[i], i < before.size() ? before[i] : 0));
}

void AddTenant(const v1::NodeCounters::Tenant& more, v1::NodeCounters* counters) {
  for (v1::NodeCounters::Tenant& tenant : *counters->mutable_tenants()) {
    if (tenant.tenant() != more.tenant()) continue;
    tenant.set_tokens_asked(tenant.tokens_asked() + more.tokens_asked());
    tenant.set_tokens_hit(tenant.tokens_hit() + more.tokens_hit());
    return;
  }
  if (counters->tenants_size() >= kTenantsMax) return;
  v1::NodeCounters::Tenant* const tenant = counters->add_tenants();
  tenant->set_tenant(more.tenant());
  tenant->set_tokens_asked(more.tokens_asked());
  tenant->set_tokens_hit(more.tokens_hit());
}

void SetLevels(const FleetLevels& levels, v1::HistoryReply::Point* point) {
  const auto count = [](int64_t level) { return static_cast<uint64_t>(std::max<int64_t>(level, 0)); };
  point->set_nodes_live(static_cast<uint32_t>(count(levels.nodes_live)));
  point->set_dram_bytes(count(levels.dram_bytes));
  point->set_dram_bytes_used(count(levels.dram_bytes_used));
  point->set_ssd_bytes(count(levels.ssd_bytes));
  point->set_ssd_bytes_used(count(levels.ssd_bytes_used));
  point->mutable_change()->set_orphan_blocks(count(levels.orphan_blocks));
  for (v1::NodeCounters::Tenant& tenant : *point->mutable_change()->mutable_tenants()) {
    const auto level = levels.tenants.find(tenant.tenant());
    if (level == levels.tenants.end()) continue;
    tenant.set_dram_bytes(count(level->second.dram_bytes));
    tenant.set_dram_bytes_used(count(level->second.dram_bytes_used));
  }
}

// `later` follows `point`.
void Join(const v1::HistoryReply::Point& later, v1::HistoryReply::Point* point) {
  v1::NodeCounters change = std::move(*point->mutable_change());
  AddCounters(later.change(), &change);
  const uint32_t step_ms = point->step_ms() + later.step_ms();
  FleetLevels tenants;
  for (const auto& each : later.change().tenants()) {
    tenants.tenants[each.tenant()] = {static_cast<int64_t>(each.dram_bytes()), static_cast<int64_t>(each.dram_bytes_used())};
  }
  *point = later;
  point->set_step_ms(step_ms);
  change.set_orphan_blocks(later.change().orphan_blocks());
  for (v1::NodeCounters::Tenant& tenant : *change.mutable_tenants()) {
    const auto level = tenants.tenants.find(tenant.tenant());
    if (level == tenants.tenants.end()) continue;
    tenant.set_dram_bytes(static_cast<uint64_t>(level->second.dram_bytes));
    tenant.set_dram_bytes_used(static_cast<uint64_t>(level->second.dram_bytes_used));
  }
  *point->mutable_change() = std::move(change);
}

}  // namespace

void FleetLevels::Add(const FleetLevels& other, int64_t sign) {
  nodes_live += sign * other.nodes_live;
  dram_bytes += sign * other.dram_bytes;
  dram_bytes_used += sign * other.dram_bytes_used;
  ssd_bytes += sign * other.ssd_bytes;
  ssd_bytes_used += sign * other.ssd_bytes_used;
  orphan_blocks += sign * other.orphan_blocks;
  for (const auto& [name, tenant] : other.tenants) {
    Tenant& mine = tenants[name];
    mine.dram_bytes += sign * tenant.dram_bytes;
    mine.dram_bytes_used += sign * tenant.dram_bytes_used;
    if (mine.dram_bytes == 0 && mine.dram_bytes_used == 0) tenants.erase(name);
  }
}

void AddCounters(const v1::NodeCounters& more, v1::NodeCounters* counters) {
  for (const ScalarField& field : kScalars) (counters->*field.set)((counters->*field.get)() + (more.*field.get)());
  AddList(more.tokens_hit(), counters->mutable_tokens_hit());
  AddList(more.tokens_missed(), counters->mutable_tokens_missed());
  AddList(more.bytes(), counters->mutable_bytes());
  for (const auto& tenant : more.tenants()) AddTenant(tenant, counters);
}

v1::NodeCounters CountersSince(const v1::NodeCounters& before, const v1::NodeCounters& now) {
  v1::NodeCounters since;
  for (const ScalarField& field : kScalars) (since.*field.set)(Above((now.*field.get)(), (before.*field.get)()));
  ListSince(before.tokens_hit(), now.tokens_hit(), since.mutable_tokens_hit());
  ListSince(before.tokens_missed(), now.tokens_missed(), since.mutable_tokens_missed());
  ListSince(before.bytes(), now.bytes(), since.mutable_bytes());
  for (const auto& tenant : now.tenants()) {
    uint64_t asked = 0, hit = 0;
    for (const auto& known : before.tenants()) {
      if (known.tenant() != tenant.tenant()) continue;
      asked = known.tokens_asked();
      hit = known.tokens_hit();
    }
    v1::NodeCounters::Tenant* const out = since.add_tenants();
    out->set_tenant(tenant.tenant());
    out->set_tokens_asked(Above(tenant.tokens_asked(), asked));
    out->set_tokens_hit(Above(tenant.tokens_hit(), hit));
  }
  return since;
}

CounterSeries::CounterSeries(std::span<const Resolution> resolutions) : resolutions_(resolutions), rings_(resolutions.size()) {}

void CounterSeries::Advance(const FleetLevels& levels, absl::Time now) {
  const int64_t now_ms = absl::ToUnixMillis(now);
  for (size_t i = 0; i < rings_.size(); ++i) {
    Ring& ring = rings_[i];
    const int64_t step_ms = absl::ToInt64Milliseconds(resolutions_[i].step);
    const int64_t step = now_ms / step_ms;
    if (ring.step == step) continue;
    if (ring.heard) {
      Push(MakePoint(ring.change, levels, (ring.step + 1) * step_ms, step_ms), resolutions_[i].points_max, &ring);
      ring.change.Clear();
    }
    ring.heard = false;
    ring.step = step;
  }
}

void CounterSeries::Add(const v1::NodeCounters& change) {
  for (Ring& ring : rings_) {
    ring.heard = true;
    AddCounters(change, &ring.change);
  }
}

void CounterSeries::Push(const v1::HistoryReply::Point& point, size_t points_max, Ring* ring) {
  std::vector<char>& bytes = ring->bytes;
  if (ring->points == points_max) {
    ring->first += kLengthBytes + LengthAt(bytes, ring->first);
    --ring->points;
  }
  const auto length = static_cast<uint32_t>(point.ByteSizeLong());
  const size_t more = kLengthBytes + length;
  if (bytes.size() + more > bytes.capacity()) {  // moved seldom, and with little to spare
    bytes.erase(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(std::exchange(ring->first, 0)));
    if (bytes.size() + more > bytes.capacity() * 7 / 8) bytes.reserve(bytes.size() * 5 / 4 + more);
  }
  const size_t at = bytes.size();
  bytes.resize(at + more);
  std::memcpy(bytes.data() + at, &length, kLengthBytes);
  point.SerializeWithCachedSizesToArray(reinterpret_cast<uint8_t*>(bytes.data() + at + kLengthBytes));
  ++ring->points;
}

v1::HistoryReply::Point CounterSeries::MakePoint(const v1::NodeCounters& change, const FleetLevels& levels, int64_t end_ms,
                                                 int64_t step_ms) {
  v1::HistoryReply::Point point;
  point.set_unix_ms(end_ms);
  point.set_step_ms(static_cast<uint32_t>(step_ms));
  *point.mutable_change() = change;
  SetLevels(levels, &point);
  return point;
}

void CounterSeries::Read(absl::Duration back, size_t points_max, const FleetLevels& levels, absl::Time now, absl::Time unix_now,
                         v1::HistoryReply* reply) const {
  size_t i = 0;
  while (i + 1 < rings_.size() && resolutions_[i].span() < back) ++i;
  const Ring& ring = rings_[i];
  const int64_t step_ms = absl::ToInt64Milliseconds(resolutions_[i].step);
  const int64_t now_ms = absl::ToUnixMillis(now);
  const int64_t from_ms = absl::ToUnixMillis(now - back);
  // Groups begin at multiples of their length, so the first may be a part of one.
  const int64_t steps = (absl::ToInt64Milliseconds(back) + step_ms - 1) / step_ms;
  const auto groups_max = static_cast<int64_t>(points_max) - 1;
  const int64_t together = groups_max == 0 ? std::numeric_limits<int64_t>::max() / step_ms : steps / groups_max + 1;
  int64_t group = -1;
  const auto take = [&](v1::HistoryReply::Point point) {
    if (point.unix_ms() <= from_ms) return;
    const int64_t its_group = (point.unix_ms() - 1) / (step_ms * together);
    if (its_group == group) {
      Join(point, reply->mutable_points(reply->points_size() - 1));
    } else {
      *reply->add_points() = std::move(point);
    }
    group = its_group;
  };
  for (size_t at = ring.first; at < ring.bytes.size();) {
    const uint32_t length = LengthAt(ring.bytes, at);
    v1::HistoryReply::Point point;
    point.ParseFromArray(ring.bytes.data() + at + kLengthBytes, static_cast<int>(length));
    at += kLengthBytes + length;
    take(std::move(point));
  }
  if (ring.heard) take(MakePoint(ring.change, levels, now_ms, std::max<int64_t>(now_ms - ring.step * step_ms, 1)));
  const int64_t shift_ms = absl::ToUnixMillis(unix_now) - now_ms;
  for (v1::HistoryReply::Point& point : *reply->mutable_points()) point.set_unix_ms(point.unix_ms() + shift_ms);
}

size_t CounterSeries::bytes() const {
  size_t bytes = sizeof(*this);
  for (const Ring& ring : rings_) bytes += sizeof(ring) + ring.bytes.capacity() + ring.change.SpaceUsedLong();
  return bytes;
}

}  // namespace stem
