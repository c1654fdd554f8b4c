#include "services/console/fleet_questions.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"

namespace stem {
namespace {
constexpr uint32_t kShareMin = 10;
constexpr size_t kChannelsMax = 20'000;  // beyond it those of nodes that left are dropped with the others
}  // namespace

void FleetQuestions::Prepare(absl::Time by, grpc::ClientContext& context) const {
  context.set_deadline(absl::ToChronoTime(by));
  secret_.AddToken(context);
}

std::shared_ptr<grpc::Channel> FleetQuestions::ChannelAt(const std::string& address) {
  MutexLock lock(mutex_);
  if (channels_.size() >= kChannelsMax) channels_.clear();
  std::shared_ptr<grpc::Channel>& channel = channels_[address];
  if (channel == nullptr) channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  return channel;
}

absl::StatusOr<std::vector<FleetQuestions::Target>> FleetQuestions::Targets(const std::string& only, absl::Time by) {
  STEM_ASSIGN(const auto fleet, AskDirectory(by, &stemcache::v1::Directory::Stub::DirectoryStatus));
  std::vector<Target> targets;
  for (const bool live : {true, false}) {  // who is heard is asked first: time may end before all are
    for (const auto& node : fleet.nodes()) {
      if (node.state() == "lost" || (node.state() == "live") != live || (!only.empty() && node.address().node() != only)) continue;
      targets.push_back({node.address().node(), ChannelAt(node.address().peer_address())});
    }
  }
  return targets;
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> FleetQuestions::ChannelTo(const std::string& node, absl::Time by) {
  STEM_ASSIGN(std::vector<Target> targets, Targets(node, by));
  if (!targets.empty() && !node.empty()) return std::move(targets.front().channel);
  return absl::NotFoundError(absl::StrCat("no node '", node, "' is here"));
}

absl::StatusOr<uint32_t> FleetQuestions::ShareOf(uint32_t wanted, const std::string& only, absl::Time by) {
  STEM_ASSIGN(const std::vector<Target> targets, Targets(only, by));
  const auto nodes = static_cast<uint32_t>(std::max<size_t>(targets.size(), 1));
  return std::clamp<uint32_t>(static_cast<uint32_t>(kNodesAskedAtOnce) * wanted / nodes, std::min(wanted, kShareMin), wanted);
}

absl::StatusOr<FleetQuestions::NodeAnswers<std::vector<stemcache::v1::RequestRecord>>> FleetQuestions::AskRequests(
    absl::Time by, const std::string& only, const stemcache::v1::RequestsRequest& request) {
  using Records = std::vector<stemcache::v1::RequestRecord>;
  return ForEachNode<Records>(by, only, [&](const std::shared_ptr<grpc::Channel>& channel, absl::Time its_by) -> absl::StatusOr<Records> {
    stemcache::v1::NodeOperator::Stub stub(channel);
    grpc::ClientContext context;
    Prepare(its_by, context);
    const auto stream = stub.Requests(&context, request);
    Records records;
    for (stemcache::v1::RequestRecord record; stream->Read(&record);) {
      if (records.size() < request.recent()) records.push_back(std::move(record));
    }
    STEM_TRY(FromGrpc(stream->Finish()));
    return records;
  });
}

}  // namespace stem
