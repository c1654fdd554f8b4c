#include "services/directory/intend_desk.h"

#include <algorithm>
#include <utility>

#include "proto/wire_status.h"
#include "services/runtime/clock.h"

namespace stem {
namespace {

// Rounded up, so that what is left is not taken for ended.
uint32_t ToMillis(absl::Duration left) {
  const int64_t millis = absl::ToInt64Milliseconds(left + absl::Milliseconds(1) - absl::Nanoseconds(1));
  return static_cast<uint32_t>(std::clamp<int64_t>(millis, 0, 60'000));
}

void Fill(const IntentVerdict& verdict, v1::IntendReply& reply) {
  reply.set_granted(verdict.granted);
  reply.set_estimate_ms(ToMillis(verdict.left));
  reply.set_holder(verdict.holder);
}

// NOT_YET where the causes before it (proto/stemcache/v1/types.proto) do not fit; a directory that does not know is told.
bool GivesWay(v1::MissCause cause) { return cause == v1::MISS_CAUSE_UNKNOWN || cause > v1::MISS_CAUSE_NOT_YET; }

void Append(google::protobuf::RepeatedPtrField<v1::Miss>& misses, uint32_t block, v1::MissCause cause, uint32_t estimate_ms) {
  if (!misses.empty()) {
    v1::Miss& last = *misses.Mutable(misses.size() - 1);
    if (last.cause() == cause && last.estimate_ms() == estimate_ms) return last.set_count(last.count() + 1);
  }
  v1::Miss* const miss = misses.Add();
  miss->set_first(block);
  miss->set_count(1);
  miss->set_cause(cause);
  miss->set_estimate_ms(estimate_ms);
}

}  // namespace

// One Intend. Answered from its constructor, by whoever ends the wait, or by its cancellation: by one of them.
class IntendDesk::Reactor final : public grpc::ServerUnaryReactor {
 public:
  Reactor(IntendDesk& desk, const IntendCall& call, v1::IntendReply* reply) : desk_(desk), reply_(reply) {
    const Intents::Outcome outcome =
        desk.intents_.Intend(call, MonotonicNow(), [this](const IntentVerdict& verdict) { Answer(verdict, "waited"); });
    if (outcome.verdict.has_value()) {
      Answer(*outcome.verdict, outcome.verdict->granted ? "granted" : "refused");
    } else {
      MutexLock lock(mutex_);  // gRPC hands this over to the thread that cancels
      ticket_ = outcome.ticket;
    }
  }

  void OnCancel() override {
    uint64_t ticket = 0;
    {
      MutexLock lock(mutex_);
      ticket = ticket_;
    }
    if (ticket != 0 && desk_.intents_.Withdraw(ticket)) Finish(grpc::Status::CANCELLED);
  }
  void OnDone() override { delete this; }

 private:
  // Nothing of this is touched after Finish. gRPC runs OnDone only once the handler has returned.
  void Answer(const IntentVerdict& verdict, const char* outcome) {
    desk_.metrics_.OnIntend(outcome);
    Fill(verdict, *reply_);
    Finish(grpc::Status::OK);
  }

  IntendDesk& desk_;
  v1::IntendReply* const reply_;
  Mutex mutex_;
  uint64_t ticket_ ABSL_GUARDED_BY(mutex_) = 0;
};

IntendDesk::IntendDesk(DirectoryMetrics& metrics) : metrics_(metrics), keeper_([this] { Keep(); }) {}

IntendDesk::~IntendDesk() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  keeper_.join();
}

grpc::ServerUnaryReactor* IntendDesk::Intend(grpc::CallbackServerContext* context, const v1::IntendRequest& request,
                                             v1::IntendReply* reply) {
  const absl::StatusOr<IntendCall> call = ValidateIntend(request);
  if (!call.ok()) {
    grpc::ServerUnaryReactor* const refused = context->DefaultReactor();
    refused->Finish(ToGrpc(call.status()));
    return refused;
  }
  auto* const reactor = new Reactor(*this, *call, reply);  // gRPC's callback API has reactors delete themselves
  MutexLock lock(mutex_);
  ++changes_;
  changed_.NotifyAll();
  return reactor;
}

void IntendDesk::Keep() {
  uint64_t seen = 0;
  while (true) {
    const absl::Time next = intents_.Expire(MonotonicNow());
    MutexLock lock(mutex_);
    if (stopping_) return;
    if (changes_ == seen) changed_.WaitFor(mutex_, next - MonotonicNow());
    seen = changes_;
  }
}

void IntendDesk::Label(const MatchCall& call, absl::Time now, v1::MatchReply& reply) const {
  if (!intents_.live()) return;
  google::protobuf::RepeatedPtrField<v1::Miss> misses;
  bool any = false;
  for (const v1::Miss& miss : reply.misses()) {
    for (uint32_t block = miss.first(); block < miss.first() + miss.count(); ++block) {
      std::optional<absl::Duration> left;
      for (size_t i = 0; i < call.parts.size() && !left.has_value() && GivesWay(miss.cause()); ++i) {
        left = intents_.LeftFor({call.space, PartKey(call.keys[block], call.parts[i].id)}, now);
      }
      any = any || left.has_value();
      Append(misses, block, left.has_value() ? v1::MISS_CAUSE_NOT_YET : miss.cause(),
             left.has_value() ? ToMillis(*left) : miss.estimate_ms());
    }
  }
  if (any) reply.mutable_misses()->Swap(&misses);
}

void IntendDesk::Feed::OnMessage(const v1::AnnounceMessage& message) {
  if (message.has_chunk()) return Learn(message.chunk());  // what a snapshot says is not seen before it is whole
  if (!message.has_batch()) return;
  Learn(message.batch());
  if (!intents_.live()) return;
  for (const v1::ChangeRun& run : message.batch().runs()) {
    const auto space = spaces_.find(run.namespace_());
    if (!run.remove() && space != spaces_.end()) intents_.OnAdded(space->second, run.keys());
  }
}

template <typename Changes>
void IntendDesk::Feed::Learn(const Changes& changes) {
  for (const v1::InternedNamespace& each : changes.namespaces()) {
    const auto space = UnpackNames<NamespaceFingerprint>(each.fingerprint());
    if (space.has_value() && space->size() == 1) spaces_[each.number()] = space->front();
  }
}

}  // namespace stem
