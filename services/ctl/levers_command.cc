// stemctl drain, pin, unpin, evict, quota: the levers that operators pull on nodes.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "services/ctl/commands.h"
#include "services/ctl/levers.h"
#include "services/ctl/targets.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using Lever = v1::NodeOperator::Stub;
using Json = nlohmann::json;

constexpr absl::Duration kDeadline = absl::Seconds(60);  // of each node: a large namespace takes its time to leave

struct Arguments {
  TargetArguments targets;
  std::string json;
  std::string node;   // drain: which; others: only this one
  std::string stem;
  std::string space;  // hex
  std::string tenant;
  absl::Duration ttl = absl::Hours(1);
  uint64_t dram_bytes = 0, ssd_bytes = 0;
  bool resume = false;
};

// Asks the nodes, prints a line for each, writes the JSON. `told` says what a node did. Done when all of them did it, or, with `one_is_enough`,
// when one did and the others do not know the stem.
template <typename Request, typename Reply, typename Told>
absl::StatusOr<int> Run(const Arguments& arguments, grpc::Status (Lever::*lever)(grpc::ClientContext*, const Request&, Reply*),
                        const Request& request, bool one_is_enough, Told told) {
  STEM_ASSIGN(const StatusTargets targets, TargetsOf(arguments.targets));
  STEM_ASSIGN(const std::optional<ClusterSecret> secret, ReadSecret(targets.secret_file));
  STEM_ASSIGN(const std::vector<NamedNode> nodes, NodesToAsk(targets, arguments.node));
  const std::vector<Answer<Reply>> answers = Pull(nodes, secret ? &*secret : nullptr, kDeadline, lever, request);
  size_t done = 0, not_there = 0;
  Json json = Json::array();
  for (const Answer<Reply>& answer : answers) {
    done += answer.reply.ok() ? 1 : 0;
    not_there += one_is_enough && absl::IsNotFound(answer.reply.status()) ? 1 : 0;
    Json entry = answer.reply.ok() ? ToJson(*answer.reply) : Json{{"error", answer.reply.status().ToString()}};
    entry["target"] = answer.target;
    json.push_back(std::move(entry));
    if (arguments.json == "-") continue;
    const std::string line = answer.reply.ok() ? told(*answer.reply) : std::string(answer.reply.status().message());
    std::fputs(fmt::format("{}: {}\n", answer.target, line).c_str(), answer.reply.ok() ? stdout : stderr);
  }
  STEM_TRY(WriteJson(arguments.json, Json{{"nodes", std::move(json)}}.dump(2)));
  return done > 0 && done + not_there == answers.size() ? kExitOk : kExitFailed;
}

std::string Size(uint64_t bytes) { return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20)); }

absl::StatusOr<int> RunDrain(const Arguments& arguments) {
  v1::DrainRequest request;
  request.set_resume(arguments.resume);
  return Run(arguments, &Lever::Drain, request, false, [](const v1::DrainReply& reply) {
    return reply.draining() ? fmt::format("draining; {} sessions are open, others hold {} leases", reply.sessions(), reply.leases())
                            : std::string("takes sessions and publishes again");
  });
}

absl::StatusOr<int> RunKeep(const Arguments& arguments, absl::Duration ttl) {
  v1::KeepRequest request;
  STEM_ASSIGN(*request.mutable_keys(), ReadStem(arguments.stem));
  STEM_ASSIGN(*request.mutable_namespace_fingerprint(), ReadFingerprint(arguments.space));
  request.set_seconds(static_cast<uint32_t>(absl::ToInt64Seconds(ttl)));
  return Run(arguments, &Lever::Keep, request, true, [ttl](const v1::KeepReply& reply) {
    return fmt::format("{} blocks {}; {} of at most {} are kept here", reply.blocks(),
                       ttl > absl::ZeroDuration() ? "kept for " + absl::FormatDuration(ttl) : "let go", Size(reply.bytes_kept()),
                       Size(reply.bytes_kept_max()));
  });
}

