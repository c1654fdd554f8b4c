// Requests and replies of Match, used again: a request of 1,000 keys is a 16 KiB string, and to allocate and free it each time
// costs more than to answer it.
#pragma once

#include <memory>
#include <vector>

#include "grpcpp/support/message_allocator.h"
#include "proto/mutex.h"
#include "stemcache/v1/directory.pb.h"

namespace stem {

// Threads: any. Outlives the server that uses it.
class MatchMessages final : public grpc::MessageAllocator<stemcache::v1::MatchRequest, stemcache::v1::MatchReply> {
 public:
  MatchMessages();
  ~MatchMessages() override;

  grpc::MessageHolder<stemcache::v1::MatchRequest, stemcache::v1::MatchReply>* AllocateMessages() override;

 private:
  static constexpr size_t kKeptMax = 64;
  static constexpr size_t kKeptBytesMax = 256 << 10;  // of one request; longer ones are freed
  struct Holder;

  void Keep(std::unique_ptr<Holder> holder);

  Mutex mutex_;
  std::vector<std::unique_ptr<Holder>> kept_ ABSL_GUARDED_BY(mutex_);  // at most kKeptMax
};

}  // namespace stem
