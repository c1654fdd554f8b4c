// What the console asks: this directory, by a channel inside the process, and its nodes, at the addresses that it knows. Every question is
// over at the time that its asker gives, and few calls are on their way at a time, however many nodes there are. Threads: any.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "proto/wire_status.h"
#include "services/runtime/at_once.h"
#include "services/runtime/cluster_secret.h"
#include "stemcache/v1/directory.grpc.pb.h"
#include "stemcache/v1/node.grpc.pb.h"
#include "stemcache/v1/operator.grpc.pb.h"

namespace stem {

inline constexpr size_t kNodesAskedAtOnce = 16;
inline constexpr absl::Duration kNodePatience = absl::Seconds(2);  // with one node, where many are asked

class FleetQuestions {
 public:
  // `directory`: a channel to it. `secret` is borrowed.
  FleetQuestions(std::shared_ptr<grpc::Channel> directory, const ClusterSecret& secret) : directory_(std::move(directory)), secret_(secret) {}

  // One call of this directory's services.
  template <typename Stub, typename Request, typename Reply>
  absl::StatusOr<Reply> AskDirectory(absl::Time by, grpc::Status (Stub::*call)(grpc::ClientContext*, const Request&, Reply*),
                                     const Request& request = {}) {
    return Ask<Stub>(directory_, by, call, request);
  }
  // One call of a node's services. Errors: NotFound (no such node, or it is lost), or the node's own.
  template <typename Stub, typename Request, typename Reply>
  absl::StatusOr<Reply> AskNode(absl::Time by, const std::string& node,
                                grpc::Status (Stub::*call)(grpc::ClientContext*, const Request&, Reply*), const Request& request = {}) {
    STEM_ASSIGN(const std::shared_ptr<grpc::Channel> channel, ChannelTo(node, by));
    return Ask<Stub>(channel, by, call, request);
  }

  template <typename Reply>
  struct NodeAnswer {
    std::string node;
    absl::StatusOr<Reply> reply;
  };
  template <typename Reply>
  using NodeAnswers = std::vector<NodeAnswer<Reply>>;  // live nodes first, else by name
  // The same call of every node that is not lost, or, with `only`, of that one. Each has kNodePatience; the answer of those whose turn did not
  // come until `by` is DeadlineExceeded. Errors: of asking the directory who there is.
  template <typename Stub, typename Request, typename Reply>
  absl::StatusOr<NodeAnswers<Reply>> AskNodes(absl::Time by, const std::string& only,
                                              grpc::Status (Stub::*call)(grpc::ClientContext*, const Request&, Reply*),
                                              const Request& request = {}) {
    return ForEachNode<Reply>(by, only, [&](const std::shared_ptr<grpc::Channel>& channel, absl::Time its_by) {
      return Ask<Stub>(channel, its_by, call, request);
    });
  }
  // Of `wanted` from all nodes together, how many to ask each for: all of few nodes, and of many enough that the busiest are not missed.
  absl::StatusOr<uint32_t> ShareOf(uint32_t wanted, const std::string& only, absl::Time by);
  // The latest requests of every node, or of `only`.
  absl::StatusOr<NodeAnswers<std::vector<stemcache::v1::RequestRecord>>> AskRequests(absl::Time by, const std::string& only,
                                                                                     const stemcache::v1::RequestsRequest& request);

 private:
  struct Target {
    std::string node;
    std::shared_ptr<grpc::Channel> channel;
  };

  template <typename Stub, typename Request, typename Reply>
  absl::StatusOr<Reply> Ask(const std::shared_ptr<grpc::Channel>& channel, absl::Time by,
                            grpc::Status (Stub::*call)(grpc::ClientContext*, const Request&, Reply*), const Request& request) {
    Stub stub(channel);
    grpc::ClientContext context;
    Prepare(by, context);
    Reply reply;
    STEM_TRY(FromGrpc((stub.*call)(&context, request, &reply)));
    return reply;
  }
  template <typename Reply, typename AskOne>
  absl::StatusOr<NodeAnswers<Reply>> ForEachNode(absl::Time by, const std::string& only, const AskOne& ask) {
    STEM_ASSIGN(const std::vector<Target> targets, Targets(only, by));
    NodeAnswers<Reply> answers;
    for (const Target& target : targets) answers.push_back({target.node, absl::DeadlineExceededError("not asked in time: others were slow")});
    AskAtOnce(targets.size(), kNodesAskedAtOnce, [&](size_t i) {
      const absl::Time now = absl::Now();
      if (now < by) answers[i].reply = ask(targets[i].channel, std::min(by, now + kNodePatience));
    });
    return answers;
  }
  void Prepare(absl::Time by, grpc::ClientContext& context) const;
  absl::StatusOr<std::vector<Target>> Targets(const std::string& only, absl::Time by);
  absl::StatusOr<std::shared_ptr<grpc::Channel>> ChannelTo(const std::string& node, absl::Time by);
  std::shared_ptr<grpc::Channel> ChannelAt(const std::string& address);

  const std::shared_ptr<grpc::Channel> directory_;
  const ClusterSecret& secret_;
  Mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<grpc::Channel>> channels_ ABSL_GUARDED_BY(mutex_);  // by address
};

}  // namespace stem
