#include "services/ctl/explain.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/chain.h"
#include "proto/miss_cause.h"
#include "proto/validate_fields.h"
#include "proto/validate_operator.h"
#include "services/ctl/levers.h"
#include "services/ctl/printable.h"
#include "services/ctl/requests.h"
#include "services/ctl/why.h"

namespace stem {
namespace {

using Json = nlohmann::json;

constexpr char kRow[] = "  {:<8}{:<18}{:<19}{}\n";  // held or missing, blocks, tier or cause, the rest

std::string Blocks(uint32_t first, uint32_t count) {
  return count == 1 ? fmt::format("block {}", first) : fmt::format("blocks {}..{}", first, first + count - 1);
}

std::string NameOf(const KnownSpace& space) {
  return fmt::format("{} ({}, {} tokens a block), tenant {}, namespace {}", Printable(space.spec.model), Printable(space.spec.kv_dtype), space.spec.block_tokens,
                     Printable(space.tenant), space.fingerprint.ToHex());
}

Json MissToJson(const v1::Miss& miss, const std::string& why) {
  Json json = {{"first", miss.first()}, {"count", miss.count()}, {"cause", CauseName(miss.cause())}, {"why", why}};
  if (miss.estimate_ms() > 0) json["estimate_ms"] = miss.estimate_ms();
  return json;
}

Json MissingToJson(const v1::ExplainReply::Missing& missing) {
  Json json = MissToJson(missing.miss(), WhyMissing(missing));
  for (const v1::Departure& left : missing.departures()) json["departures"].push_back(ToJson(left));
  if (!missing.difference().field().empty()) json["difference"] = ToJson(missing.difference());
  return json;
}

// Whether a directory can say what a block is now, that a request missed first. A block that begins its chain is known under another namespace
// by its probe alone: without it the answer would contradict the record.
bool CanAskNow(const v1::RequestRecord& record) {
  const bool incompatible = !record.misses().empty() && record.misses(0).cause() == v1::MISS_CAUSE_INCOMPATIBLE;
  return !record.first_missing_key().empty() && !(incompatible && record.probe().empty());
}

}  // namespace

absl::StatusOr<std::vector<KnownSpace>> ReadNamespaces(const StatusTargets& targets) {
  STEM_ASSIGN(const std::optional<ClusterSecret> secret, ReadSecret(targets.secret_file));
  STEM_ASSIGN(const std::vector<NamedNode> nodes, NodesToAsk(targets));
  std::vector<KnownSpace> spaces;
  absl::Status last = absl::UnavailableError("there is no node");
  bool answered = false;
  for (const auto& [node, reply] : Pull(nodes, secret ? &*secret : nullptr, targets.deadline, &v1::NodeOperator::Stub::Namespaces, v1::NamespacesRequest())) {
    if (!reply.ok()) {
      last = absl::Status(reply.status().code(), absl::StrCat("node ", node, ": ", reply.status().message()));
      continue;
    }
    answered = true;
    for (const v1::NamespaceRegistry::Entry& entry : reply->entries()) {
      STEM_ASSIGN(NamespaceSpec spec, ValidateSpec(entry.namespace_()));
      const NamespaceFingerprint fingerprint = FingerprintOf(spec, entry.group());
      const auto same = [&](const KnownSpace& known) { return known.fingerprint == fingerprint; };
      if (std::none_of(spaces.begin(), spaces.end(), same)) spaces.push_back({std::move(spec), entry.group(), fingerprint});
    }
  }
  if (!answered) return last;
  return spaces;
}

absl::StatusOr<KnownSpace> ChooseSpace(const std::vector<KnownSpace>& spaces, const SpaceChoice& choice) {
  std::vector<KnownSpace> fits;
  for (const KnownSpace& space : spaces) {
    if (!choice.model.empty() && space.spec.model != choice.model) continue;
    if (!absl::StartsWith(space.fingerprint.ToHex(), choice.fingerprint)) continue;
    if (!choice.tenant.empty() && space.tenant != choice.tenant) continue;
    fits.push_back(space);
  }
  if (fits.size() == 1) return fits.front();
  std::string known;
  for (const KnownSpace& space : fits.empty() ? spaces : fits) absl::StrAppend(&known, "\n  ", NameOf(space));
  if (spaces.empty()) return absl::InvalidArgumentError("no node knows a namespace: no engine has attached yet");
  return absl::InvalidArgumentError(absl::StrCat(fits.empty() ? "no namespace fits" : "several namespaces fit",
                                                 "; choose by --model, --namespace or --tenant:", known));
}

absl::StatusOr<PromptKeys> KeysOfTokens(const std::vector<uint32_t>& tokens, const KnownSpace& space, const std::string& salt,
                                        const ClusterSecret& secret) {
  if (space.spec.hash_scheme == HashScheme::kExternal) {
    return absl::InvalidArgumentError("this namespace takes the engine's own block hashes: tokens do not tell its keys; use --keys or --request");
  }
  STEM_ASSIGN(ChainHasher hasher,
              ChainHasher::Create(space.spec.hash_scheme, RootOf(secret.bytes(), space.tenant, space.fingerprint), salt,
                                  space.spec.block_tokens, ProbeKeyOf(secret.bytes(), space.tenant)));
  PromptKeys prompt;
  STEM_TRY(hasher.AppendTokens(tokens, prompt.keys));
  if (prompt.keys.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", tokens.size(), " tokens and a block ", space.spec.block_tokens,
                                                   ": no block is full, all of it misses as below_block"));
  }
  prompt.probe = hasher.probe();
  prompt.tail_tokens = hasher.tail_tokens();
  return prompt;
}

