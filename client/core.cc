#include "client/core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/get.h"
#include "client/stem_state.h"
#include "proto/check.h"
#include "proto/validate.h"

namespace stem {
namespace {

constexpr uint32_t kLoadsMax = 1024;  // asynchronous, at a time: fewer than the executor's places
constexpr size_t kRequestBytesMax = 128;
constexpr size_t kTraceparentBytesMax = 256;

absl::Status NodeNonsense(const absl::Status& refused) {
  return absl::InternalError(absl::StrCat("the node sent a bad message: ", refused.message()));
}

absl::Status WithinBytes(absl::string_view field, absl::string_view text, size_t bytes_max) {
  if (text.size() <= bytes_max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the length of ", field, " is ", text.size(), "; it must be at most ", bytes_max, " bytes"));
}

// The parts asked for, after a look at the sizes that the node would refuse.
absl::StatusOr<std::vector<uint32_t>> CheckChain(std::span<const BlockKey> keys, const std::vector<uint32_t>& parts,
                                                 const NamespaceSpec& spec) {
  const google::protobuf::RepeatedField<uint32_t> ids(parts.begin(), parts.end());
  STEM_ASSIGN(std::vector<uint32_t> asked, ValidateParts(ids, spec));
  if (keys.empty() || keys.size() * asked.size() > kChainBlocksMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("keys times parts is ", keys.size() * asked.size(), "; it must be 1 to ", kChainBlocksMax));
  }
  return asked;
}

v1::Conversation MessageOf(const Conversation& conversation) {
  v1::Conversation message;
  message.set_id(conversation.id);
  if (conversation.outlook == Outlook::kWillResume) message.set_outlook(v1::OUTLOOK_WILL_RESUME);
  if (conversation.outlook == Outlook::kEnded) message.set_outlook(v1::OUTLOOK_ENDED);
  return message;
}

}  // namespace

CacheClient::Core::Core(Options options, Connection::Target target)
    : options_(std::move(options)),
      counters_(std::make_shared<Counters>()),
      connection_(std::move(target), timers_, counters_) {}

CacheClient::Core::~Core() {
  connection_.Close();  // every call is answered, every load woken
  timers_.Stop();
  executor_.Stop();  // runs the loads to their end
}

absl::StatusOr<v1::ClientMessage> CacheClient::Core::AcquireMessage(std::span<const BlockKey> keys,
                                                                    const AcquireOptions& options) const {
  STEM_ASSIGN(const std::vector<uint32_t> parts, CheckChain(keys, options.parts, options_.space));
  STEM_TRY(WithinBytes("request", options.request, kRequestBytesMax));
  STEM_TRY(WithinBytes("traceparent", options.traceparent, kTraceparentBytesMax));
  if (options.compute > absl::Milliseconds(kComputeMillisMax)) {
    return absl::InvalidArgumentError(
        absl::StrCat("compute is ", absl::FormatDuration(options.compute), "; it must be at most a minute"));
  }
  if (options.block_compute > absl::Microseconds(kBlockComputeMicrosMax)) {
    return absl::InvalidArgumentError(
        absl::StrCat("block_compute is ", absl::FormatDuration(options.block_compute), "; it must be at most a minute"));
  }
  v1::ClientMessage message;
  message.set_traceparent(options.traceparent);
  message.mutable_acquire()->set_keys(PackKeys(keys));
  message.mutable_acquire()->mutable_parts()->Add(parts.begin(), parts.end());
  message.mutable_acquire()->set_request(options.request);
  if (options.probe.has_value()) message.mutable_acquire()->set_probe(std::string(options.probe->bytes()));
  *message.mutable_acquire()->mutable_conversation() = MessageOf(options.conversation);
  message.mutable_acquire()->set_block_compute_us(static_cast<uint32_t>(absl::ToInt64Microseconds(
      absl::Ceil(std::max(options.block_compute, absl::ZeroDuration()), absl::Microseconds(1)))));
  message.mutable_acquire()->set_compute_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(
      absl::Ceil(std::max(options.compute, absl::ZeroDuration()), absl::Milliseconds(1)))));
  return message;
}

absl::StatusOr<v1::ClientMessage> CacheClient::Core::GetMessage(std::span<const BlockKey> keys, const AcquireOptions& options,
                                                                std::span<const std::span<std::byte>> destinations) const {
  STEM_ASSIGN(v1::ClientMessage message, AcquireMessage(keys, options));
  const size_t positions = keys.size() * static_cast<size_t>(message.acquire().parts_size());
  if (destinations.size() == positions) return message;
  return absl::InvalidArgumentError(absl::StrCat("the number of destinations is ", destinations.size(), "; it must be one per position, ", positions));
}

