#include "services/ctl/status.h"

#include <algorithm>
#include <functional>
#include <optional>

#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "proto/wire_status.h"
#include "services/runtime/cluster_secret.h"
#include "services/runtime/config.h"
#include "services/runtime/log.h"
#include "stemcache/v1/directory.grpc.pb.h"
#include "stemcache/v1/node.grpc.pb.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using Json = nlohmann::json;

// The message's own field names; numbers of 64 bits become strings in protobuf's JSON, so they are read back as
// numbers.
void NumbersFromText(Json* json) {
  if (json->is_structured()) {
    for (Json& entry : *json) NumbersFromText(&entry);
    return;
  }
  if (!json->is_string()) return;
  const std::string text = json->get<std::string>();
  uint64_t number = 0;
  if (!text.empty() && text.find_first_not_of("0123456789") == text.npos && absl::SimpleAtoi(text, &number)) {
    *json = number;
  }
}

Json ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return Json::object();
  Json json = Json::parse(text, nullptr, false);
  NumbersFromText(&json);
  return json;
}

template <typename Reply>
Json AnswersToJson(const std::vector<Answer<Reply>>& answers) {
  Json json = Json::array();
  for (const Answer<Reply>& answer : answers) {
    Json entry = answer.reply.ok() ? ToJson(*answer.reply) : Json{{"error", answer.reply.status().ToString()}};
    entry["target"] = answer.target;
    json.push_back(std::move(entry));
  }
  return json;
}

std::string Used(uint64_t used, uint64_t all) {
  return fmt::format("{:.1f}/{:.1f} GiB", static_cast<double>(used) / (1 << 30), static_cast<double>(all) / (1 << 30));
}

// node, up, blocks in DRAM, slots, blocks on SSD, SSD bytes, sessions, pins, leases, failed proofs, streams
constexpr char kNodeRow[] = "{:<12}{:>9}{:>10}{:>15}{:>10}{:>16}{:>10}{:>8}{:>8}{:>12}{:>9}\n";

std::string NodeRow(const v1::NodeStatusReply& node) {
  uint64_t slots = 0, slots_free = 0;
  for (const auto& arena : node.arenas()) {
    slots += arena.slots();
    slots_free += arena.slots_free();
  }
  size_t connected = 0;
  for (const auto& stream : node.streams()) connected += stream.connected() ? 1 : 0;
  return fmt::format(kNodeRow, node.address().node(), fmt::format("{} s", node.uptime_ms() / 1000), node.blocks_dram(),
                     fmt::format("{}/{}", slots - slots_free, slots), node.blocks_ssd(),
                     Used(node.ssd_bytes_used(), node.ssd_bytes()), node.sessions(), node.pins(), node.leases(),
                     node.integrity_failures(), fmt::format("{}/{}", connected, node.streams_size()));
}

std::string DirectoryRows(const std::string& target, const v1::DirectoryStatusReply& directory) {
  std::string out = fmt::format("directory {}: up {} s, {} blocks, {} ghosts\n", target, directory.uptime_ms() / 1000,
                                directory.blocks(), directory.ghosts());
  for (const auto& node : directory.nodes()) {
    out += fmt::format("  {:<12}{:<7} heard {} ms ago, sequence {}, {} blocks in DRAM, {} on SSD, {} resyncs\n",
                       node.address().node(), node.state(), node.silent_ms(), node.sequence(), node.blocks_dram(),
                       node.blocks_ssd(), node.resyncs());
  }
  return out;
}

template <typename Stub, typename Request, typename Reply>
absl::StatusOr<Reply> Ask(const std::string& target, const ClusterSecret* secret, absl::Duration deadline,
                          grpc::Status (Stub::*call)(grpc::ClientContext*, const Request&, Reply*)) {
  Stub stub(grpc::CreateChannel(GrpcTarget(target), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  if (secret != nullptr) secret->AddToken(context);
  Reply reply;
  STEM_TRY(FromGrpc((stub.*call)(&context, Request(), &reply)));
  return reply;
}

}  // namespace

StatusTargets TargetsOf(const ClusterState& state) {
  StatusTargets targets;
  for (const ClusterMember& node : state.nodes) targets.nodes.push_back(node.socket);
  targets.directories.push_back(state.directory.listen);
  targets.secret_file = state.secret_path();
  return targets;
}

bool ClusterStatus::whole() const {
  const auto answered = [](const auto& answer) { return answer.reply.ok(); };
  return std::all_of(nodes.begin(), nodes.end(), answered) &&
         std::all_of(directories.begin(), directories.end(), answered);
}

Json ClusterStatus::ToJson() const {
  return {{"nodes", AnswersToJson(nodes)}, {"directories", AnswersToJson(directories)}};
}

std::string ClusterStatus::ToTable() const {
  std::string out = fmt::format(kNodeRow, "node", "up", "in DRAM", "slots used", "on SSD", "SSD used", "sessions",
                                "pins", "leases", "bad proofs", "streams");
  for (const auto& node : nodes) {
    out +=
        node.reply.ok() ? NodeRow(*node.reply) : fmt::format("{}: {}\n", node.target, node.reply.status().ToString());
  }
  for (const auto& directory : directories) {
    out += directory.reply.ok()
               ? DirectoryRows(directory.target, *directory.reply)
               : fmt::format("directory {}: {}\n", directory.target, directory.reply.status().ToString());
  }
  return out;
}

ClusterStatus QueryStatus(const StatusTargets& targets) {
  ClusterStatus status;
  std::optional<ClusterSecret> secret;
  absl::Status secret_status;
  if (!targets.secret_file.empty()) {
    Logger log({.process = "stemctl"});
    auto read = ClusterSecret::Read(targets.secret_file, log);
    secret_status = read.status();
    if (read.ok()) secret.emplace(*std::move(read));
  }
  const ClusterSecret* const shown = secret ? &*secret : nullptr;
  for (const std::string& target : targets.nodes) {
    status.nodes.push_back({target, Ask(target, shown, targets.deadline, &v1::Node::Stub::NodeStatus)});
  }
  for (const std::string& target : targets.directories) {
    if (!secret_status.ok()) {
      status.directories.push_back({target, secret_status});
      continue;
    }
    status.directories.push_back({target, Ask(target, shown, targets.deadline, &v1::Directory::Stub::DirectoryStatus)});
  }
  return status;
}

}  // namespace stem
