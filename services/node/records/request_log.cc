#include "services/node/records/request_log.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "proto/validate.h"

namespace stem {
namespace {

// Of what the cluster should have served.
bool IsFault(v1::MissCause cause) {
  return cause == v1::MISS_CAUSE_REFUSED || cause == v1::MISS_CAUSE_DEADLINE || cause == v1::MISS_CAUSE_UNKNOWN ||
         cause == v1::MISS_CAUSE_INTEGRITY || cause == v1::MISS_CAUSE_NODE_LOST || cause == v1::MISS_CAUSE_INCOMPATIBLE;
}

uint64_t Micros(absl::Duration duration) { return static_cast<uint64_t>(std::max<int64_t>(absl::ToInt64Microseconds(duration), 0)); }

}  // namespace

std::shared_ptr<const RequestLog::Entry> RequestLog::Ring::Add(std::shared_ptr<const Entry> entry, size_t entries_max) {
  entries.push_back(std::move(entry));
  ++added;
  std::shared_ptr<const Entry> oldest;
  if (entries.size() > entries_max) {
    oldest = std::move(entries.front());
    entries.pop_front();
  }
  return oldest;
}

bool RequestLog::IsKept(const RequestFacts& facts) const {
  return !facts.error.empty() || (options_.slow > absl::ZeroDuration() && TimeAtNode(facts) >= options_.slow) ||
         std::any_of(facts.misses.begin(), facts.misses.end(), [](const v1::Miss& miss) { return IsFault(miss.cause()); });
}

void RequestLog::Add(RequestFacts facts) {
  const bool kept = IsKept(facts);
  auto entry = std::make_shared<Entry>(Entry{.number = 0, .facts = std::move(facts)});
  std::shared_ptr<const Entry> kept_oldest, recent_oldest;  // end after the lock
  MutexLock lock(mutex_);
  entry->number = ++requests_;
  if (kept) kept_oldest = kept_.Add(entry, options_.kept_max);
  recent_oldest = recent_.Add(std::move(entry), options_.recent_max);
  added_.NotifyAll();
}

RequestLog::Reader RequestLog::Begin(bool slow_only, std::string request, uint32_t recent) const {
  Reader reader{.slow_only = slow_only, .request = std::move(request), .told = 0};
  MutexLock lock(mutex_);
  const Ring& ring = RingOf(reader);
  reader.told = ring.added - ring.entries.size();
  uint64_t fit = 0;  // from the newest back, as many as are asked for
  for (size_t i = ring.entries.size(); i-- > 0;) {
    if (!reader.request.empty() && ring.entries[i]->facts.request != reader.request) continue;
    if (++fit <= recent) continue;
    reader.told += i + 1;
    break;
  }
  return reader;
}

std::vector<v1::RequestRecord> RequestLog::Read(Reader* reader, absl::Duration wait) const {
  std::vector<std::shared_ptr<const Entry>> entries;
  uint64_t skipped = 0;
  {
    const absl::Time until = absl::Now() + wait;
    MutexLock lock(mutex_);
    const Ring& ring = RingOf(*reader);
    while (!stopped_ && entries.empty()) {
      const uint64_t oldest = ring.added - ring.entries.size();
      if (reader->told < oldest) {
        skipped += oldest - reader->told;
        reader->told = oldest;
      }
      for (; reader->told < ring.added && entries.size() < kPerRead; ++reader->told) {
        const std::shared_ptr<const Entry>& entry = ring.entries[static_cast<size_t>(reader->told - oldest)];
        if (reader->request.empty() || entry->facts.request == reader->request) entries.push_back(entry);
      }
      const absl::Duration left = until - absl::Now();
      if (!entries.empty() || left <= absl::ZeroDuration()) break;
      added_.WaitFor(mutex_, left);
    }
  }
  std::vector<v1::RequestRecord> records;
  for (const std::shared_ptr<const Entry>& entry : entries) records.push_back(ToRecord(*entry));
  if (!records.empty()) records.front().set_skipped(skipped);
  return records;
}

void RequestLog::Stop() {
  MutexLock lock(mutex_);
  stopped_ = true;
  added_.NotifyAll();
}

bool RequestLog::stopped() const {
  MutexLock lock(mutex_);
  return stopped_;
}

v1::RequestRecord RequestLog::ToRecord(const Entry& entry) const {
  const RequestFacts& facts = entry.facts;
  v1::RequestRecord record;
  record.set_number(entry.number);
  record.set_node(options_.node);
  record.set_kind(RequestKindName(facts.kind));
  record.set_request(facts.request);
  record.set_tenant(facts.space->memory->group.name);
  record.set_model(facts.space->spec.model);
  record.set_namespace_fingerprint(std::string(facts.space->fingerprint.bytes()));
  record.set_block_tokens(facts.space->spec.block_tokens);
  record.set_began_unix_ms(absl::ToUnixMillis(facts.began));
  record.set_duration_us(Micros(facts.ended - facts.began));
  record.set_deadline_us(Micros(facts.deadline - facts.began));
  record.set_blocks_asked(facts.blocks_asked);
  record.set_blocks_matched(facts.blocks_matched);
  for (size_t source = 0; source < facts.hits.size(); ++source) {
    if (facts.hits[source].blocks == 0) continue;
    v1::RequestRecord::Hit* const hit = record.add_hits();
    hit->set_source(static_cast<v1::Source>(source));
    hit->set_blocks(facts.hits[source].blocks);
    hit->set_bytes(facts.hits[source].bytes);
  }
  for (const v1::Miss& miss : facts.misses) *record.add_misses() = miss;
  record.set_last_key(std::string(facts.last_key.bytes()));
  if (facts.first_missing_key.has_value()) record.set_first_missing_key(std::string(facts.first_missing_key->bytes()));
  if (facts.probe.has_value()) record.set_probe(std::string(facts.probe->bytes()));
  for (const TraceStep& step : facts.steps) {
    v1::RequestStep* const out = record.add_steps();
    out->set_name(StageName(step.stage));
    out->set_start_us(Micros(step.begin - facts.began));
    out->set_duration_us(Micros(step.end - step.begin));
    out->set_peer(step.peer);
    out->set_tier(step.tier);
    out->set_blocks(step.blocks);
    out->set_bytes(step.bytes);
    out->set_error(step.error);
  }
  if (facts.trace.valid()) record.set_trace_id(facts.trace.TraceId());
  record.set_error(facts.error);
  *record.mutable_difference() = facts.difference;
  return record;
}

}  // namespace stem