absl::StatusOr<v1::ClientMessage> CacheClient::Core::ReserveMessage(std::span<const BlockKey> keys,
                                                                    const ReserveOptions& options) const {
  if (options_.staging_bytes == 0) {
    return absl::FailedPreconditionError("staging_bytes is 0: this client reads only; connect with staging to publish");
  }
  STEM_ASSIGN(const std::vector<uint32_t> parts, CheckChain(keys, options.parts, options_.space));
  STEM_TRY(WithinBytes("traceparent", options.traceparent, kTraceparentBytesMax));
  v1::ClientMessage message;
  message.set_traceparent(options.traceparent);
  if (options.parent.has_value()) message.mutable_reserve()->set_parent(PackKeys({&*options.parent, 1}));
  message.mutable_reserve()->set_keys(PackKeys(keys));
  if (options.probe.has_value()) message.mutable_reserve()->set_probe(std::string(options.probe->bytes()));
  *message.mutable_reserve()->mutable_conversation() = MessageOf(options.conversation);
  message.mutable_reserve()->mutable_parts()->Add(parts.begin(), parts.end());
  return message;
}

absl::StatusOr<uint64_t> CacheClient::Core::StartAcquire(const std::shared_ptr<Session>& session,
                                                         v1::ClientMessage message, Limit limit, OnAcquired done) {
  StemState::Origin origin{.session = session,
                           .memory = session->memory(),
                           .counters = counters_,
                           .acquire_id = 0,
                           .keys = *UnpackNames<BlockKey>(message.acquire().keys()),
                           .parts = {message.acquire().parts().begin(), message.acquire().parts().end()}};
  Session::Request request;
  request.message = std::move(message);
  request.undo = Session::Undo::kRelease;
  request.timed = limit.timed;
  request.done = [origin = std::move(origin), done = std::move(done)](absl::StatusOr<v1::NodeMessage> reply) mutable {
    if (!reply.ok()) return done(std::move(reply).status());
    origin.acquire_id = reply->request_id();
    const std::shared_ptr<Counters> counters = origin.counters;
    const std::shared_ptr<Session> live = origin.session.lock();
    // From here on its destruction releases the acquire, whatever the answer says.
    const auto stem = std::make_shared<StemState>(std::move(origin));
    if (absl::Status taken = stem->OnAcquired(reply->acquired()); !taken.ok()) {
      counters->messages_refused++;
      return done(NodeNonsense(taken));
    }
    if (live != nullptr) live->Track(reply->request_id(), stem);
    done(Stem(stem));
  };
  return session->Call(std::move(request), limit.deadline);
}

absl::StatusOr<uint64_t> CacheClient::Core::StartReserve(const std::shared_ptr<Session>& session,
                                                         v1::ClientMessage message, Limit limit, OnReserved done) {
  const auto blocks = static_cast<uint32_t>(message.reserve().keys().size() / sizeof(BlockKey));
  std::vector<uint32_t> parts(message.reserve().parts().begin(), message.reserve().parts().end());
  Session::Request request;
  request.message = std::move(message);
  request.undo = Session::Undo::kAbandon;
  request.timed = limit.timed;
  request.done = [weak = std::weak_ptr<Session>(session), counters = counters_, blocks, parts = std::move(parts),
                  done = std::move(done)](absl::StatusOr<v1::NodeMessage> reply) {
    if (!reply.ok()) return done(std::move(reply).status());
    const std::shared_ptr<Session> live = weak.lock();
    STEM_CHECK(live != nullptr);  // its reader runs this
    auto state = ReservationState::Create(live, *reply, blocks, parts);
    if (!state.ok()) {
      counters->messages_refused++;
      return done(NodeNonsense(state.status()));
    }
    done(Reservation(*std::move(state)));
  };
  return session->Call(std::move(request), limit.deadline);
}

