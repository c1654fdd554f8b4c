#include "client/connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/attach.h"

namespace stem {
namespace {

constexpr absl::Duration kBackoffMin = absl::Milliseconds(50);
constexpr absl::Duration kBackoffMax = absl::Seconds(2);

absl::Status Closed() { return absl::UnavailableError("the client is being destroyed"); }

}  // namespace

Connection::Connection(Target target, Timers& timers, std::shared_ptr<Counters> counters)
    : target_(std::move(target)), timers_(timers), counters_(std::move(counters)) {}

Connection::~Connection() { Close(); }

absl::StatusOr<std::shared_ptr<Session>> Connection::Get(const Deadline& deadline) {
  std::shared_ptr<Session> old;
  {
    MutexLock lock(mutex_);
    while (attaching_ && !closed_) {
      const absl::Duration left = deadline.left();
      if (left <= absl::ZeroDuration()) {
        return absl::DeadlineExceededError("another call was still attaching to the node at the deadline");
      }
      changed_.WaitFor(mutex_, left);
    }
    if (closed_) return Closed();
    if (session_ != nullptr && session_->lives()) return session_;
    STEM_TRY(Waiting());
    attaching_ = true;
    old = session_;
  }
  if (old != nullptr) old->Close();
  absl::StatusOr<std::shared_ptr<Session>> attempt = Attempt(deadline);

  MutexLock lock(mutex_);
  attaching_ = false;
  changed_.NotifyAll();
  if (attempt.ok()) {
    if (session_ != nullptr) counters_->reattaches++;
    session_ = *attempt;
    failure_ = absl::OkStatus();
    backoff_ = absl::ZeroDuration();
  } else {
    failure_ = attempt.status();
    backoff_ = std::clamp(backoff_ * 2, kBackoffMin, kBackoffMax);
    retry_at_ = Deadline::Clock::now() + absl::ToChronoNanoseconds(backoff_);
  }
  return attempt;
}

absl::StatusOr<std::shared_ptr<Session>> Connection::Attempt(const Deadline& deadline) {
  STEM_ASSIGN(UniqueFd socket, ConnectToNode(target_.path, deadline));
  {
    MutexLock lock(mutex_);
    if (closed_) return Closed();
    attach_socket_ = socket.get();
  }
  absl::StatusOr<Attachment> attachment = Attach(socket.get(), target_.request, target_.spec, deadline);
  {
    MutexLock lock(mutex_);
    attach_socket_ = -1;
    if (closed_) return Closed();
    STEM_TRY(attachment.status());
  }
  STEM_TRY(SameRoot(attachment->grant));
  attachment->socket = std::move(socket);
  const std::shared_ptr<Session> session = Session::Start(target_.path, *std::move(attachment), timers_, counters_);
  bool closed = false;
  {
    MutexLock lock(mutex_);
    closed = closed_;
    opening_ = session;
  }
  if (closed) session->Cancel();
  absl::Status opened = session->AwaitOpened(deadline);
  {
    MutexLock lock(mutex_);
    opening_.reset();
    if (closed_) opened = Closed();
  }
  if (opened.ok()) return session;
  session->Close();
  return opened;
}

// Keys are made under the root: with another, every key that the caller still has would silently miss.
absl::Status Connection::SameRoot(const AttachGrant& grant) const {
  const std::shared_ptr<Session> last = Last();
  if (last == nullptr || (last->grant().root == grant.root && last->grant().space == grant.space))
    return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the root of namespace ", grant.space.ToHex(),
                                                    " changed since Connect; connect anew to hash under it"));
}

absl::Status Connection::Waiting() const {
  if (failure_.ok()) return absl::OkStatus();
  const absl::Duration left = absl::FromChrono(retry_at_ - Deadline::Clock::now());
  if (left <= absl::ZeroDuration()) return absl::OkStatus();
  const absl::StatusCode code =
      absl::IsFailedPrecondition(failure_) ? absl::StatusCode::kFailedPrecondition : absl::StatusCode::kUnavailable;
  return absl::Status(code, absl::StrCat("no node; the next attempt is in ", absl::ToInt64Milliseconds(left),
                                         " ms; the last: ", failure_.message()));
}

std::shared_ptr<Session> Connection::Current() const {
  MutexLock lock(mutex_);
  return session_ != nullptr && session_->lives() ? session_ : nullptr;
}

absl::Status Connection::AttachAllowed() const {
  MutexLock lock(mutex_);
  if (closed_) return Closed();
  if (attaching_) return absl::UnavailableError("no node; another call is attaching to it");
  return Waiting();
}

std::shared_ptr<Session> Connection::Last() const {
  MutexLock lock(mutex_);
  return session_;
}

void Connection::Close() {
  std::shared_ptr<Session> session;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    if (attach_socket_ >= 0) shutdown(attach_socket_, SHUT_RDWR);
    if (opening_ != nullptr) opening_->Cancel();
    while (attaching_) changed_.Wait(mutex_);
    session = session_;
  }
  if (session != nullptr) session->Close();
}

}  // namespace stem
