#include "client/session.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/stem_state.h"
#include "proto/check.h"
#include "proto/validate.h"
#include "proto/wire_status.h"
#include "storage/pool/fd_socket.h"

namespace stem {
namespace {

enum Event : uintptr_t { kStarted = 1, kRead, kWritten, kHalfClosed, kFinished };

void* Tag(Event event) { return reinterpret_cast<void*>(event); }

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& path) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetMaxSendMessageSize(kMessageBytesMax);
  // A channel of its own: the next incarnation must not wait for this one's reconnect backoff.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return grpc::CreateCustomChannel(absl::StrCat("unix:", path), grpc::InsecureChannelCredentials(), arguments);
}

// So many, or so many bytes of keys, are told at once.
constexpr int kGotChainsTold = 64;
constexpr size_t kGotBytesTold = 64 << 10;

uint64_t MicrosBetween(Deadline::Clock::time_point begin, Deadline::Clock::time_point end) {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(end - begin).count());
}

}  // namespace

Session::Session(Attachment attachment, Timers& timers, std::shared_ptr<Counters> counters)
    : attachment_(std::move(attachment)), timers_(timers), counters_(std::move(counters)) {}

std::shared_ptr<Session> Session::Start(const std::string& path, Attachment attachment, Timers& timers,
                                        std::shared_ptr<Counters> counters) {
  std::shared_ptr<Session> session(new Session(std::move(attachment), timers, std::move(counters)));
  session->stub_ = v1::Node::NewStub(ChannelTo(path));
  session->stream_ = session->stub_->PrepareAsyncSession(&session->context_, &session->queue_);
  session->stream_->StartCall(Tag(kStarted));
  session->reader_ = std::thread([raw = session.get()] { raw->Read(); });
  session->watcher_ = std::thread([raw = session.get()] { raw->Watch(); });
  return session;
}

Session::~Session() { STEM_CHECK(!reader_.joinable() && !watcher_.joinable()); }

absl::Status Session::AwaitOpened(const Deadline& deadline) {
  const auto outcome = std::make_shared<Outcome<absl::Status>>();
  Request request;
  request.message.mutable_open()->set_session_token(attachment_.grant.session_token);
  request.done = [outcome](absl::StatusOr<v1::NodeMessage> reply) {
    if (reply.ok() && !reply->has_opened()) {
      outcome->Set(absl::InternalError("the node answered Open with something else"));
    } else {
      outcome->Set(reply.status());
    }
  };
  STEM_ASSIGN(const uint64_t id, Call(std::move(request), deadline));
  if (!outcome->WaitUntil(deadline)) Expire(id);
  STEM_TRY(outcome->Take());
  opened_ = true;
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Session::Call(Request request, const Deadline& deadline) {
  MutexLock lock(mutex_);
  if (ended_ || ending_) return absl::UnavailableError(absl::StrCat("node ", grant().node, " is gone"));
  if (deadline.passed()) {  // else the node might answer before the timer does
    return absl::DeadlineExceededError(absl::StrCat("the deadline had passed before node ", grant().node, " was asked"));
  }
  if (pending_.size() + stems_.size() >= kRequestsMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(kRequestsMax, " calls and stems are outstanding, which is the limit"));
  }
  if (out_bytes_ >= kOutBytesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(out_bytes_, " bytes wait to be sent to the node; the limit is ", kOutBytesMax));
  }
  const uint64_t id = next_id_++;
  Pending pending{
      .done = std::move(request.done), .undo = request.undo, .held = std::move(request.held), .timer = std::nullopt};
  if (request.timed) {
    pending.timer = timers_.At(deadline, [weak = weak_from_this(), id] {
      if (const std::shared_ptr<Session> session = weak.lock()) session->Expire(id);
    });
  }
  pending_.emplace(id, std::move(pending));
  request.message.set_request_id(id);
  request.message.set_deadline_us(deadline.left_us());
  Enqueue(std::move(request.message));
  return id;
}

void Session::Expire(uint64_t request_id) {
  OnReply done;
  {
    MutexLock lock(mutex_);
    const auto found = pending_.find(request_id);
    if (found == pending_.end()) return;
    done = std::exchange(found->second.done, nullptr);
    if (done == nullptr) return;
    if (found->second.timer.has_value()) timers_.Cancel(*found->second.timer);
    SendUndo(found->second.undo, request_id);
    if (found->second.held == nullptr) pending_.erase(found);
  }
  done(absl::DeadlineExceededError(absl::StrCat("node ", grant().node, " did not answer before the deadline")));
}

void Session::Track(uint64_t acquire_id, const std::shared_ptr<StemState>& stem) {
  MutexLock lock(mutex_);
  stems_.emplace(acquire_id, stem);
}

void Session::Release(uint64_t acquire_id, std::span<const uint32_t> corrupt, uint32_t payloads_loaded) {
  MutexLock lock(mutex_);
  stems_.erase(acquire_id);
  if (ended_ || ending_) return;
  v1::ClientMessage message;
  message.set_request_id(next_id_++);
  message.mutable_release()->set_acquire_id(acquire_id);
  message.mutable_release()->mutable_corrupt()->Add(corrupt.begin(), corrupt.end());
  message.mutable_release()->set_payloads_loaded(payloads_loaded);
  Enqueue(std::move(message));
}

