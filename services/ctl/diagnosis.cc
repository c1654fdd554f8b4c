#include "services/ctl/diagnosis.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/namespace_spec.h"
#include "proto/validate.h"
#include "services/ctl/levers.h"
#include "services/ctl/printable.h"
#include "services/runtime/at_once.h"
#include "stemcache/v1/directory.grpc.pb.h"
#include "stemcache/v1/node.grpc.pb.h"
#include "stemcache/v1/operator.grpc.pb.h"

namespace stem {
namespace {

using Json = nlohmann::json;
using Kind = Finding::Kind;

constexpr uint64_t kReferencesMin = 200;   // of an estimate that is told as one
constexpr double kWorth = 0.01;            // of all blocks: a gain that is worth advice
constexpr double kNearlyAll = 0.9;         // of the gain that any size could bring
constexpr double kMissShare = 0.05;        // of tokens asked: a reason that is told
constexpr double kDuplicateShare = 0.25;   // of what is held
constexpr uint32_t kHealthPercent = 90;
constexpr double kIndexShare = 0.9;

std::string Points(double share) { return fmt::format("{:+.1f} points", share * 100); }

// As flags take them.
std::string SizeFlag(uint64_t bytes) {
  for (const auto& [unit, shift] : {std::pair("GiB", 30), {"MiB", 20}}) {
    const uint64_t size = uint64_t{1} << shift;
    if (bytes >= 4 * size || (bytes >= size && bytes % size == 0)) return fmt::format("{}{}", (bytes + size / 2) / size, unit);
  }
  return fmt::format("{}KiB", std::max<uint64_t>(bytes >> 10, 1));
}

NodeRoom RoomOf(const DiagnosisInputs::Node& node) {
  const v1::HitCurveReply& curve = *node.curve;
  const auto dram = static_cast<double>(curve.dram_bytes()), ssd = static_cast<double>(curve.ssd_bytes());
  const double now = RateAt(curve, dram + ssd);
  return {.name = node.name,
          .dram_bytes = curve.dram_bytes(),
          .ssd_bytes = curve.ssd_bytes(),
          .working_set_bytes = curve.working_set_bytes(),
          .seconds = static_cast<double>(curve.since_ms()) * 1e-3,
          .references = curve.references(),
          .hit_rate_now = curve.hit_rate_now(),
          .twice_dram_adds = RateAt(curve, 2 * dram + ssd) - now,
          .twice_ssd_adds = ssd > 0 ? RateAt(curve, dram + 2 * ssd) - now : 0};
}

// The least of 2, 3, 4, 6 and 8 times `bytes` that brings nearly all of what eight times would, on top of `beside`.
double FactorWorth(const v1::HitCurveReply& curve, double bytes, double beside) {
  const double now = RateAt(curve, bytes + beside);
  const double most = RateAt(curve, 8 * bytes + beside) - now;
  for (const double factor : {2.0, 3.0, 4.0, 6.0}) {
    if (RateAt(curve, factor * bytes + beside) - now >= kNearlyAll * most) return factor;
  }
  return 8;
}

Finding OfRoom(const NodeRoom& room, const v1::HitCurveReply& curve) {
  const auto dram = static_cast<double>(room.dram_bytes), ssd = static_cast<double>(room.ssd_bytes);
  const double now = RateAt(curve, dram + ssd);
  const std::string seen = fmt::format("node {}: {} were asked for in {}, and there is room for {}", room.name,
                                       Bytes(static_cast<double>(room.working_set_bytes)), absl::FormatDuration(absl::Seconds(std::round(room.seconds))),
                                       room.ssd_bytes == 0 ? fmt::format("{} in DRAM", Bytes(dram))
                                                           : fmt::format("{} in DRAM and {} on SSD", Bytes(dram), Bytes(ssd)));
  if (room.references < kReferencesMin) {
    return {Kind::kFine, "capacity", fmt::format("node {}: too few blocks were asked for to tell ({} sampled)", room.name, room.references), ""};
  }
  const double grown = room.ssd_bytes > 0 ? ssd : dram;
  const double factor = FactorWorth(curve, grown, room.ssd_bytes > 0 ? dram : 0);
  const double gain = RateAt(curve, factor * grown + (room.ssd_bytes > 0 ? dram : 0)) - now;
  if (gain >= kWorth) {
    const auto bigger = static_cast<uint64_t>(factor * grown);
    std::string advice = room.ssd_bytes > 0
                             ? fmt::format("--ssd {} instead of {}: {}", SizeFlag(bigger), SizeFlag(room.ssd_bytes), Points(gain))
                             : fmt::format("--dram {} instead of {}: {}; or --ssd {}, which holds as much on disk", SizeFlag(bigger),
                                           SizeFlag(room.dram_bytes), Points(gain), SizeFlag(bigger - room.dram_bytes));
    return {Kind::kTrouble, "capacity", fmt::format("{}; room for twice the {} would hit {} ({} of blocks now)", seen,
                                                    room.ssd_bytes > 0 ? "SSD" : "DRAM",
                                                    Points(room.ssd_bytes > 0 ? room.twice_ssd_adds : room.twice_dram_adds), Percent(now)),
            std::move(advice)};
  }
  if (room.ssd_bytes > 0) {  // everything fits in both; what DRAM would spare is the disk's time
    const double from_disk = RateAt(curve, 2 * dram) - RateAt(curve, dram);
    if (from_disk >= kWorth) {
      return {Kind::kNote, "capacity", fmt::format("{}; {} of blocks come from the SSD that twice the DRAM would hold", seen, Percent(from_disk)),
              fmt::format("--dram {} instead of {} if reads of the SSD are too slow", SizeFlag(2 * room.dram_bytes), SizeFlag(room.dram_bytes))};
    }
  }
  return {Kind::kFine, "capacity", absl::StrCat(seen, "; more would add nothing"), ""};
}

void DiagnoseRoom(const DiagnosisInputs& inputs, Diagnosis* diagnosis) {
  for (const DiagnosisInputs::Node& node : inputs.nodes) {
    if (!node.curve.ok()) {
      diagnosis->findings.push_back({Kind::kTrouble, "health", fmt::format("node {} does not answer: {}", Printable(node.name), Printable(node.curve.status().message())),
                                     "is it running, and reachable from here?"});
      continue;
    }
    const NodeRoom room = RoomOf(node);
    diagnosis->findings.push_back(OfRoom(room, *node.curve));
    diagnosis->rooms.push_back(room);
  }
}

void DiagnoseSharing(const v1::DirectoryStatusReply& directory, uint64_t orphan_blocks, Diagnosis* diagnosis) {
  uint64_t held = 0, bytes = 0;
  for (const auto& node : directory.nodes()) {
    if (node.state() == "lost") continue;
    held += node.blocks_dram() + node.blocks_ssd();
    bytes += node.dram_bytes_used() + node.ssd_bytes_used();
  }
  const double block_bytes = held == 0 ? 0 : static_cast<double>(bytes) / static_cast<double>(held);
  const uint64_t copies = held - std::min(held, directory.blocks());
  diagnosis->duplicate_bytes = static_cast<uint64_t>(static_cast<double>(copies) * block_bytes);
  diagnosis->orphan_bytes = static_cast<uint64_t>(static_cast<double>(orphan_blocks) * block_bytes);
  const double share = held == 0 ? 0 : static_cast<double>(copies) / static_cast<double>(held);
  const std::string what = fmt::format("about {} of {} held in the fleet are second copies ({} of blocks, at their mean size)", Bytes(static_cast<double>(diagnosis->duplicate_bytes)),
                                       Bytes(static_cast<double>(bytes)), Percent(share));
  if (share >= kDuplicateShare) {
    diagnosis->findings.push_back({Kind::kNote, "duplicates", what,
                                   "send requests of one conversation to one node (Score tells routers which holds its prefix): copies take room "
                                   "that other blocks would use"});
  } else {
    diagnosis->findings.push_back({Kind::kFine, "duplicates", what, ""});
  }
  if (orphan_blocks > 0) {
    diagnosis->findings.push_back({Kind::kTrouble, "orphans", fmt::format("{} blocks (about {}) are held without their parent", orphan_blocks,
                                                                          Bytes(static_cast<double>(diagnosis->orphan_bytes))),
                                   "this is a bug of ours: report it with the node's log"});
  }
}

void DiagnoseNodes(const v1::DirectoryStatusReply& directory, Diagnosis* diagnosis) {
  for (const auto& node : directory.nodes()) {
    if (node.state() != "live") {
      diagnosis->findings.push_back({Kind::kTrouble, "health", fmt::format("node {} is {}, silent for {} ms", node.address().node(), node.state(), node.silent_ms()),
                                     "look at its log; what it alone held is missed as node_lost"});
      continue;
    }
    if (node.draining()) {
      diagnosis->findings.push_back({Kind::kNote, "health", fmt::format("node {} drains: it takes no new sessions and publishes", Printable(node.address().node())),
                                     fmt::format("end it, or `stemctl drain {} --resume`", Printable(node.address().node()))});
    }
    if (node.health_percent() < kHealthPercent) {
      diagnosis->findings.push_back({Kind::kTrouble, "health", fmt::format("other nodes find reads from {} late or bad: health {} %", node.address().node(), node.health_percent()),
                                     "see its load, its network and stemcache_node_integrity_failures_total"});
    }
  }
  const double used = directory.index_bytes_max() == 0 ? 0 : static_cast<double>(directory.index_bytes()) / static_cast<double>(directory.index_bytes_max());
  if (directory.blocks_shed() > 0 || used >= kIndexShare) {
    diagnosis->findings.push_back({Kind::kTrouble, "index", fmt::format("the directory's index is {} full and forgot {} blocks for want of room", Percent(used), directory.blocks_shed()),
                                   fmt::format("stem-directory --index-bytes-max {} instead of {}", SizeFlag(2 * directory.index_bytes_max()), SizeFlag(directory.index_bytes_max()))});
  }
}

// Engines that serve one model and share nothing.
void DiagnoseNamespaces(const DiagnosisInputs& inputs, Diagnosis* diagnosis) {
  struct Known {
    NamespaceSpec spec;
    std::set<std::string> nodes;
  };
  std::map<std::pair<std::string, std::string>, std::vector<Known>> models;  // by trust group and model
  for (const DiagnosisInputs::Node& node : inputs.nodes) {
    if (!node.namespaces.ok()) continue;
    for (const auto& entry : node.namespaces->entries()) {
      absl::StatusOr<NamespaceSpec> spec = ValidateSpec(entry.namespace_());
      if (!spec.ok()) continue;
      std::vector<Known>& known = models[{entry.group(), spec->model}];
      const auto same = std::find_if(known.begin(), known.end(), [&](const Known& each) { return DifferingFields(each.spec, *spec).empty(); });
      Known& into = same == known.end() ? known.emplace_back(Known{*std::move(spec), {}}) : *same;
      into.nodes.insert(node.name);
    }
  }
  for (const auto& [name, known] : models) {
    for (size_t i = 1; i < known.size(); ++i) {
      diagnosis->findings.push_back(
          {Kind::kTrouble, "namespaces",
           Printable(fmt::format("engines of model '{}' (trust group {}) differ and share nothing: {}; on {} and on {}", name.second, name.first,
                                 absl::StrJoin(DifferingFields(known[0].spec, known[i].spec), ", "), absl::StrJoin(known[0].nodes, ", "),
                                 absl::StrJoin(known[i].nodes, ", "))),
           "start them alike, or settle the namespace in etcd so that one that differs is refused"});
    }
  }
}

std::pair<std::string, std::string> MissAdvice(const std::string& cause) {
  static const auto* const kAdvice = new std::map<std::string, std::pair<std::string, std::string>>{
      {"refused", {"a node had no slot, thread or quota for it", "see stemcache_node_refused_blocks_total by reason; --fetch-threads, --dram, or the tenant's quota"}},
      {"deadline", {"the engine's deadline came first", "give Acquire more time, raise --fetch-threads, or let engines tell block_compute_us so that slow blocks are computed"}},
      {"unknown", {"no directory could say", "is a directory reachable, and has it run for long enough? else stem-directory --ghosts-max"}},
      {"integrity", {"copies failed their proof", "look for failing memory or disks: stemcache_node_integrity_failures_total by tier and node"}},
      {"recompute_cheaper", {"computing was faster than bringing", ""}},
      {"unreachable", {"held, but behind a block that is not", "more room: see capacity"}},
      {"not_yet", {"another engine was computing it", "let engines set compute_ms so that they wait for each other"}},
      {"node_lost", {"its only holders died", "look at the nodes' logs"}},
      {"spill_rejected", {"it left DRAM, and admission kept it off the SSD", "--admission always, or more --dram"}},
      {"evicted", {"it left its last tier for want of room", "more room: see capacity"}},
      {"incompatible", {"the same prompt is known under another namespace", "see namespaces"}},
      {"cold", {"nobody had published it", "nothing if prompts are new; if they should not be, look for what changes at their beginning (dates, ids, salts) and whether engines publish"}},
      {"below_block", {"the prompt's tail is shorter than a block", "a smaller block_tokens"}}};
  const auto found = kAdvice->find(cause);
  return found == kAdvice->end() ? std::pair<std::string, std::string>() : found->second;
}

void DiagnoseMisses(const Traffic& hour, Diagnosis* diagnosis) {
  if (hour.tokens_asked() == 0) {
    diagnosis->findings.push_back({Kind::kNote, "misses", "nothing was asked for in the last hour", "are engines attached?"});
    return;
  }
  for (const auto& [cause, tokens] : hour.misses()) {
    const double share = static_cast<double>(tokens) / static_cast<double>(hour.tokens_asked());
    diagnosis->misses.emplace_back(cause, share);
    const bool alarming = cause == "integrity" || cause == "node_lost" || cause == "refused" || cause == "incompatible";
    if (share < kMissShare && !alarming) continue;
    const auto [why, advice] = MissAdvice(cause);
    const bool fine = cause == "cold" || cause == "recompute_cheaper" || cause == "below_block";
    diagnosis->findings.push_back({alarming ? Kind::kTrouble : fine ? Kind::kFine : Kind::kNote, "misses",
                                   fmt::format("{} of the tokens asked in the last hour were missed as {}: {}", Percent(share), cause, why), advice});
  }
}

const char* KindName(Kind kind) {
  switch (kind) {
    case Kind::kFine: return "fine";
    case Kind::kNote: return "note";
    case Kind::kTrouble: return "trouble";
  }
  return "";
}

}  // namespace

double RateAt(const v1::HitCurveReply& curve, double bytes) {
  double before_bytes = 0, before = 0;
  for (const auto& point : curve.points()) {
    const auto at = static_cast<double>(point.bytes());
    if (at >= bytes) return before + (point.hit_rate() - before) * (bytes - before_bytes) / std::max(at - before_bytes, 1.0);
    before_bytes = at;
    before = point.hit_rate();
  }
  return before;
}

Diagnosis Diagnose(const DiagnosisInputs& inputs) {
  Diagnosis diagnosis;
  DiagnoseRoom(inputs, &diagnosis);
  if (inputs.directory.ok()) {
    DiagnoseNodes(*inputs.directory, &diagnosis);
    DiagnoseSharing(*inputs.directory, inputs.hour.ok() ? inputs.hour->sum.change().orphan_blocks() : 0, &diagnosis);
  } else {
    diagnosis.findings.push_back({Kind::kTrouble, "health", absl::StrCat("no directory answers, so nothing is said of misses, copies and the index here: ", Printable(inputs.directory.status().message())), "is one running?"});
  }
  DiagnoseNamespaces(inputs, &diagnosis);
  if (inputs.hour.ok()) {
    DiagnoseMisses(*inputs.hour, &diagnosis);
  } else if (inputs.directory.ok()) {
    diagnosis.findings.push_back({Kind::kTrouble, "misses", absl::StrCat("no history, so nothing is said of misses and orphans here: ", Printable(inputs.hour.status().message())),
                                  "an older directory keeps none; else see its log"});
  }
  std::stable_sort(diagnosis.findings.begin(), diagnosis.findings.end(), [](const Finding& a, const Finding& b) { return a.kind > b.kind; });
  return diagnosis;
}

DiagnosisInputs AskDiagnosis(const StatusTargets& targets) {
  DiagnosisInputs inputs{.hour = absl::UnavailableError("not asked"), .directory = absl::InvalidArgumentError("no directory to ask"), .nodes = {}};
  const absl::StatusOr<std::optional<ClusterSecret>> secret = ReadSecret(targets.secret_file);
  const ClusterSecret* const shown = secret.ok() && secret->has_value() ? &**secret : nullptr;
  inputs.hour = AskTraffic({.directories = targets.directories, .secret = shown, .deadline = targets.deadline}, 3600);
  for (const std::string& directory : targets.directories) {
    inputs.directory = Ask(directory, shown, targets.deadline, &v1::Directory::Stub::DirectoryStatus);
    if (inputs.directory.ok()) break;
  }
  const absl::StatusOr<std::vector<NamedNode>> nodes = NodesToAsk(targets);
  if (!nodes.ok()) return inputs;
  inputs.nodes.resize(nodes->size());
  AskAtOnce(nodes->size(), kQuestionsAtOnce, [&](size_t i) {
    const std::string& address = (*nodes)[i].address;
    const auto status = Ask(address, shown, targets.deadline, &v1::Node::Stub::NodeStatus);
    if (!status.ok()) {  // not waited for three times
      inputs.nodes[i] = {.name = (*nodes)[i].name, .curve = status.status(), .namespaces = status.status()};
      return;
    }
    inputs.nodes[i] = {.name = status->address().node(),
                       .curve = Ask(address, shown, targets.deadline, &v1::NodeOperator::Stub::HitCurve),
                       .namespaces = Ask(address, shown, targets.deadline, &v1::NodeOperator::Stub::Namespaces)};
  });
  return inputs;
}

bool Diagnosis::healthy() const {
  return std::none_of(findings.begin(), findings.end(), [](const Finding& finding) { return finding.kind == Kind::kTrouble; });
}

Json Diagnosis::ToJson() const {
  Json json = {{"healthy", healthy()},   {"duplicate_bytes", duplicate_bytes}, {"orphan_bytes", orphan_bytes},
               {"misses", Json::object()}, {"nodes", Json::array()},             {"findings", Json::array()}};
  for (const auto& [cause, share] : misses) json["misses"][cause] = share;
  for (const NodeRoom& room : rooms) {
    json["nodes"].push_back({{"node", room.name},
                             {"dram_bytes", room.dram_bytes},
                             {"ssd_bytes", room.ssd_bytes},
                             {"working_set_bytes", room.working_set_bytes},
                             {"seconds", room.seconds},
                             {"references", room.references},
                             {"hit_rate_dram", room.hit_rate_now},
                             {"twice_dram_adds", room.twice_dram_adds},
                             {"twice_ssd_adds", room.twice_ssd_adds}});
  }
  for (const Finding& finding : findings) {
    json["findings"].push_back({{"kind", KindName(finding.kind)}, {"topic", finding.topic}, {"what", finding.what}, {"advice", finding.advice}});
  }
  return json;
}

std::string Diagnosis::ToText() const {
  std::string text = fmt::format("{:<16}{:>12}{:>12}{:>14}{:>12}{:>14}{:>14}\n", "node", "DRAM", "SSD", "working set", "DRAM hits", "2 x DRAM",
                                 "2 x SSD");
  for (const NodeRoom& room : rooms) {
    const bool told = room.references >= kReferencesMin;
    text += fmt::format("{:<16}{:>12}{:>12}{:>14}{:>12}{:>14}{:>14}\n", room.name, Bytes(static_cast<double>(room.dram_bytes)),
                        room.ssd_bytes == 0 ? "-" : Bytes(static_cast<double>(room.ssd_bytes)), Bytes(static_cast<double>(room.working_set_bytes)),
                        told ? Percent(room.hit_rate_now) : "-", told ? Points(room.twice_dram_adds) : "-",
                        told && room.ssd_bytes > 0 ? Points(room.twice_ssd_adds) : "-");
  }
  for (const Finding& finding : findings) {
    text += fmt::format("\n{:<8}{:<12}{}\n", KindName(finding.kind), finding.topic, finding.what);
    if (!finding.advice.empty()) text += fmt::format("{:20}-> {}\n", "", finding.advice);
  }
  return text;
}

}  // namespace stem
