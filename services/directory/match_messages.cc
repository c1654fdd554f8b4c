#include "services/directory/match_messages.h"

#include <utility>

namespace stem {

namespace v1 = ::stemcache::v1;

struct MatchMessages::Holder final : public grpc::MessageHolder<v1::MatchRequest, v1::MatchReply> {
  explicit Holder(MatchMessages& messages) : owner(messages) {
    set_request(&kept_request);
    set_response(&kept_reply);
  }
  void Release() override { owner.Keep(std::unique_ptr<Holder>(this)); }

  MatchMessages& owner;
  v1::MatchRequest kept_request;
  v1::MatchReply kept_reply;
};

MatchMessages::MatchMessages() = default;
MatchMessages::~MatchMessages() = default;

grpc::MessageHolder<v1::MatchRequest, v1::MatchReply>* MatchMessages::AllocateMessages() {
  std::unique_ptr<Holder> holder;
  {
    MutexLock lock(mutex_);
    if (!kept_.empty()) {
      holder = std::move(kept_.back());
      kept_.pop_back();
    }
  }
  if (holder == nullptr) holder = std::make_unique<Holder>(*this);
  return holder.release();  // gRPC gives it back by Release
}

void MatchMessages::Keep(std::unique_ptr<Holder> holder) {
  if (holder->kept_request.keys().capacity() > kKeptBytesMax) return;
  holder->kept_request.Clear();  // strings keep their memory
  holder->kept_reply.Clear();
  MutexLock lock(mutex_);
  if (kept_.size() < kKeptMax) kept_.push_back(std::move(holder));
}

}  // namespace stem
