#include "services/ctl/requests.h"

#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/miss_cause.h"
#include "proto/validate_operator.h"
#include "services/ctl/levers.h"
#include "services/ctl/printable.h"
#include "services/ctl/request_streams.h"
#include "services/ctl/why.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using Json = nlohmann::json;

std::string SourceName(v1::Source source) { return absl::AsciiStrToLower(absl::StripPrefix(v1::Source_Name(source), "SOURCE_")); }

std::string TimeOfDay(int64_t unix_ms) {
  return absl::FormatTime("%H:%M:%E3S", absl::FromUnixMillis(unix_ms), absl::LocalTimeZone());
}

std::string Causes(const v1::RequestRecord& record) {
  std::string causes;
  for (const v1::Miss& miss : record.misses()) {
    absl::StrAppend(&causes, causes.empty() ? "" : " ", CauseName(miss.cause()), ":", miss.count());
  }
  if (!record.error().empty()) absl::StrAppend(&causes, causes.empty() ? "" : " ", Printable(record.error()));
  return causes;
}

uint32_t HitBlocks(const v1::RequestRecord& record, bool remote, bool ssd) {
  uint32_t blocks = 0;
  for (const v1::RequestRecord::Hit& hit : record.hits()) {
    const bool from_remote = hit.source() == v1::SOURCE_REMOTE_DRAM || hit.source() == v1::SOURCE_REMOTE_SSD;
    const bool from_ssd = hit.source() == v1::SOURCE_LOCAL_SSD || hit.source() == v1::SOURCE_REMOTE_SSD;
    if (from_ssd == ssd && (ssd || from_remote == remote)) blocks += hit.blocks();
  }
  return blocks;
}

constexpr char kRow[] = "{:<13}{:<11}{:<8}{:<20}{:<16}{:>7}{:>7}{:>7}{:>7}{:>7}{:>9}  {}\n";  // 114 columns and the causes

}  // namespace

absl::StatusOr<RememberedRequests> ReadRequests(const StatusTargets& targets, const std::string& request) {
  STEM_ASSIGN(const std::vector<NamedNode> nodes, NodesToAsk(targets, "", LostNodes::kToo));
  v1::RequestsRequest asked;
  asked.set_recent(kRequestsRecentMax);
  asked.set_request(request);
  RememberedRequests remembered;
  const auto keep = [&](const v1::RequestRecord& record) {
    remembered.records.push_back(record);
    return true;
  };
  for (const Answer<bool>& end : FollowRequests(nodes, targets.secret_file, asked, targets.deadline, {.show = keep})) {
    if (!end.reply.ok()) remembered.silent.emplace_back(end.target, end.reply.status());
  }
  if (!remembered.records.empty() || remembered.silent.empty()) return remembered;
  std::string who;
  for (const auto& [node, why] : remembered.silent) {
    absl::StrAppend(&who, who.empty() ? "" : "; ", node, " did not answer (", Printable(why.message()), ")");
  }
  return absl::UnavailableError(absl::StrCat(who, "; no node that did remembers a request '", Printable(request), "'"));
}

Json RecordToJson(const v1::RequestRecord& record) {
  Json json = ToJson(record);
  json["namespace_fingerprint"] = absl::BytesToHexString(record.namespace_fingerprint());
  json["last_key"] = absl::BytesToHexString(record.last_key());
  json["first_missing_key"] = absl::BytesToHexString(record.first_missing_key());
  json["probe"] = absl::BytesToHexString(record.probe());
  for (int i = 0; i < record.misses_size(); ++i) json["misses"][static_cast<size_t>(i)]["cause"] = CauseName(record.misses(i).cause());
  for (int i = 0; i < record.hits_size(); ++i) json["hits"][static_cast<size_t>(i)]["source"] = SourceName(record.hits(i).source());
  for (int i = 0; i < record.steps_size(); ++i) json["steps"][static_cast<size_t>(i)]["tier"] = TierName(record.steps(i).tier());
  return json;
}

std::string RecordToText(const v1::RequestRecord& record) {
  std::string out = fmt::format("request '{}' on {} at {}: {} of {} blocks {} in {}\n", Printable(record.request()), Printable(record.node()),
                                TimeOfDay(record.began_unix_ms()), record.blocks_matched(), record.blocks_asked(),
                                record.kind() == "publish" ? "published" : "matched", RoughTime(absl::Microseconds(record.duration_us())));
  for (const v1::RequestStep& step : record.steps()) {
    out += fmt::format("  {:<9}{:>9} +{:<9}{:<12}{:<6}{}{}\n", Printable(step.name()), RoughTime(absl::Microseconds(step.start_us())),
                       RoughTime(absl::Microseconds(step.duration_us())), Printable(step.peer()),
                       step.tier() == v1::TIER_UNSPECIFIED ? "" : TierName(step.tier()),
                       step.blocks() > 0 ? fmt::format("{} blocks ", step.blocks()) : "", Printable(step.error()));
  }
  return out;
}

std::string RecordHeads() {
  return fmt::format(kRow, "time", "node", "kind", "request", "model", "asked", "got", "local", "remote", "ssd", "took", "missed");
}

std::string RecordRow(const v1::RequestRecord& record) {
  std::string row = fmt::format(kRow, TimeOfDay(record.began_unix_ms()), Fit(record.node(), 10), Fit(record.kind(), 7), Fit(record.request(), 19),
                                Fit(record.model(), 15), record.blocks_asked(), record.blocks_matched(), HitBlocks(record, false, false),
                                HitBlocks(record, true, false), HitBlocks(record, false, true),
                                RoughTime(absl::Microseconds(record.duration_us())), Causes(record));
  if (record.skipped() > 0) row = fmt::format("({} more on {})\n", record.skipped(), Printable(record.node())) + row;
  return row;
}

}  // namespace stem
