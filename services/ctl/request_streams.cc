#include "services/ctl/request_streams.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/validate_operator.h"
#include "services/runtime/backoff.h"
#include "stemcache/v1/operator.grpc.pb.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;

constexpr absl::Duration kRestMin = absl::Milliseconds(500);
constexpr absl::Duration kRestMax = absl::Seconds(10);
constexpr absl::Duration kLook = absl::Milliseconds(100);  // how often `stop` is asked

// What time does not mend.
bool IsFinal(const absl::Status& status) {
  return absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status) || absl::IsUnimplemented(status) || absl::IsInvalidArgument(status);
}

// One node's stream, in the completion queue of all.
class NodeStream {
 public:
  NodeStream(NamedNode node, const ClusterSecret* secret, const v1::RequestsRequest& request, absl::Duration deadline, const RequestWatcher* watcher,
             grpc::CompletionQueue* queue)
      : node_(std::move(node)), secret_(secret), request_(request), deadline_(deadline), watcher_(watcher), queue_(queue) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(absl::ToInt64Milliseconds(deadline)));  // and patience with a silent one
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, static_cast<int>(absl::ToInt64Milliseconds(std::max(deadline, kRestMin))));
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, static_cast<int>(absl::ToInt64Milliseconds(kRestMin)));
    channel_ = grpc::CreateCustomChannel(GrpcTarget(node_.address), grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::NodeOperator::NewStub(channel_);
  }

  void Start() {
    reader_.reset();  // it lies in memory of the context's call
    context_ = std::make_unique<grpc::ClientContext>();
    if (secret_ != nullptr) secret_->AddToken(*context_);
    if (!request_.follow()) context_->set_deadline(absl::ToChronoTime(absl::Now() + deadline_));
    v1::RequestsRequest asked = request_;
    if (last_number_ > 0) asked.set_recent(kRequestsRecentMax);  // all since the last; what was shown is left out below
    reader_ = stub_->PrepareAsyncRequests(context_.get(), asked, queue_);
    state_ = State::kStarting;
    reader_->StartCall(this);
  }

  // The queue gave back this stream. False when all are to end.
  bool Advance(bool ok, bool stopping) {
    if (state_ == State::kFinishing) {
      End(FromGrpc(status_), stopping);
      return true;
    }
    bool go_on = true;
    if (ok && state_ == State::kReading && !stopping) go_on = Take();
    if (ok) {
      state_ = State::kReading;
      record_.Clear();
      reader_->Read(&record_, this);
    } else {
      state_ = State::kFinishing;
      reader_->Finish(&status_, this);
    }
    return go_on;
  }

  void Cancel() {
    if (state_ == State::kResting) state_ = State::kEnded;
    if (!ended()) context_->TryCancel();
  }
  void StartAgain(absl::Time now) {
    if (state_ == State::kResting && now >= rest_until_) Start();
  }
  bool ended() const { return state_ == State::kEnded; }
  Answer<bool> answer() const { return {node_.name, answer_}; }

 private:
  enum class State { kStarting, kReading, kFinishing, kResting, kEnded };

  bool Take() {
    backoff_.Reset();
    if (!answer_.ok() && watcher_->back) watcher_->back(node_.name);
    answer_ = true;
    // A node that was begun again counts from 1, and its records began later.
    const bool shown = record_.number() <= last_number_ && record_.began_unix_ms() <= last_began_unix_ms_;
    if (shown) return true;
    last_number_ = record_.number();
    last_began_unix_ms_ = std::max(last_began_unix_ms_, record_.began_unix_ms());
    return watcher_->show(record_);
  }

  void End(absl::Status status, bool stopping) {
    state_ = State::kEnded;
    if (!request_.follow()) {
      if (absl::IsCancelled(status) && stopping) status = absl::DeadlineExceededError("it was not waited for");
      answer_ = status.ok() ? absl::StatusOr<bool>(true) : status;
      return;
    }
    if (stopping) {  // a node that is there may have had nothing to tell
      const bool there = channel_->GetState(false) == GRPC_CHANNEL_READY;
      if (there) answer_ = true;
      if (!there && answer_.ok()) answer_ = absl::UnavailableError("it did not answer");
      return;
    }
    const bool again = !IsFinal(status);
    if (again) {
      state_ = State::kResting;
      rest_until_ = absl::Now() + backoff_.Next();
    }
    const bool was_lost = !answer_.ok();
    answer_ = status.ok() ? absl::UnavailableError("it ended") : status;
    if (!was_lost && watcher_->lost) watcher_->lost(node_.name, answer_.status(), again);
  }

  const NamedNode node_;
  const ClusterSecret* const secret_;  // null = none
  const v1::RequestsRequest& request_;
  const absl::Duration deadline_;
  const RequestWatcher* const watcher_;
  grpc::CompletionQueue* const queue_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::NodeOperator::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::RequestRecord>> reader_;
  v1::RequestRecord record_;
  grpc::Status status_;
  State state_ = State::kEnded;
  Backoff backoff_{kRestMin, kRestMax};
  absl::Time rest_until_;
  absl::StatusOr<bool> answer_ = true;
  uint64_t last_number_ = 0;
  int64_t last_began_unix_ms_ = 0;
};

void Drive(std::vector<std::unique_ptr<NodeStream>>* streams, grpc::CompletionQueue* queue, const RequestWatcher& watcher) {
  bool stopping = false;
  absl::Time look;
  const auto all_ended = [streams] { return std::all_of(streams->begin(), streams->end(), [](const auto& stream) { return stream->ended(); }); };
  for (auto& stream : *streams) stream->Start();
  bool go_on = true;
  while (!all_ended()) {
    const absl::Time now = absl::Now();
    if (!stopping && (!go_on || (now >= look && watcher.stop && watcher.stop()))) {
      stopping = true;
      for (auto& stream : *streams) stream->Cancel();
      continue;
    }
    if (now >= look) {
      look = now + kLook;
      for (auto& stream : *streams) stream->StartAgain(now);
    }
    void* tag = nullptr;
    bool ok = false;
    if (queue->AsyncNext(&tag, &ok, absl::ToChronoTime(look)) == grpc::CompletionQueue::GOT_EVENT) {
      if (!static_cast<NodeStream*>(tag)->Advance(ok, stopping)) go_on = false;
    }
  }
}

}  // namespace

std::vector<Answer<bool>> FollowRequests(const std::vector<NamedNode>& nodes, const std::string& secret_file, const v1::RequestsRequest& request,
                                         absl::Duration deadline, const RequestWatcher& watcher) {
  std::vector<Answer<bool>> ends;
  const absl::StatusOr<std::optional<ClusterSecret>> secret = ReadSecret(secret_file);
  if (!secret.ok()) {
    for (const NamedNode& node : nodes) ends.push_back({node.name, secret.status()});
    return ends;
  }
  grpc::CompletionQueue queue;
  std::vector<std::unique_ptr<NodeStream>> streams;
  for (const NamedNode& node : nodes) {
    streams.push_back(std::make_unique<NodeStream>(node, secret->has_value() ? &**secret : nullptr, request, deadline, &watcher, &queue));
  }
  Drive(&streams, &queue, watcher);
  queue.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue.Next(&tag, &ok)) {
  }
  for (const auto& stream : streams) ends.push_back(stream->answer());
  return ends;
}

}  // namespace stem