absl::StatusOr<Explanation> ExplainPrompt(const StatusTargets& targets, const KnownSpace& space, PromptKeys prompt) {
  STEM_ASSIGN(const std::optional<ClusterSecret> secret, ReadSecret(targets.secret_file));
  v1::ExplainRequest request;
  request.set_namespace_fingerprint(std::string(space.fingerprint.bytes()));
  request.set_keys(PackKeys(prompt.keys));
  for (const Part& part : space.spec.parts) {
    request.add_parts(part.id);
    request.add_window_blocks(WindowBlocks(part, space.spec.block_tokens));
  }
  if (prompt.probe.has_value()) request.set_probe(std::string(prompt.probe->bytes()));
  absl::Status last = absl::InvalidArgumentError("no directory to ask; give --dir or --directory");
  for (const std::string& directory : targets.directories) {
    auto reply = Ask(directory, secret ? &*secret : nullptr, targets.deadline, &v1::FleetOperator::Stub::Explain, request);
    if (reply.ok()) return Explanation{.space = space, .prompt = std::move(prompt), .reply = *std::move(reply), .record = std::nullopt, .silent = {}};
    last = absl::Status(reply.status().code(), absl::StrCat("directory ", directory, ": ", reply.status().message()));
  }
  return last;
}

absl::StatusOr<Explanation> ExplainRequest(const StatusTargets& targets, const std::string& request) {
  STEM_ASSIGN(const RememberedRequests remembered, ReadRequests(targets, request));
  if (remembered.records.empty()) {
    return absl::NotFoundError(absl::StrCat("no node remembers a request '", Printable(request), "': it was never asked here, or too many came after it"));
  }
  const v1::RequestRecord& record =
      *std::max_element(remembered.records.begin(), remembered.records.end(),
                        [](const auto& a, const auto& b) { return a.began_unix_ms() < b.began_unix_ms(); });
  STEM_ASSIGN(const NamespaceFingerprint fingerprint, ValidateFingerprint(record.namespace_fingerprint()));
  STEM_ASSIGN(const std::vector<KnownSpace> spaces, ReadNamespaces(targets));
  STEM_ASSIGN(const KnownSpace space, ChooseSpace(spaces, {.model = "", .fingerprint = fingerprint.ToHex(), .tenant = ""}));
  Explanation explanation{.space = space, .prompt = {}, .reply = {}, .record = std::nullopt, .silent = {}};
  if (CanAskNow(record) && !targets.directories.empty()) {
    STEM_ASSIGN(std::vector<BlockKey> keys, ValidateKeys(record.first_missing_key()));
    std::optional<Probe> probe;  // speaks for the chain's first block alone
    if (!record.misses().empty() && record.misses(0).first() == 0) {
      STEM_ASSIGN(probe, fields::OptionalProbe(record.probe()));
    }
    STEM_ASSIGN(explanation, ExplainPrompt(targets, space, {.keys = std::move(keys), .probe = probe, .tail_tokens = 0}));
  }
  explanation.record = record;
  for (const auto& [node, why] : remembered.silent) explanation.silent.push_back(node);
  return explanation;
}

