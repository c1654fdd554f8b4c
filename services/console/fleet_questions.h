// What the console asks: this directory, by a channel inside the process, and its nodes, at the addresses that it knows. Every question has
// a deadline, and few are on their way at a time, however many nodes there are. Threads: any.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "proto/wire_status.h"
#include "services/runtime/cluster_secret.h"
#include "stemcache/v1/directory.grpc.pb.h"
#include "stemcache/v1/node.grpc.pb.h"
#include "stemcache/v1/operator.grpc.pb.h"

namespace stem {

inline constexpr size_t kNodesAskedAtOnce = 16;

class FleetQuestions {
 public:
  // `directory`: a channel to it. `secret` is borrowed. `deadline`: of each question; a node that is late is told as such.
  FleetQuestions(std::shared_ptr<grpc::Channel> directory, const ClusterSecret& secret, absl::Duration deadline = absl::Seconds(2))
      : directory_(std::move(directory)), secret_(secret), deadline_(deadline) {}

  // One call of this directory's services.
  template <typename Stub, typename Request, typename Reply>
  absl::StatusOr<Reply> AskDirectory(grpc::Status (Stub::*call)(grpc::ClientContext*, const Request&, Reply*), const Request& request = {}) {
    return Ask<Stub>(directory_, call, request);
  }
  // One call of a node's services. Errors: NotFound (no such node, or it is lost), or the node's own.
  template <typename Stub, typename Request, typename Reply>
  absl::StatusOr<Reply> AskNode(const std::string& node, grpc::Status (Stub::*call)(grpc::ClientContext*, const Request&, Reply*),
                                const Request& request = {}) {
    STEM_ASSIGN(const std::shared_ptr<grpc::Channel> channel, ChannelTo(node));
    return Ask<Stub>(channel, call, request);
  }

  template <typename Reply>
  struct NodeAnswer {
    std::string node;
    absl::StatusOr<Reply> reply;
  };
  // The same call of every node that is not lost, or, with `only`, of that one; by name.
  template <typename Stub, typename Request, typename Reply>
  std::vector<NodeAnswer<Reply>> AskNodes(const std::string& only, grpc::Status (Stub::*call)(grpc::ClientContext*, const Request&, Reply*),
                                          const Request& request = {}) {
    return ForEachNode<Reply>(only, [&](const std::shared_ptr<grpc::Channel>& channel) { return Ask<Stub>(channel, call, request); });
  }
  // Of `wanted` from all nodes together, how many to ask each for: all of few nodes, and of many enough that the busiest are not missed.
  uint32_t ShareOf(uint32_t wanted, const std::string& only);
  // The latest requests of every node, or of `only`.
  std::vector<NodeAnswer<std::vector<stemcache::v1::RequestRecord>>> AskRequests(const std::string& only,
                                                                                 const stemcache::v1::RequestsRequest& request);

 private:
  struct Target {
    std::string node;
    std::shared_ptr<grpc::Channel> channel;
  };

  template <typename Stub, typename Request, typename Reply>
  absl::StatusOr<Reply> Ask(const std::shared_ptr<grpc::Channel>& channel,
                            grpc::Status (Stub::*call)(grpc::ClientContext*, const Request&, Reply*), const Request& request) {
    Stub stub(channel);
    grpc::ClientContext context;
    Prepare(context);
    Reply reply;
    STEM_TRY(FromGrpc((stub.*call)(&context, request, &reply)));
    return reply;
  }
  template <typename Reply, typename AskOne>
  std::vector<NodeAnswer<Reply>> ForEachNode(const std::string& only, const AskOne& ask) {
    const std::vector<Target> targets = Targets(only);
    std::vector<NodeAnswer<Reply>> answers;
    for (const Target& target : targets) answers.push_back({target.node, absl::UnknownError("not asked")});
    InParallel(targets.size(), [&](size_t i) { answers[i].reply = ask(targets[i].channel); });
    return answers;
  }
  void Prepare(grpc::ClientContext& context) const;
  std::vector<Target> Targets(const std::string& only);
  absl::StatusOr<std::shared_ptr<grpc::Channel>> ChannelTo(const std::string& node);
  std::shared_ptr<grpc::Channel> ChannelAt(const std::string& address);
  static void InParallel(size_t count, const std::function<void(size_t)>& task);

  const std::shared_ptr<grpc::Channel> directory_;
  const ClusterSecret& secret_;
  const absl::Duration deadline_;
  Mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<grpc::Channel>> channels_ ABSL_GUARDED_BY(mutex_);  // by address
};

}  // namespace stem