absl::StatusOr<uint64_t> CacheClient::Core::StartCommit(const std::shared_ptr<Session>& session,
                                                        std::shared_ptr<ReservationState> state, Limit limit,
                                                        OnCommitted done) {
  Session::Request request;
  *request.message.mutable_commit() = state->ToCommit();
  request.held = state;  // the node may read the staging until it answers, however early the deadline ends
  request.timed = limit.timed;
  uint64_t bytes = 0;
  for (const WantedPayload& each : state->wanted) bytes += each.staging.size();
  const auto count = static_cast<uint32_t>(state->wanted.size());
  request.done = [counters = counters_, count, bytes, done = std::move(done)](absl::StatusOr<v1::NodeMessage> reply) {
    if (!reply.ok()) return done(std::move(reply).status());
    if (absl::Status valid = ValidateCommitted(reply->committed(), count); !valid.ok()) {
      counters->messages_refused++;
      return done(NodeNonsense(valid));
    }
    counters->payloads_committed += reply->committed().committed();
    counters->bytes_committed += bytes / count * reply->committed().committed();
    done(CommitResult{.committed = reply->committed().committed(),
                      .duplicate = reply->committed().duplicate(),
                      .refused = reply->committed().refused(),
                      .reason = reply->committed().reason()});
  };
  state->commit_sent = true;
  const absl::StatusOr<uint64_t> id = session->Call(std::move(request), limit.deadline);
  if (!id.ok()) state->commit_sent = false;
  return id;
}

absl::StatusOr<std::shared_ptr<Session>> CacheClient::Core::SessionOf(const ReservationState* state) const {
  if (state == nullptr) return absl::InvalidArgumentError("the reservation was committed or moved");
  if (std::shared_ptr<Session> session = state->session.lock()) return session;
  return absl::UnavailableError("the node that made the reservation is gone");
}

void CacheClient::Core::WithSession(const Deadline& deadline, OnSession go) {
  if (std::shared_ptr<Session> session = connection_.Current()) return go(std::move(session));
  if (absl::Status allowed = connection_.AttachAllowed(); !allowed.ok()) return go(std::move(allowed));
  if (attach_posted_.exchange(true)) return go(absl::UnavailableError("no node; another call is attaching to it"));
  const bool posted = executor_.Post([this, deadline, go] {
    absl::StatusOr<std::shared_ptr<Session>> session = connection_.Get(deadline);
    attach_posted_ = false;
    go(std::move(session));
  });
  if (posted) return;
  attach_posted_ = false;
  go(absl::ResourceExhaustedError(absl::StrCat("the client's ", Executor::kTasksMax, " places for tasks are taken")));
}

std::shared_ptr<GetCall> CacheClient::Core::NewGet(const std::shared_ptr<Session>& session, v1::ClientMessage message,
                                                   std::span<const std::span<std::byte>> destinations, const Deadline& deadline) const {
  return std::make_shared<GetCall>(session, counters_, std::move(message), destinations, deadline);
}

void CacheClient::Core::StartGet(const std::shared_ptr<GetCall>& call, const Deadline& deadline, OnGot done) {
  const auto ask = [this, call, deadline, done] {
    const auto id = StartAcquire(call->session(), call->TakeMessage(), {deadline, /*timed=*/true}, [=, this](absl::StatusOr<Stem> acquired) {
      if (!acquired.ok()) return done(call->Failed(acquired.status()));
      const auto stem = std::make_shared<Stem>(*std::move(acquired));
      StartLoad(Loader(stem->state_, 0, call->Rest(*stem), options_.local_proof), deadline,
                [=](const LoadResult& loaded) { done(call->Loaded(*stem, loaded)); });
    });
    if (!id.ok()) done(call->Failed(id.status()));
  };
  std::shared_ptr<StemState> glanced = call->Glance();
  if (glanced == nullptr) return ask();
  StartLoad(Loader(std::move(glanced), 0, call->destinations(), options_.local_proof), deadline, [=](const LoadResult& loaded) {
    if (call->OnGlanced(loaded)) return done(call->Whole());
    ask();
  });
}

LoadResult CacheClient::Core::LoadNow(const std::shared_ptr<StemState>& stem, uint32_t first_block,
                                      std::span<const std::span<std::byte>> destinations, const Deadline& deadline) {
  uint64_t bytes = 0;
  for (const std::span<std::byte> destination : destinations) bytes += destination.size();
  const auto load = [&](LoadShare share) { return Loader(stem, first_block, destinations, options_.local_proof, share); };
  return LoadShared(load, bytes, options_.load_threads, executor_, deadline);
}

void CacheClient::Core::StartLoad(Loader loader, const Deadline& deadline, OnLoaded done) {
  if (loads_.fetch_add(1) >= kLoadsMax) {
    loads_--;
    return done({.blocks_loaded = 0,
                 .status = absl::ResourceExhaustedError(
                     absl::StrCat(kLoadsMax, " loads are outstanding, which is the limit"))});
  }
  const auto task =
      std::make_shared<LoadTask>(std::move(loader), deadline, executor_, timers_, [this, done](LoadResult result) {
        loads_--;
        done(std::move(result));
      });
  if (task->Start()) return;
  loads_--;
  done({.blocks_loaded = 0, .status = absl::ResourceExhaustedError("the client's executor takes no more loads")});
}

}  // namespace stem