Json Explanation::ToJson() const {
  Json json = {{"model", space.spec.model},
               {"namespace", space.fingerprint.ToHex()},
               {"tenant", space.tenant},
               {"block_tokens", space.spec.block_tokens},
               {"exact", reply.truth().exact()},
               {"silent_nodes", std::vector<std::string>(reply.silent_nodes().begin(), reply.silent_nodes().end())},
               {"held", Json::array()},
               {"misses", Json::array()}};
  if (record.has_value()) {
    json["request"] = RecordToJson(*record);
    json["silent_of_requests"] = silent;
    for (const v1::Miss& miss : record->misses()) json["misses"].push_back(MissToJson(miss, WhyMissed(*record, miss)));
    if (!reply.misses().empty()) json["first_missing_now"] = MissingToJson(reply.misses(0));
    return json;
  }
  json["blocks"] = prompt.keys.size();
  json["tail_tokens"] = prompt.tail_tokens;
  json["matched_blocks"] = reply.matched_blocks();
  for (const v1::HolderRun& run : reply.runs()) {
    json["held"].push_back({{"first", run.first()},
                            {"count", run.count()},
                            {"node", reply.holders(static_cast<int>(run.holder())).node()},
                            {"tier", TierName(run.tier())}});
  }
  for (const v1::ExplainReply::Missing& missing : reply.misses()) json["misses"].push_back(MissingToJson(missing));
  if (!reply.misses().empty()) json["first_missing_key"] = prompt.keys[reply.misses(0).miss().first()].ToHex();
  return json;
}

std::string Explanation::ToText() const {
  std::string out = NameOf(space) + "\n";
  if (record.has_value()) {
    out += RecordToText(*record);
    for (const v1::Miss& miss : record->misses()) {
      out += fmt::format(kRow, "missed", Blocks(miss.first(), miss.count()), CauseName(miss.cause()), WhyMissed(*record, miss));
    }
    if (record->misses().empty()) out += "  nothing was missed\n";
    if (!reply.misses().empty()) {
      out += fmt::format("the first missing block now: {}: {}\n", CauseName(reply.misses(0).miss().cause()), WhyMissing(reply.misses(0)));
    } else if (reply.matched_blocks() > 0) {
      out += fmt::format("the first missing block is held now, by {}\n", reply.holders(0).node());
    }
  } else {
    out += fmt::format("{} blocks, {} of them held from the first on\n", prompt.keys.size(), reply.matched_blocks());
    for (const v1::HolderRun& run : reply.runs()) {
      out += fmt::format(kRow, "held", Blocks(run.first(), run.count()), TierName(run.tier()),
                         reply.holders(static_cast<int>(run.holder())).node());
    }
    for (const v1::ExplainReply::Missing& missing : reply.misses()) {
      out += fmt::format(kRow, "missing", Blocks(missing.miss().first(), missing.miss().count()), CauseName(missing.miss().cause()),
                         WhyMissing(missing));
      for (int i = 1; i < missing.departures_size(); ++i) out += fmt::format("  {:<45}before: {}\n", "", WhyLeft(missing.departures(i)));
    }
    if (prompt.tail_tokens > 0) {
      out += fmt::format(kRow, "missing", fmt::format("last {} tokens", prompt.tail_tokens), "below_block", "the prompt's end, shorter than a block");
    }
    if (!reply.misses().empty()) {
      const uint32_t first = reply.misses(0).miss().first();
      out += fmt::format("first missing: block {}, key {}\n", first, prompt.keys[first].ToHex());
    }
  }
  for (const std::string& node : silent) out += fmt::format("{} did not answer: it may remember a later request of this id\n", Printable(node));
  for (const std::string& node : reply.silent_nodes()) out += fmt::format("node {} did not answer: what it remembers is not in this\n", node);
  for (const v1::Truth::Lag& lag : reply.truth().lagging()) {
    out += fmt::format("node {} was last heard whole {} ago: this may be stale\n", lag.node(), RoughTime(absl::Milliseconds(lag.lag_ms())));
  }
  return out;
}

}  // namespace stem