void Session::Abandon(uint64_t reserve_id) {
  MutexLock lock(mutex_);
  if (!ended_ && !ending_) SendUndo(Undo::kAbandon, reserve_id);
}

void Session::EndConversation(uint64_t conversation) {
  MutexLock lock(mutex_);
  if (ended_ || ending_ || out_bytes_ >= kOutBytesMax / 2) return;
  v1::ClientMessage message;
  message.set_request_id(next_id_++);
  message.mutable_conversation_ended()->set_id(conversation);
  Enqueue(std::move(message));
}

void Session::NoteGot(v1::Got::Chain chain, Deadline::Clock::time_point began) {
  const auto now = Deadline::Clock::now();
  chain.set_took_us(MicrosBetween(began, now));
  MutexLock lock(mutex_);
  if (ended_ || ending_ || out_bytes_ >= kOutBytesMax / 2) return;
  got_bytes_ += chain.asked().keys().size();
  *got_.add_chains() = std::move(chain);
  got_began_.push_back(began);
  if (got_.chains_size() >= kGotChainsTold || got_bytes_ >= kGotBytesTold) return SendGot();
  if (std::exchange(got_timed_, true)) return;
  timers_.At(Deadline(absl::Now() + kGotWait), [weak = weak_from_this()] {
    if (const std::shared_ptr<Session> session = weak.lock()) session->OnGotTime();
  });
}

void Session::OnGotTime() {
  MutexLock lock(mutex_);
  got_timed_ = false;
  if (!ended_ && !ending_) SendGot();
}

void Session::SendGot() {
  if (got_.chains().empty()) return;
  const auto now = Deadline::Clock::now();
  for (int i = 0; i < got_.chains_size(); ++i) {
    got_.mutable_chains(i)->set_began_us_ago(MicrosBetween(got_began_[static_cast<size_t>(i)], now));
  }
  v1::ClientMessage message;
  message.set_request_id(next_id_++);
  message.mutable_got()->Swap(&got_);
  got_began_.clear();
  got_bytes_ = 0;
  Enqueue(std::move(message));
}

void Session::SendUndo(Undo undo, uint64_t request_id) {
  if (undo == Undo::kNone || ending_) return;
  v1::ClientMessage message;
  message.set_request_id(next_id_++);
  if (undo == Undo::kRelease) {
    message.mutable_release()->set_acquire_id(request_id);
  } else {
    message.mutable_abandon()->set_reserve_id(request_id);
  }
  Enqueue(std::move(message));
}

void Session::Enqueue(v1::ClientMessage message) {
  const size_t bytes = message.ByteSizeLong();
  out_bytes_ += bytes;
  out_.push_back({.message = std::move(message), .bytes = bytes});
  WriteNext();
}

void Session::WriteNext() {
  if (!started_ || writing_ || ending_ || out_.empty()) return;
  writing_ = true;
  stream_->Write(out_.front().message, Tag(kWritten));  // serialized before it returns
  out_bytes_ -= out_.front().bytes;
  out_.pop_front();
}

void Session::Cancel() {
  context_.TryCancel();
  shutdown(attachment_.socket.get(), SHUT_RDWR);  // wakes the watcher
}

void Session::Farewell() {
  const Deadline until(absl::Now() + kFarewellMax);
  MutexLock lock(mutex_);
  if (got_.chains().empty() || !started_ || ended_ || ending_) return;
  SendGot();
  while ((writing_ || !out_.empty()) && !ending_ && !until.passed()) written_.WaitFor(mutex_, until.left());
  if (writing_ || !out_.empty() || ending_) return;
  ending_ = true;
  stream_->WritesDone(Tag(kHalfClosed));  // the node reads to the end, and ends the stream
  while (!ended_ && !until.passed()) written_.WaitFor(mutex_, until.left());
}

void Session::Close() {
  Farewell();
  Cancel();
  if (reader_.joinable()) reader_.join();
  if (watcher_.joinable()) watcher_.join();
}

void Session::Watch() {
  pollfd watched{.fd = attachment_.socket.get(), .events = POLLIN, .revents = 0};
  bool prefaulting = true;  // in the background: an engine that attaches to 100 GiB does not wait for it
  while (true) {
    const absl::Time begin = absl::Now();
    prefaulting = prefaulting && attachment_.memory->PrefaultSome();
    // A fifth of a processor: a node is mapped when the first block comes from it, and whoever asked for that needs the rest.
    const timespec rest = absl::ToTimespec(std::clamp(4 * (absl::Now() - begin), absl::ZeroDuration(), absl::Milliseconds(100)));
    const int ready = ppoll(&watched, 1, prefaulting ? &rest : nullptr, nullptr);
    if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    if (!TakeOffer()) break;
    prefaulting = true;
  }
  lives_.store(false, std::memory_order_release);
  context_.TryCancel();
}

