#include "services/directory/directory_service.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "proto/miss_cause.h"
#include "proto/status.h"
#include "proto/validate.h"
#include "proto/wire_status.h"
#include "services/directory/chain_match.h"
#include "services/directory/holder_stream.h"
#include "services/directory/match_answer.h"
#include "services/runtime/clock.h"
#include "services/runtime/version.h"

namespace stem {
namespace {

grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

// Our console, by a channel that has no address: what it asks is not what routers ask.
bool FromThisProcess(const grpc::CallbackServerContext& context) {
  const std::string peer = context.peer();
  return !absl::StartsWith(peer, "ipv4:") && !absl::StartsWith(peer, "ipv6:") && !absl::StartsWith(peer, "unix:");
}

void Describe(const MatchCall& call, const v1::MatchReply& reply, Span& span) {
  span.attributes = {{"stemcache.keys", static_cast<int64_t>(call.keys.size())},
                     {"stemcache.blocks", static_cast<int64_t>(reply.matched_blocks())},
                     {"stemcache.exact", reply.truth().exact()},
                     {"stemcache.peer", call.requester}};
  if (!reply.misses().empty()) span.attributes.emplace_back("stemcache.cause", CauseName(reply.misses(0).cause()));
}

}  // namespace

// One announce stream. Replies never queue up: an acknowledgement replaces the one that was not yet written, and a
// resync replaces both. Deletes itself when gRPC is done with it.
class DirectoryService::AnnounceReactor final
    : public grpc::ServerBidiReactor<v1::AnnounceMessage, v1::AnnounceReply> {
 public:
  AnnounceReactor(DirectoryService& service, grpc::CallbackServerContext* context)
      : service_(service),
        context_(context),
        stream_(service.parts_.membership, service.parts_.index),
        feed_(service.parts_.intents),
        history_(service.parts_.history) {
    MutexLock lock(mutex_);
    absl::Status status = service_.parts_.secret.CheckToken(*context);
    if (!service_.Register(context)) status = absl::UnavailableError("this directory is stopping");
    service_.parts_.metrics.OnStreams(1);
    if (status.ok()) {
      StartRead(&message_);
    } else {
      End(status);
    }
  }

  void OnReadDone(bool ok) override {
    MutexLock lock(mutex_);
    if (!ok) return End(absl::OkStatus());
    if (absl::Status valid = ValidateHeartbeat(message_.heartbeat()); !valid.ok()) return End(valid);
    const bool named = !stream_.node().empty();
    const absl::Time now = MonotonicNow();
    absl::StatusOr<HolderStream::Outcome> outcome = stream_.OnMessage(message_, now);
    if (!outcome.ok()) {
      Log().Warn("announce_refused", {{"node", stream_.node()}, {"error", outcome.status().message()}});
      return End(outcome.status());
    }
    if (!named) Log().Info("node_joined", {{"node", stream_.node()}, {"peer", context_->peer()}});
    service_.parts_.metrics.OnChanges(outcome->changes);
    feed_.OnMessage(message_);
    for (const v1::PublishedPrompts& published : message_.heartbeat().published()) {
      if (const auto call = ValidatePublished(published); call.ok()) service_.parts_.prompts.Learn(*call);
    }
    history_.OnMessage(message_, now);
    if (outcome->resync) {
      service_.parts_.metrics.OnResync();
      Log().Warn("stream_gap", {{"node", stream_.node()},
                                {"expected", outcome->reply->resync().expected()},
                                {"received", outcome->reply->resync().received()}});
    }
    if (outcome->reply && !(waiting_ && waiting_->has_resync())) waiting_ = *std::move(outcome->reply);
    WriteNext();
    StartRead(&message_);
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(mutex_);
    writing_ = false;
    if (ending_) return End(*ending_);
    if (ok) WriteNext();  // else the stream is broken, and the read that is under way says so
  }

  void OnDone() override {
    {
      MutexLock lock(mutex_);
      if (!stream_.node().empty()) Log().Info("node_left", {{"node", stream_.node()}});
      stream_.OnClosed();
      feed_.OnClosed(stream_.node());
      service_.parts_.metrics.OnStreams(-1);
      service_.Unregister(context_);
    }
    delete this;
  }

 private:
  Logger& Log() const { return service_.parts_.log; }

  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || !waiting_) return;
    written_ = *std::exchange(waiting_, std::nullopt);
    writing_ = true;
    StartWrite(&written_);
  }

  // Once no write is under way.
  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_) {
      ending_ = status;
    } else {
      Finish(ToGrpc(status));
    }
  }

  DirectoryService& service_;
  grpc::CallbackServerContext* const context_;
  Mutex mutex_;
  HolderStream stream_ ABSL_GUARDED_BY(mutex_);
  IntendDesk::Feed feed_ ABSL_GUARDED_BY(mutex_);
  FleetHistory::Feed history_ ABSL_GUARDED_BY(mutex_);
  v1::AnnounceMessage message_ ABSL_GUARDED_BY(mutex_);
  v1::AnnounceReply written_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::AnnounceReply> waiting_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> ending_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
};

grpc::ServerBidiReactor<v1::AnnounceMessage, v1::AnnounceReply>* DirectoryService::Announce(
    grpc::CallbackServerContext* context) {
  return new AnnounceReactor(*this, context);  // gRPC's callback API has reactors delete themselves
}

