#include "services/ctl/traffic.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "proto/miss_cause.h"
#include "stemcache/v1/node.pb.h"
#include "stemcache/v1/operator.grpc.pb.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using Json = nlohmann::json;

constexpr uint32_t kNowSeconds = 10;
constexpr uint32_t kMinutesSeconds = 300;
constexpr uint32_t kHourSeconds = 3600;

std::vector<std::pair<std::string, uint64_t>> Sorted(std::vector<std::pair<std::string, uint64_t>> shares) {
  std::erase_if(shares, [](const auto& share) { return share.second == 0; });
  std::stable_sort(shares.begin(), shares.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  return shares;
}

// "local_dram" for SOURCE_LOCAL_DRAM.
std::string EnumWord(const std::string& name, absl::string_view prefix) {
  std::string word = name.substr(std::min(prefix.size(), name.size()));
  std::transform(word.begin(), word.end(), word.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return word;
}

Json WindowToJson(const absl::StatusOr<Traffic>& traffic) {
  return traffic.ok() ? traffic->ToJson() : Json{{"error", traffic.status().ToString()}};
}

}  // namespace

uint64_t Traffic::tokens_hit() const {
  uint64_t hit = 0;
  for (const uint64_t tokens : sum.change().tokens_hit()) hit += tokens;
  return hit;
}

double Traffic::hit_rate() const {
  return tokens_asked() == 0 ? 0 : static_cast<double>(tokens_hit()) / static_cast<double>(tokens_asked());
}

double Traffic::PerSecondOf(v1::BytePath path) const {
  return path < sum.change().bytes_size() ? PerSecond(sum.change().bytes(path)) : 0;
}

std::vector<std::pair<std::string, uint64_t>> Traffic::misses() const {
  std::vector<std::pair<std::string, uint64_t>> shares;
  for (int i = 1; i < sum.change().tokens_missed_size(); ++i) {
    const auto cause = static_cast<v1::MissCause>(i);
    shares.emplace_back(v1::MissCause_IsValid(i) ? CauseName(cause) : fmt::format("cause_{}", i), sum.change().tokens_missed(i));
  }
  return Sorted(std::move(shares));
}

std::vector<std::pair<std::string, uint64_t>> Traffic::hits() const {
  std::vector<std::pair<std::string, uint64_t>> shares;
  for (int i = 1; i < sum.change().tokens_hit_size(); ++i) {
    const std::string name = v1::Source_IsValid(i) ? v1::Source_Name(static_cast<v1::Source>(i)) : fmt::format("SOURCE_{}", i);
    shares.emplace_back(EnumWord(name, "SOURCE_"), sum.change().tokens_hit(i));
  }
  return Sorted(std::move(shares));
}

Json Traffic::ToJson() const {
  Json json = {{"seconds", seconds},
               {"requests", sum.change().requests()},
               {"tokens_asked", tokens_asked()},
               {"tokens_hit", tokens_hit()},
               {"hit_rate", hit_rate()},
               {"prefill_saved_s", static_cast<double>(sum.change().prefill_saved_us()) * 1e-6},
               {"hits", Json::object()},
               {"misses", Json::object()},
               {"bytes", Json::object()},
               {"tenants", Json::array()},
               {"deadline_misses", sum.change().deadline_misses()},
               {"integrity_failures", sum.change().integrity_failures()},
               {"blocks_published", sum.change().blocks_published()},
               {"blocks_refused", sum.change().blocks_refused()},
               {"blocks_evicted", sum.change().blocks_evicted()},
               {"blocks_spilled", sum.change().blocks_spilled()},
               {"orphan_blocks", sum.change().orphan_blocks()},
               {"nodes_live", sum.nodes_live()},
               {"dram_bytes", sum.dram_bytes()},
               {"dram_bytes_used", sum.dram_bytes_used()},
               {"ssd_bytes", sum.ssd_bytes()},
               {"ssd_bytes_used", sum.ssd_bytes_used()}};
  for (const auto& [source, tokens] : hits()) json["hits"][source] = tokens;
  for (const auto& [cause, tokens] : misses()) json["misses"][cause] = tokens;
  for (int i = 1; i < sum.change().bytes_size() && v1::BytePath_IsValid(i); ++i) {
    json["bytes"][EnumWord(v1::BytePath_Name(static_cast<v1::BytePath>(i)), "BYTE_PATH_")] = sum.change().bytes(i);
  }
  for (const auto& tenant : sum.change().tenants()) {
    json["tenants"].push_back({{"tenant", tenant.tenant()},
                               {"tokens_asked", tenant.tokens_asked()},
                               {"tokens_hit", tenant.tokens_hit()},
                               {"dram_bytes", tenant.dram_bytes()},
                               {"dram_bytes_used", tenant.dram_bytes_used()}});
  }
  return json;
}

absl::StatusOr<Traffic> AskTraffic(const HistorySource& source, uint32_t seconds, const std::string& node) {
  v1::HistoryRequest request;
  request.set_seconds(seconds);
  request.set_points_max(1);
  request.set_node(node);
  absl::Status last = absl::InvalidArgumentError("no directory to ask: they keep the fleet's history; give --directory");
  for (const std::string& directory : source.directories) {
    const absl::StatusOr<v1::HistoryReply> reply =
        Ask(directory, source.secret, source.deadline, &v1::FleetOperator::Stub::History, request);
    last = reply.status();
    if (!reply.ok()) continue;
    Traffic traffic;
    if (!reply->points().empty()) traffic = {.seconds = reply->points(0).step_ms() * 1e-3, .sum = reply->points(0)};
    return traffic;
  }
  return last;
}

TrafficWindows AskTrafficWindows(const HistorySource& source, const std::string& node) {
  return {.now = AskTraffic(source, kNowSeconds, node), .minutes = AskTraffic(source, kMinutesSeconds, node), .hour = AskTraffic(source, kHourSeconds, node)};
}

Json TrafficWindows::ToJson() const {
  return {{"10s", WindowToJson(now)}, {"5m", WindowToJson(minutes)}, {"1h", WindowToJson(hour)}};
}

std::string HitRateText(const absl::StatusOr<Traffic>& traffic) {
  if (!traffic.ok()) return "?";
  return traffic->tokens_asked() == 0 ? "-" : Percent(traffic->hit_rate());
}

std::string Short(double amount) {
  constexpr std::array<const char*, 6> kPrefixes = {"", "k", "M", "G", "T", "P"};
  size_t prefix = 0;
  while (amount >= 999.5 && prefix + 1 < kPrefixes.size()) {
    amount /= 1000;
    ++prefix;
  }
  const bool whole = (prefix == 0 && amount == std::floor(amount)) || amount >= 99.95;
  return fmt::format("{:.{}f}{}", amount, whole ? 0 : 1, kPrefixes[prefix]);
}

std::string Bytes(double bytes) {
  constexpr std::array<const char*, 6> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t unit = 0;
  while (bytes >= 1023.5 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 || bytes >= 99.95 ? 0 : 1, kUnits[unit]);
}

double Share(uint64_t part, uint64_t all) { return all == 0 ? 0 : static_cast<double>(part) / static_cast<double>(all); }

std::string Percent(double share) { return fmt::format("{:.1f} %", share * 100); }

}  // namespace stem
