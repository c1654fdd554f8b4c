#include "services/ctl/requests.h"

#include <memory>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/miss_cause.h"
#include "proto/mutex.h"
#include "proto/validate_operator.h"
#include "services/ctl/levers.h"
#include "services/ctl/why.h"
#include "stemcache/v1/operator.grpc.pb.h"

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
  if (!record.error().empty()) absl::StrAppend(&causes, causes.empty() ? "" : " ", record.error());
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

constexpr char kRow[] = "{:<13}{:<12}{:<9}{:<24}{:<20}{:>8}{:>8}{:>8}{:>8}{:>8}{:>11}  {}\n";

std::string Cut(const std::string& text, size_t width) { return text.size() <= width ? text : text.substr(0, width - 1) + "~"; }

}  // namespace

absl::StatusOr<std::vector<v1::RequestRecord>> ReadRequests(const StatusTargets& targets, const std::string& request) {
  STEM_ASSIGN(const std::vector<NamedNode> nodes, NodesToAsk(targets));
  std::vector<std::pair<std::string, std::string>> addresses;
  for (const NamedNode& node : nodes) addresses.emplace_back(node.name, node.address);
  v1::RequestsRequest asked;
  asked.set_recent(kRequestsRecentMax);
  asked.set_request(request);
  std::vector<v1::RequestRecord> records;
  const absl::Time end = absl::Now() + targets.deadline;
  const auto ends = FollowRequests(addresses, targets.secret_file, asked, [&](const v1::RequestRecord& record) { records.push_back(record); },
                                   [end] { return absl::Now() >= end; });
  absl::Status last = absl::UnavailableError("there is no node");
  for (const Answer<bool>& each : ends) {
    if (each.reply.ok()) return records;
    last = absl::Status(each.reply.status().code(), absl::StrCat("node ", each.target, ": ", each.reply.status().message()));
  }
  return last;
}

std::vector<Answer<bool>> FollowRequests(const std::vector<std::pair<std::string, std::string>>& nodes, const std::string& secret_file,
                                         const v1::RequestsRequest& request, const std::function<void(const v1::RequestRecord&)>& show,
                                         const std::function<bool()>& stop) {
  struct Stream {
    grpc::ClientContext context;
    absl::StatusOr<bool> ended = true;
  };
  std::vector<Answer<bool>> ends;
  const absl::StatusOr<std::optional<ClusterSecret>> secret = ReadSecret(secret_file);
  if (!secret.ok()) {
    for (const auto& [name, address] : nodes) ends.push_back({name, secret.status()});
    return ends;
  }
  Mutex mutex;
  CondVar one_ended;
  size_t running = nodes.size();
  bool stopped = false;
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<std::thread> threads;
  for (const auto& [name, address] : nodes) {
    Stream& stream = *streams.emplace_back(std::make_unique<Stream>());
    if (secret->has_value()) (*secret)->AddToken(stream.context);
    threads.emplace_back([&, address = address, &stream = stream] {
      v1::NodeOperator::Stub stub(grpc::CreateChannel(GrpcTarget(address), grpc::InsecureChannelCredentials()));
      const auto reader = stub.Requests(&stream.context, request);
      v1::RequestRecord record;
      while (reader->Read(&record)) {
        MutexLock lock(mutex);
        show(record);
      }
      const absl::Status status = FromGrpc(reader->Finish());
      MutexLock lock(mutex);
      if (!status.ok() && !(stopped && absl::IsCancelled(status))) stream.ended = status;
      --running;
      one_ended.NotifyAll();
    });
  }
  {
    MutexLock lock(mutex);
    while (running > 0 && !stopped) {
      mutex.Unlock();
      const bool now = stop();
      mutex.Lock();
      stopped = now;
      if (running > 0 && !stopped) one_ended.WaitFor(mutex, absl::Milliseconds(200));
    }
  }
  for (const auto& stream : streams) stream->context.TryCancel();
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < nodes.size(); ++i) ends.push_back({nodes[i].first, streams[i]->ended});
  return ends;
}

Json RecordToJson(const v1::RequestRecord& record) {
  Json json = ToJson(record);
  json["namespace_fingerprint"] = absl::BytesToHexString(record.namespace_fingerprint());
  json["last_key"] = absl::BytesToHexString(record.last_key());
  json["first_missing_key"] = absl::BytesToHexString(record.first_missing_key());
  json["request"] = record.request();  // a text, even where it is a number
  for (int i = 0; i < record.misses_size(); ++i) json["misses"][static_cast<size_t>(i)]["cause"] = CauseName(record.misses(i).cause());
  for (int i = 0; i < record.hits_size(); ++i) json["hits"][static_cast<size_t>(i)]["source"] = SourceName(record.hits(i).source());
  for (int i = 0; i < record.steps_size(); ++i) json["steps"][static_cast<size_t>(i)]["tier"] = TierName(record.steps(i).tier());
  return json;
}

std::string RecordToText(const v1::RequestRecord& record) {
  std::string out = fmt::format("request '{}' on {} at {}: {} of {} blocks {} in {}\n", record.request(), record.node(),
                                TimeOfDay(record.began_unix_ms()), record.blocks_matched(), record.blocks_asked(),
                                record.kind() == "publish" ? "published" : "matched", RoughTime(absl::Microseconds(record.duration_us())));
  for (const v1::RequestStep& step : record.steps()) {
    out += fmt::format("  {:<9}{:>9} +{:<9}{:<12}{:<6}{}{}\n", step.name(), RoughTime(absl::Microseconds(step.start_us())),
                       RoughTime(absl::Microseconds(step.duration_us())), step.peer(),
                       step.tier() == v1::TIER_UNSPECIFIED ? "" : TierName(step.tier()),
                       step.blocks() > 0 ? fmt::format("{} blocks ", step.blocks()) : "", step.error());
  }
  return out;
}

std::string RecordHeads() {
  return fmt::format(kRow, "time", "node", "kind", "request", "model", "asked", "got", "local", "remote", "ssd", "took", "missed");
}

std::string RecordRow(const v1::RequestRecord& record) {
  std::string row = fmt::format(kRow, TimeOfDay(record.began_unix_ms()), Cut(record.node(), 11), record.kind(), Cut(record.request(), 23),
                                Cut(record.model(), 19), record.blocks_asked(), record.blocks_matched(), HitBlocks(record, false, false),
                                HitBlocks(record, true, false), HitBlocks(record, false, true),
                                RoughTime(absl::Microseconds(record.duration_us())), Causes(record));
  if (record.skipped() > 0) row = fmt::format("({} more on {})\n", record.skipped(), record.node()) + row;
  return row;
}

}  // namespace stem