grpc::ServerUnaryReactor* DirectoryService::Match(grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer* request, grpc::ByteBuffer* reply) {
  absl::Status status = parts_.secret.CheckToken(*context);
  if (!status.ok()) return Finish(context, status);
  if (!parts_.tracer.on()) return Finish(context, DoMatch(*request, *reply, nullptr));
  const TraceContext caller = parts_.tracer.Read(*context);
  Span span{.name = "match", .self = parts_.tracer.Begin(caller), .parent = caller.span, .kind = SpanKind::kServer, .begin = absl::Now()};
  status = DoMatch(*request, *reply, &span);
  span.end = absl::Now();
  span.error = std::string(status.message());
  if (span.self.sampled || !status.ok() || parts_.tracer.IsSlow(span.end - span.begin)) {
    std::vector<Span> spans;
    spans.push_back(std::move(span));
    parts_.tracer.Keep(std::move(spans));
  }
  return Finish(context, status);
}

absl::Status DirectoryService::DoMatch(const grpc::ByteBuffer& request, grpc::ByteBuffer& reply_bytes, Span* span) const {
  const absl::Time begin = MonotonicNow();
  grpc::ByteBuffer bytes = request;  // its slices, not their bytes
  grpc::ProtoBufferReader reader(&bytes);
  STEM_ASSIGN(const MatchCall call, ReadMatch(reader));
  const v1::MatchReply reply = AnswerMatch(
      {.index = parts_.index, .membership = parts_.membership, .intents = parts_.intents, .prompts = parts_.prompts}, call, begin);
  parts_.metrics.OnMatch(reply, call.keys.size(), MonotonicNow() - begin);
  if (span != nullptr) Describe(call, reply, *span);
  bool own_buffer = false;
  return FromGrpc(grpc::SerializationTraits<v1::MatchReply>::Serialize(reply, &reply_bytes, &own_buffer));
}

grpc::ServerUnaryReactor* DirectoryService::Score(grpc::CallbackServerContext* context,
                                                  const v1::ScoreRequest* request, v1::ScoreReply* reply) {
  absl::Status status = parts_.secret.CheckToken(*context);
  if (status.ok()) status = DoScore(*request, *reply);
  if (status.ok() && !FromThisProcess(*context)) parts_.metrics.OnScore();
  return Finish(context, status);
}

absl::Status DirectoryService::DoScore(const v1::ScoreRequest& request, v1::ScoreReply& reply) const {
  STEM_ASSIGN(const MatchCall call, ValidateScore(request));
  const MatchCall in_engines = {.space = EngineCacheOf(call.space), .keys = call.keys, .parts = {WantedPart()}, .requester = {}};
  const absl::Time now = MonotonicNow();
  const std::shared_ptr<const MemberView> view = parts_.membership.View(now);
  const std::vector<ChainScore> scores = ScoreChain(parts_.index, *view, call);
  const std::vector<ChainScore> engines = ScoreChain(parts_.index, *view, in_engines);
  const auto add = [&](const std::string& name, uint32_t index) {
    v1::ScoreReply::Node* node = reply.add_nodes();
    node->set_node(name);
    if (index == UINT32_MAX) return;
    node->set_matched_blocks(scores[index].matched_blocks);
    node->set_dram_blocks(scores[index].pool_blocks);
    node->set_ssd_blocks(scores[index].ssd_blocks);
    node->set_engine_blocks(engines[index].matched_blocks);
    node->set_health_percent(view->nodes[index].trust_percent);
  };
  if (request.candidates().empty()) {
    for (uint32_t i = 0; i < view->nodes.size(); ++i) add(view->nodes[i].address->node(), i);
  }
  for (const std::string& name : request.candidates()) add(name, view->IndexOf(name));
  *reply.mutable_truth() = parts_.membership.Truth(now);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* DirectoryService::Intend(grpc::CallbackServerContext* context,
                                                   const v1::IntendRequest* request, v1::IntendReply* reply) {
  const absl::Status status = parts_.secret.CheckToken(*context);
  return status.ok() ? parts_.intents.Intend(context, *request, reply) : Finish(context, status);
}

grpc::ServerUnaryReactor* DirectoryService::DirectoryStatus(grpc::CallbackServerContext* context,
                                                            const v1::DirectoryStatusRequest*,
                                                            v1::DirectoryStatusReply* reply) {
  const absl::Status status = parts_.secret.CheckToken(*context);
  if (!status.ok()) return Finish(context, status);
  const absl::Time now = MonotonicNow();
  for (Membership::NodeStatus& node : parts_.membership.Status(now)) *reply->add_nodes() = std::move(node.message);
  const PrefixIndex::Counts counts = parts_.index.counts();
  reply->set_blocks(counts.blocks);
  reply->set_ghosts(counts.ghosts);
  reply->set_index_bytes(counts.bytes);
  reply->set_index_bytes_max(parts_.index.bytes_max());
  reply->set_blocks_shed(counts.shed);
  reply->set_uptime_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(now - parts_.started)));
  reply->set_version(kVersion.data(), kVersion.size());
  return Finish(context, status);
}

bool DirectoryService::Register(grpc::CallbackServerContext* context) {
  MutexLock lock(mutex_);
  streams_.insert(context);
  return !ended_;
}

void DirectoryService::Unregister(grpc::CallbackServerContext* context) {
  MutexLock lock(mutex_);
  streams_.erase(context);
}

void DirectoryService::EndStreams() {
  MutexLock lock(mutex_);
  ended_ = true;
  for (grpc::CallbackServerContext* context : streams_) context->TryCancel();
  parts_.intents.End();
}

}  // namespace stem
