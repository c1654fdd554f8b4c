#include "services/ctl/cluster_state.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/runtime/lifecycle.h"

namespace stem {
namespace {

using Json = nlohmann::json;

Json ToJson(const ClusterMember& member) {
  return {{"name", member.name},     {"pid", member.process.pid}, {"start_ticks", member.process.start_ticks},
          {"socket", member.socket}, {"listen", member.listen},   {"http", member.http}};
}

ClusterMember MemberOf(const Json& json) {
  ClusterMember member;
  member.name = json.at("name").get<std::string>();
  member.process = {json.at("pid").get<pid_t>(), json.at("start_ticks").get<uint64_t>()};
  member.socket = json.at("socket").get<std::string>();
  member.listen = json.at("listen").get<std::string>();
  member.http = json.at("http").get<std::string>();
  return member;
}

std::string StatePath(const std::string& dir) { return dir + "/cluster.json"; }

}  // namespace

std::string GrpcTarget(const std::string& target) {
  if (absl::StartsWith(target, "unix:") || !absl::StrContains(target, '/')) return target;
  std::error_code error;
  return absl::StrCat("unix://", std::filesystem::absolute(target, error).string());
}

absl::StatusOr<ClusterState> ReadClusterState(const std::string& dir) {
  std::error_code error;
  const std::string absolute = std::filesystem::weakly_canonical(dir, error).string();
  std::ifstream file(StatePath(absolute));
  if (error || !file) {
    return absl::NotFoundError(
        absl::StrCat("no cluster in ", dir, ": `stemctl cluster up --dir ", dir, "` starts one"));
  }
  std::stringstream text;
  text << file.rdbuf();
  ClusterState state;
  state.dir = absolute;
  try {
    const Json json = Json::parse(text.str());
    state.dram_bytes = json.at("dram_bytes").get<uint64_t>();
    state.ssd_bytes = json.at("ssd_bytes").get<uint64_t>();
    state.policy = json.value("policy", state.policy);
    state.admission = json.value("admission", state.admission);
    state.admin = json.value("admin", false);
    state.map_host_peers = json.value("map_host_peers", true);
    state.directory = MemberOf(json.at("directory"));
    for (const Json& node : json.at("nodes")) state.nodes.push_back(MemberOf(node));
  } catch (const Json::exception& wrong) {
    return absl::DataLossError(
        absl::StrCat(StatePath(absolute), " was not written by `stemctl cluster up`: ", wrong.what()));
  }
  return state;
}

absl::Status WriteClusterState(const ClusterState& state) {
  Json json = {
      {"dram_bytes", state.dram_bytes}, {"ssd_bytes", state.ssd_bytes}, {"map_host_peers", state.map_host_peers},
      {"policy", state.policy}, {"admission", state.admission}, {"admin", state.admin},
      {"directory", ToJson(state.directory)}};
  json["nodes"] = Json::array();
  for (const ClusterMember& node : state.nodes) json["nodes"].push_back(ToJson(node));
  return WriteReadyFile(StatePath(state.dir), json.dump(2) + "\n");
}

}  // namespace stem
