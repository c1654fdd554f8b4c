#include "services/node/node_service.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "proto/validate.h"
#include "proto/wire_status.h"
#include "services/runtime/version.h"

namespace stem {
namespace {

constexpr size_t kAnswersMax = 65536;  // that wait for a client to read them; one that does not is cut off

v1::NodeMessage Failure(uint64_t request_id, const absl::Status& status) {
  v1::NodeMessage message;
  message.set_request_id(request_id);
  message.set_code(static_cast<uint32_t>(status.code()));
  message.set_error(std::string(status.message()));
  return message;
}

}  // namespace

// One client's stream. gRPC owns it from its creation to OnDone; answers come through `outbox_`, which outlives it.
class NodeService::Stream final : public grpc::ServerBidiReactor<v1::ClientMessage, v1::NodeMessage> {
 public:
  explicit Stream(NodeService& service) : service_(service), outbox_(std::make_shared<Outbox>(this)) {
    StartRead(&incoming_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return outbox_->Finish(grpc::Status::OK);
    if (const absl::Status status = Act(); !status.ok()) return outbox_->Finish(ToGrpc(status));
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override { outbox_->WriteDone(ok); }
  void OnCancel() override { outbox_->Finish(grpc::Status::CANCELLED); }
  void OnDone() override {
    outbox_->Detach();
    delete this;
  }

 private:
  // Answers on their way to the client. Threads: any.
  class Outbox {
   public:
    explicit Outbox(Stream* stream) : stream_(stream) {}

    void Send(v1::NodeMessage message) {
      MutexLock lock(mutex_);
      if (stream_ == nullptr || finished_) return;
      if (answers_.size() >= kAnswersMax) {
        FinishLocked(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the client does not read its answers"));
        return;
      }
      answers_.push_back(std::move(message));
      if (answers_.size() == 1) stream_->StartWrite(&answers_.front());
    }
    void WriteDone(bool ok) {
      MutexLock lock(mutex_);
      answers_.pop_front();
      if (!ok) return FinishLocked(grpc::Status::CANCELLED);
      if (!answers_.empty() && !finished_) stream_->StartWrite(&answers_.front());
    }
    void Finish(const grpc::Status& status) {
      MutexLock lock(mutex_);
      FinishLocked(status);
    }
    void Detach() {
      MutexLock lock(mutex_);
      stream_ = nullptr;
    }

   private:
    void FinishLocked(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      if (std::exchange(finished_, true) || stream_ == nullptr) return;
      stream_->Finish(status);
    }

    Mutex mutex_;
    Stream* stream_ ABSL_GUARDED_BY(mutex_);
    std::deque<v1::NodeMessage> answers_ ABSL_GUARDED_BY(mutex_);  // the first is being written
    bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  };

  // An error ends the stream; errors of single requests are answered.
  absl::Status Act() {
    const absl::Status envelope = ValidateEnvelope(incoming_);
    if (session_ == nullptr) {
      STEM_TRY(envelope);
      return Open();
    }
    const absl::Status handled = envelope.ok() ? service_.Handle(session_, incoming_) : envelope;
    if (!handled.ok()) outbox_->Send(Failure(incoming_.request_id(), handled));
    return absl::OkStatus();
  }

  absl::Status Open() {
    if (!incoming_.has_open()) return absl::FailedPreconditionError("the first message of a session must be Open");
    session_ = service_.parts_.sessions.Find(incoming_.open().session_token());
    if (session_ == nullptr) {
      return absl::UnauthenticatedError("unknown session token: attach first, and keep the attach socket open");
    }
    if (!session_->Open([outbox = outbox_](v1::NodeMessage message) { outbox->Send(std::move(message)); })) {
      return absl::FailedPreconditionError("this session has an open stream already, or has ended");
    }
    v1::NodeMessage opened;
    opened.set_request_id(incoming_.request_id());
    opened.mutable_opened()->set_version(std::string(kVersion));
    outbox_->Send(std::move(opened));
    return absl::OkStatus();
  }

  NodeService& service_;
  const std::shared_ptr<Outbox> outbox_;
  v1::ClientMessage incoming_;
  std::shared_ptr<stem::Session> session_;
};

grpc::ServerBidiReactor<v1::ClientMessage, v1::NodeMessage>* NodeService::Session(
    grpc::CallbackServerContext* /*context*/) {
  return new Stream(*this);
}

absl::Status NodeService::Handle(const std::shared_ptr<stem::Session>& session, const v1::ClientMessage& message) {
  const absl::Time deadline = absl::Now() + absl::Microseconds(message.deadline_us());
  const NamespaceSpec& spec = session->space().spec;
  const TraceContext trace = parts_.tracer.Read(message.traceparent());
  switch (message.message_case()) {
    case v1::ClientMessage::kAcquire: {
      STEM_ASSIGN(ChainCall chain, ValidateAcquire(message.acquire(), spec));
      STEM_ASSIGN(const Conversation conversation, ValidateConversation(message.acquire().conversation()));
      parts_.fetcher.Start(session, {.id = message.request_id(),
                                     .chain = std::move(chain),
                                     .request = message.acquire().request(),
                                     .trace = trace,
                                     .compute = absl::Milliseconds(message.acquire().compute_ms()),
                                     .block_compute = absl::Microseconds(message.acquire().block_compute_us()),
                                     .conversation = conversation,
                                     .deadline = deadline});
      return absl::OkStatus();
    }
    case v1::ClientMessage::kGot: {
      STEM_ASSIGN(const std::vector<GotChain> chains, ValidateGot(message.got(), spec));
      for (const GotChain& got : chains) parts_.fetcher.Note(*session, got, parts_.tracer.Read(got.traceparent));
      return absl::OkStatus();
    }
    case v1::ClientMessage::kRelease:
      Release(*session, message.release());
      return absl::OkStatus();
    case v1::ClientMessage::kReserve: {
      STEM_ASSIGN(ReserveCall call, ValidateReserve(message.reserve(), spec));
      parts_.publisher.Reserve(session, message.request_id(), std::move(call), trace, deadline);
      return absl::OkStatus();
    }
    case v1::ClientMessage::kCommit:
      STEM_TRY(ValidateCommit(message.commit()));
      parts_.publisher.Commit(session, message.request_id(), message.commit(), deadline);
      return absl::OkStatus();
    case v1::ClientMessage::kAbandon:
      parts_.publisher.Abandon(*session, message.abandon().reserve_id());
      return absl::OkStatus();
    case v1::ClientMessage::kMapped:
      session->OnMapped(message.mapped().arena());
      return absl::OkStatus();
    case v1::ClientMessage::kConversationEnded:
      session->space().pool().EndConversation(message.conversation_ended().id());
      return absl::OkStatus();
    case v1::ClientMessage::kOpen:
    case v1::ClientMessage::MESSAGE_NOT_SET:
      break;
  }
  return absl::FailedPreconditionError("the session is open already");
}

void NodeService::Release(stem::Session& session, const v1::Release& release) {
  const std::shared_ptr<AcquirePins> pins = session.TakeAcquire(release.acquire_id());
  if (pins == nullptr) return;
  for (const BlockName& name : pins->MarkCorrupt(release.corrupt())) {
    parts_.promoter.Recheck(session.space().pool(), name, "client");
  }
  if (!release.corrupt().empty() && parts_.tracer.on()) TraceCorrupt(pins->trace(), static_cast<size_t>(release.corrupt_size()));
  parts_.metrics.CountLoaded(session.space(), std::min<uint64_t>(release.payloads_loaded(), pins->positions()));
  pins->Release();
}

void NodeService::TraceCorrupt(const TraceContext& acquire, size_t blocks) {
  const absl::Time now = absl::Now();
  std::vector<Span> spans(1);
  spans[0] = {.name = "prove",
              .self = parts_.tracer.Begin(acquire),
              .parent = acquire.span,
              .begin = now,
              .end = now,
              .attributes = {{"stemcache.blocks", static_cast<int64_t>(blocks)}, {"stemcache.cause", std::string("integrity")}},
              .error = "the client's copies failed their proof"};
  parts_.tracer.Keep(std::move(spans));
}

grpc::ServerUnaryReactor* NodeService::NodeStatus(grpc::CallbackServerContext* context, const v1::NodeStatusRequest*,
                                                  v1::NodeStatusReply* reply) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  // Local users may look; others show that they belong to the cluster.
  const bool local = absl::StartsWith(context->peer(), "unix:");
  const absl::Status allowed = local ? absl::OkStatus() : parts_.secret.CheckToken(*context);
  if (allowed.ok()) *reply = parts_.status();
  reactor->Finish(ToGrpc(allowed));
  return reactor;
}

}  // namespace stem
