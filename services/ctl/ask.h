// One question to one process of a cluster, and its answer as JSON.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include <google/protobuf/message.h>
#include <nlohmann/json_fwd.hpp>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "proto/status.h"
#include "proto/wire_status.h"
#include "services/ctl/cluster_state.h"
#include "services/runtime/cluster_secret.h"

namespace stem {

inline constexpr size_t kQuestionsAtOnce = 24;  // of a fleet, by one command

template <typename Reply>
struct Answer {
  std::string target;
  absl::StatusOr<Reply> reply;
};

// Of --secret-file; nothing when that is empty. Errors: as ClusterSecret::Read.
absl::StatusOr<std::optional<ClusterSecret>> ReadSecret(const std::string& path);

// `target`: path of a Unix socket, or host:port. `secret` may be null where nobody asks for it. Waits for `deadline` at most.
template <typename Stub, typename Request, typename Reply>
absl::StatusOr<Reply> Ask(const std::string& target, const ClusterSecret* secret, absl::Duration deadline,
                          grpc::Status (Stub::*call)(grpc::ClientContext*, const Request&, Reply*), const Request& request = {}) {
  Stub stub(grpc::CreateChannel(GrpcTarget(target), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  if (secret != nullptr) secret->AddToken(context);
  Reply reply;
  STEM_TRY(FromGrpc((stub.*call)(&context, request, &reply)));
  return reply;
}

// The message's own field names, every field; numbers of 64 bits as numbers.
nlohmann::json ToJson(const google::protobuf::Message& message);

}  // namespace stem