bool Session::TakeOffer() {
  absl::StatusOr<FdPacket> packet =
      ReceiveFdPacket(attachment_.socket.get(), kAttachMessageBytesMax, 1, [] { return absl::Milliseconds(10); });
  if (!packet.ok()) return !absl::IsUnavailable(packet.status());
  v1::ArenaOffer offer;
  const absl::StatusOr<bool> taken = offer.ParseFromString(packet->bytes)
                                         ? attachment_.memory->Take(offer, std::move(packet->fds))
                                         : absl::InvalidArgumentError("not an ArenaOffer");
  if (!taken.ok()) counters_->messages_refused++;  // what is not mapped will not be named
  if (!taken.ok() || !*taken) return true;
  MutexLock lock(mutex_);
  if (ended_ || ending_) return true;
  v1::ClientMessage message;
  message.set_request_id(next_id_++);
  message.mutable_mapped()->set_arena(offer.arena().arena());
  Enqueue(std::move(message));
  return true;
}

void Session::Read() {
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
    switch (static_cast<Event>(reinterpret_cast<uintptr_t>(tag))) {
      case kStarted: {
        MutexLock lock(mutex_);
        started_ = ok;
        ending_ = !ok;
        if (ok) {
          stream_->Read(&incoming_, Tag(kRead));
          WriteNext();
        } else {
          FinishWhenQuiet();
        }
        break;
      }
      case kRead:
        if (ok) {
          OnMessage();
          stream_->Read(&incoming_, Tag(kRead));
        } else {
          lives_.store(false, std::memory_order_release);
          context_.TryCancel();  // so that an outstanding write ends too
          MutexLock lock(mutex_);
          ending_ = true;
          FinishWhenQuiet();
        }
        break;
      case kWritten:
        OnWritten(ok);
        break;
      case kHalfClosed:
        break;
      case kFinished:
        EndAll();
        queue_.Shutdown();
        break;
    }
  }
}

void Session::OnWritten(bool ok) {
  MutexLock lock(mutex_);
  writing_ = false;
  written_.NotifyAll();
  if (!ok) {
    context_.TryCancel();  // the read fails next, and ends the session
  } else if (!ending_) {
    WriteNext();
  }
  if (ending_) FinishWhenQuiet();
}

void Session::FinishWhenQuiet() {
  if (writing_ || finishing_) return;
  finishing_ = true;
  stream_->Finish(&finish_status_, Tag(kFinished));
}

void Session::OnMessage() {
  if (incoming_.has_landed() || incoming_.has_lost()) {
    ToStem(incoming_);
    return;
  }
  const uint64_t id = incoming_.request_id();
  if (incoming_.code() != 0) {
    Answer(id, FromCode(incoming_.code(), incoming_.error()));
  } else {
    Answer(id, std::move(incoming_));
  }
  incoming_.Clear();
}

void Session::Answer(uint64_t request_id, absl::StatusOr<v1::NodeMessage> reply) {
  Pending pending;
  {
    MutexLock lock(mutex_);
    const auto found = pending_.find(request_id);
    if (found == pending_.end()) return;  // expired; its undo is on the way
    pending = std::move(found->second);
    pending_.erase(found);
  }
  if (pending.timer.has_value()) timers_.Cancel(*pending.timer);
  if (pending.done != nullptr) pending.done(std::move(reply));
}

void Session::ToStem(const v1::NodeMessage& message) {
  std::shared_ptr<StemState> stem;
  {
    MutexLock lock(mutex_);
    const auto found = stems_.find(message.request_id());
    if (found != stems_.end()) stem = found->second.lock();
  }
  if (stem == nullptr) return;  // released; the node will hear of it
  const absl::Status status = message.has_landed() ? stem->OnLanded(message.landed()) : stem->OnLost(message.lost());
  if (status.ok()) return;
  counters_->messages_refused++;
  stem->OnGone(absl::InternalError(absl::StrCat("the node sent a bad message: ", status.message())));
}

void Session::EndAll() {
  absl::flat_hash_map<uint64_t, Pending> pending;
  absl::flat_hash_map<uint64_t, std::weak_ptr<StemState>> stems;
  {
    MutexLock lock(mutex_);
    ended_ = true;
    written_.NotifyAll();
    pending.swap(pending_);
    stems.swap(stems_);
    out_.clear();
    out_bytes_ = 0;
  }
  lives_.store(false, std::memory_order_release);
  absl::Status why = FromGrpc(finish_status_);
  // Only the answer to Open may say more than that the node is gone.
  if (why.ok() || absl::IsCancelled(why) || opened_) {
    why = absl::UnavailableError(absl::StrCat("node ", grant().node, " is gone: ", finish_status_.error_message()));
  }
  for (auto& [id, each] : pending) {
    if (each.timer.has_value()) timers_.Cancel(*each.timer);
    if (each.done != nullptr) each.done(why);
  }
  for (auto& [id, weak] : stems) {
    if (const std::shared_ptr<StemState> stem = weak.lock()) stem->OnGone(why);
  }
}

}  // namespace stem