absl::StatusOr<int> RunEvict(const Arguments& arguments) {
  v1::EvictRequest request;
  if (!arguments.stem.empty()) {
    STEM_ASSIGN(*request.mutable_keys(), ReadStem(arguments.stem));
  }
  STEM_ASSIGN(*request.mutable_namespace_fingerprint(), ReadFingerprint(arguments.space));
  if (arguments.stem.empty() && arguments.space.empty()) return absl::InvalidArgumentError("nothing to evict; give STEM or --namespace");
  return Run(arguments, &Lever::Evict, request, true, [](const v1::EvictReply& reply) {
    return fmt::format("{} blocks left, {} of them are freed when their readers let go", reply.blocks(), reply.blocks_in_use());
  });
}

absl::StatusOr<int> RunQuota(const Arguments& arguments) {
  v1::SetQuotaRequest request;
  request.set_tenant(arguments.tenant);
  request.set_dram_bytes(arguments.dram_bytes);
  request.set_ssd_bytes(arguments.ssd_bytes);
  if (arguments.dram_bytes == 0 && arguments.ssd_bytes == 0) return absl::InvalidArgumentError("no quota; give --dram, --ssd or both");
  return Run(arguments, &Lever::SetQuota, request, true, [](const v1::SetQuotaReply& reply) {
    return fmt::format("DRAM {}, SSD {}", FormatBytes(reply.dram_bytes()), FormatBytes(reply.ssd_bytes()));
  });
}

void AddStem(CLI::App& command, Arguments& arguments, bool required) {
  command.add_option("STEM", arguments.stem, "key of its last block in hex, or a file with its keys in hex, a line each")->required(required);
  command.add_option("--namespace", arguments.space, "fingerprint in hex; default: of the namespace that has the key");
  command.add_option("--node", arguments.node, "only on this node, by name; default: on all");
}

}  // namespace

void AddLeverCommands(CLI::App& app, Command* run) {
  const auto add = [&](const char* name, const char* what, absl::StatusOr<int> (*lever)(const Arguments&)) {
    CLI::App* const command = app.add_subcommand(name, what);
    auto arguments = std::make_shared<Arguments>();
    AddTargets(*command, &arguments->targets);
    command->add_option("--json", arguments->json, "write the answers as JSON; - = standard output");
    command->callback([arguments, run, lever] { *run = [arguments, lever] { return lever(*arguments); }; });
    return std::pair(command, arguments);
  };
  const auto drain = add("drain", "a node takes no new sessions and publishes, so that it may be ended; call again to see what is left",
                         RunDrain);
  drain.first->add_option("NODE", drain.second->node, "its name, or its socket or host:port")->required();
  drain.first->add_flag("--resume", drain.second->resume, "take them again");

  const auto pin = add("pin", "keeps a stem from eviction for a time, on the nodes that hold it; half of a pool at most",
                       [](const Arguments& arguments) { return RunKeep(arguments, arguments.ttl); });
  AddStem(*pin.first, *pin.second, true);
  AddDurationOption(*pin.first, "--ttl", pin.second->ttl, {.min = absl::Seconds(1), .max = absl::Hours(24)}, "for so long");
  const auto unpin = add("unpin", "ends a pin", [](const Arguments& arguments) { return RunKeep(arguments, absl::ZeroDuration()); });
  AddStem(*unpin.first, *unpin.second, true);

  const auto evict = add("evict", "retires a stem and all that follows it, from memory and SSD; without STEM all of --namespace", RunEvict);
  AddStem(*evict.first, *evict.second, false);

  const auto quota = add("quota", "limits what a trust group uses of its memory and SSD, until a node ends", RunQuota);
  quota.first->add_option("GROUP", quota.second->tenant, "the trust group")->required();
  AddBytesOption(*quota.first, "--dram", quota.second->dram_bytes, {}, "of its arena, e.g. 4GiB; 0 = as it is");
  AddBytesOption(*quota.first, "--ssd", quota.second->ssd_bytes, {}, "of the SSD tier; 0 = as it is");
  quota.first->add_option("--node", quota.second->node, "only on this node, by name; default: on all");
}

}  // namespace stem
