#include "client/directory_stub.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/deadline.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "proto/wire_status.h"

namespace stem {
namespace {

constexpr double kHedgesMax = 10;
constexpr double kHedgesPerAnswer = 0.1;
constexpr absl::Duration kProbeTimeout = absl::Seconds(1);
// Of an intent's question: so much for one directory before the next is asked. What is asked of it is next to nothing.
constexpr absl::Duration kIntendTimeout = absl::Milliseconds(250);

absl::Time Now() { return absl::UnixEpoch() + absl::FromChrono(Deadline::Clock::now().time_since_epoch()); }

// gRPC takes points of the wall clock.
std::chrono::system_clock::time_point WallTime(absl::Duration left) { return absl::ToChronoTime(absl::Now() + left); }

bool CallersFault(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status);
}

absl::Status Unanswered(size_t directories, const absl::Status& last) {
  if (directories == 0) return absl::UnavailableError("no directory is configured");
  return absl::UnavailableError(absl::StrCat("none of ", directories, " directories answered in time",
                                             last.ok() ? "" : absl::StrCat("; the last said: ", last.message())));
}

template <typename Request>
Request RequestFor(const DirectoryStub::Lookup& lookup) {
  Request request;
  request.set_namespace_fingerprint(std::string(lookup.space.bytes()));
  request.set_keys(PackKeys(lookup.keys));
  for (const WantedPart& part : lookup.parts) {
    request.add_parts(part.id);
    request.add_window_blocks(part.window_blocks);
  }
  return request;
}

}  // namespace

// ---- Lookups ------------------------------------------------------------------------------------------------------------

// One lookup: requests to one directory after another, all on one completion queue that the caller's thread serves.
template <typename Request, typename Reply>
class DirectoryStub::Race {
 public:
  using Start = std::unique_ptr<grpc::ClientAsyncResponseReader<Reply>> (Stub::*)(grpc::ClientContext*, const Request&,
                                                                                 grpc::CompletionQueue*);
  using Validate = std::function<absl::Status(const Reply&)>;

  Race(DirectoryStub& owner, Start start, const Request& request, Validate validate, const Deadline& deadline)
      : owner_(owner), start_(start), request_(request), validate_(std::move(validate)), deadline_(deadline) {}
  ~Race() { Settle(); }

  absl::StatusOr<Reply> Run(const std::string& first, const TraceContext& trace) {
    trace_ = trace;
    Choose(first);
    StartNext();
    while (running_ > 0) {
      Attempt* const ended = Next();
      if (ended != nullptr) {
        if (std::optional<absl::StatusOr<Reply>> result = OnEnd(*ended); result.has_value()) return *std::move(result);
      } else if (deadline_.passed() || stale_.has_value()) {
        break;  // a second opinion is not waited for beyond its time
      } else if (next_ < order_.size()) {
        owner_.CountHedge();
        StartNext();
      }
    }
    if (stale_.has_value()) return *std::move(stale_);
    owner_.Count([](DirectoryStubStats& stats) { ++stats.unanswered; });
    return Unanswered(listed_, last_);
  }

 private:
  struct Attempt {
    std::string address;
    std::shared_ptr<Stub> stub;
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientAsyncResponseReader<Reply>> reader;
    Reply reply;
    grpc::Status status;
    absl::Time began;
    absl::Duration patience;
    bool ended = false;
  };

  void Choose(const std::string& first) {
    MutexLock lock(owner_.mutex_);
    ++owner_.stats_.lookups;
    listed_ = owner_.stubs_.size();
    order_ = owner_.choice_.Order(Now());
    if (const auto found = std::find(order_.begin(), order_.end(), first); found != order_.end()) {
      std::rotate(order_.begin(), found, found + 1);
    }
  }

  void StartNext() {
    while (next_ < order_.size()) {
      auto attempt = std::make_unique<Attempt>();
      attempt->address = order_[next_++];
      {
        MutexLock lock(owner_.mutex_);
        attempt->stub = owner_.StubOf(attempt->address);
        attempt->patience = owner_.choice_.Patience(attempt->address);
      }
      if (attempt->stub == nullptr) continue;  // left the list meanwhile
      attempt->began = Now();
      attempt->context.set_deadline(WallTime(deadline_.left()));
      owner_.options_.authorize(attempt->context);
      if (trace_.valid()) attempt->context.AddMetadata(kTraceparent, ToTraceparent(trace_));
      attempt->reader = (attempt->stub.get()->*start_)(&attempt->context, request_, &queue_);
      attempt->reader->Finish(&attempt->reply, &attempt->status, attempt.get());
      // Others need time too, in equal shares.
      const absl::Duration share = deadline_.left() / static_cast<int64_t>(order_.size() - next_ + 1);
      const bool hedge = next_ < order_.size() && owner_.MayHedge();
      wait_until_ = next_ == order_.size() ? absl::InfiniteFuture()
                                           : attempt->began + (hedge ? std::min(share, attempt->patience) : share);
      attempts_.push_back(std::move(attempt));
      ++running_;
      return;
    }
    wait_until_ = absl::InfiniteFuture();
  }

  // The attempt that ended; null when it is time for something else.
  Attempt* Next() {
    void* tag = nullptr;
    bool ok = false;
    const absl::Duration wait = std::clamp(wait_until_ - Now(), absl::ZeroDuration(),
                                           std::max(absl::ZeroDuration(), deadline_.left()));
    if (queue_.AsyncNext(&tag, &ok, WallTime(wait)) != grpc::CompletionQueue::GOT_EVENT) return nullptr;
    auto* const attempt = static_cast<Attempt*>(tag);
    attempt->ended = true;
    --running_;
    return attempt;
  }

  // What the lookup ends with, if it does.
  std::optional<absl::StatusOr<Reply>> OnEnd(Attempt& attempt) {
    const absl::Time now = Now();
    absl::Status status = FromGrpc(attempt.status);
    if (CallersFault(status)) return status;
    if (status.ok()) status = validate_(attempt.reply);
    if (!status.ok()) {
      last_ = status;
      const bool too_short = absl::IsDeadlineExceeded(status) && now - attempt.began < attempt.patience;
      if (!too_short) {
        MutexLock lock(owner_.mutex_);
        owner_.choice_.OnFailure(attempt.address, now);
      }
      if (running_ == 0 && next_ < order_.size() && !deadline_.passed()) {
        owner_.Count([](DirectoryStubStats& stats) { ++stats.failovers; });
        StartNext();
      }
      return std::nullopt;
    }
    const bool exact = attempt.reply.truth().exact();
    if (OnAnswer(attempt, exact, now)) return std::move(attempt.reply);
    if (!stale_.has_value()) stale_ = std::move(attempt.reply);
    if (running_ == 0) {
      owner_.Count([](DirectoryStubStats& stats) { ++stats.second_opinions; });
      StartNext();
    }
    wait_until_ = std::min(wait_until_, now + owner_.options_.second_opinion_max);
    return std::nullopt;
  }

  // True: this answer is the one.
  bool OnAnswer(const Attempt& attempt, bool exact, absl::Time now) {
    MutexLock lock(owner_.mutex_);
    owner_.choice_.OnAnswer(attempt.address, now - attempt.began, now);
    owner_.choice_.OnTruth(attempt.address, exact, now);
    owner_.hedges_left_ = std::min(kHedgesMax, owner_.hedges_left_ + kHedgesPerAnswer);
    if (exact || stale_.has_value() || deadline_.passed()) return true;
    // Of the others one is asked that may know better.
    std::vector<std::string> better;
    for (size_t i = next_; i < order_.size() && better.empty(); ++i) {
      if (owner_.choice_.MayBeExact(order_[i], now)) better.push_back(order_[i]);
    }
    order_ = std::move(better);
    next_ = 0;
    return running_ == 0 && order_.empty();
  }

  // Nothing may be written to an attempt once it is freed. The silent are remembered.
  void Settle() {
    const absl::Time now = Now();
    for (const auto& attempt : attempts_) {
      if (attempt->ended) continue;
      attempt->context.TryCancel();
      if (now - attempt->began < attempt->patience) continue;
      MutexLock lock(owner_.mutex_);
      owner_.choice_.OnFailure(attempt->address, now);
    }
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  DirectoryStub& owner_;
  const Start start_;
  const Request& request_;
  const Validate validate_;
  const Deadline deadline_;
  TraceContext trace_;
  grpc::CompletionQueue queue_;
  std::vector<std::string> order_;
  size_t listed_ = 0;
  size_t next_ = 0;  // in order_: who is asked next
  size_t running_ = 0;
  absl::Time wait_until_;  // then the next is asked, or a second opinion given up
  std::vector<std::unique_ptr<Attempt>> attempts_;
  std::optional<Reply> stale_;
  absl::Status last_;
};

absl::StatusOr<v1::MatchReply> DirectoryStub::Match(const Lookup& lookup, absl::Time deadline) {
  SendProbes();
  auto request = RequestFor<v1::MatchRequest>(lookup);
  if (lookup.probe.has_value()) request.set_probe(std::string(lookup.probe->bytes()));
  request.set_requester(options_.requester);
  const size_t blocks = lookup.keys.size();
  Race<v1::MatchRequest, v1::MatchReply> race(
      *this, &Stub::AsyncMatch, request,
      [blocks](const v1::MatchReply& reply) { return ValidateMatchReply(reply, blocks); }, Deadline(deadline));
  return race.Run(lookup.first, lookup.trace);
}

absl::StatusOr<v1::ScoreReply> DirectoryStub::Score(const Lookup& lookup, std::span<const std::string> candidates,
                                                    absl::Time deadline) {
  SendProbes();
  auto request = RequestFor<v1::ScoreRequest>(lookup);
  for (const std::string& candidate : candidates) request.add_candidates(candidate);
  Race<v1::ScoreRequest, v1::ScoreReply> race(
      *this, &Stub::AsyncScore, request,
      [blocks = lookup.keys.size(), count = candidates.size()](const v1::ScoreReply& reply) {
        return ValidateScoreReply(reply, count, blocks);
      },
      Deadline(deadline));
  return race.Run(lookup.first, lookup.trace);
}

// ---- The list -----------------------------------------------------------------------------------------------------------

DirectoryStub::DirectoryStub(Options options)
    : options_(std::move(options)), choice_(options_.host), hedges_left_(kHedgesMax) {}

DirectoryStub::~DirectoryStub() { Stop(); }

absl::Status DirectoryStub::SetDirectories(const std::vector<std::string>& addresses) {
  if (addresses.size() > kDirectoriesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(addresses.size(), " directories are listed; list at most ", kDirectoriesMax));
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);  // failing over is done here
  // A restarted directory must be found again within its clients' patience, not gRPC's two minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  std::map<std::string, std::shared_ptr<Stub>> stubs;
  MutexLock lock(mutex_);
  for (const std::string& address : addresses) {
    std::shared_ptr<Stub>& stub = stubs[address];
    if (stub == nullptr) stub = StubOf(address);
    if (stub != nullptr) continue;
    stub = v1::Directory::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  }
  stubs_.swap(stubs);
  choice_.Set(addresses);
  return absl::OkStatus();
}

std::vector<DirectoryChoice::State> DirectoryStub::Status() const {
  MutexLock lock(mutex_);
  return choice_.Status(Now());
}

DirectoryStubStats DirectoryStub::stats() const {
  MutexLock lock(mutex_);
  return stats_;
}

std::shared_ptr<DirectoryStub::Stub> DirectoryStub::StubOf(const std::string& address) const {
  const auto found = stubs_.find(address);
  return found == stubs_.end() ? nullptr : found->second;
}

template <typename Change>
void DirectoryStub::Count(Change change) {
  MutexLock lock(mutex_);
  change(stats_);
}

bool DirectoryStub::MayHedge() const {
  MutexLock lock(mutex_);
  return hedges_left_ >= 1;
}

void DirectoryStub::CountHedge() {
  MutexLock lock(mutex_);
  ++stats_.hedges;
  hedges_left_ = std::max(0.0, hedges_left_ - 1);
}

// ---- Asynchronous calls -------------------------------------------------------------------------------------------------

struct DirectoryStub::Outstanding {
  virtual ~Outstanding() = default;
  virtual void End() = 0;

  std::shared_ptr<Stub> stub;
  grpc::ClientContext context;
  grpc::Status status;
};

template <typename Reply>
struct DirectoryStub::OutstandingCall final : Outstanding {
  void End() override { done(FromGrpc(status), reply); }

  Reply reply;
  std::unique_ptr<grpc::ClientAsyncResponseReader<Reply>> reader;
  std::function<void(const absl::Status&, Reply&)> done;
};

template <typename Reply, typename Start, typename Request, typename Done>
bool DirectoryStub::StartCall(Start start, const std::string& address, const Request& request, absl::Duration limit,
                              Done done) {
  auto call = std::make_unique<OutstandingCall<Reply>>();
  call->done = std::move(done);
  call->context.set_deadline(WallTime(limit));
  options_.authorize(call->context);
  // All of it under the lock, which is what hands the call over to the thread.
  MutexLock lock(mutex_);
  call->stub = StubOf(address);
  if (stopping_ || call->stub == nullptr) return false;
  if (!thread_.joinable()) thread_ = std::thread([this] { Serve(); });
  const uintptr_t id = ++last_call_;
  call->reader = (call->stub.get()->*start)(&call->context, request, &queue_);
  call->reader->Finish(&call->reply, &call->status, reinterpret_cast<void*>(id));
  outstanding_.emplace(id, std::move(call));
  return true;
}

void DirectoryStub::Serve() {
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
    std::unique_ptr<Outstanding> call;
    {
      MutexLock lock(mutex_);
      const auto found = outstanding_.find(reinterpret_cast<uintptr_t>(tag));
      call = std::move(found->second);
      outstanding_.erase(found);
    }
    call->End();
  }
}

void DirectoryStub::Stop() {
  std::thread thread;
  {
    MutexLock lock(mutex_);
    if (!stopping_) queue_.Shutdown();
    stopping_ = true;
    for (const auto& [id, call] : outstanding_) call->context.TryCancel();
    thread = std::move(thread_);
  }
  if (thread.joinable()) thread.join();
}

// ---- Probes -------------------------------------------------------------------------------------------------------------

void DirectoryStub::SendProbes() {
  std::vector<std::string> due;
  {
    MutexLock lock(mutex_);
    due = choice_.TakeProbes(Now());
    stats_.probes += due.size();
  }
  // Of one key for nobody: the cheapest question whose answer says how sure it is.
  v1::ScoreRequest request;
  if (due.empty()) return;
  request.set_namespace_fingerprint(std::string(sizeof(NamespaceFingerprint), '\0'));
  request.set_keys(std::string(sizeof(BlockKey), '\0'));
  request.add_candidates(std::string(1, '-'));
  for (const std::string& address : due) {
    StartCall<v1::ScoreReply>(&Stub::AsyncScore, address, request, kProbeTimeout,
                              [this, address, began = Now()](const absl::Status& answer, const v1::ScoreReply& reply) {
                                OnProbeAnswer(address, began, answer, reply.truth().exact());
                              });
  }
}

void DirectoryStub::OnProbeAnswer(const std::string& address, absl::Time began, const absl::Status& answer, bool exact) {
  const absl::Time now = Now();
  MutexLock lock(mutex_);
  if (answer.ok()) {
    choice_.OnProbed(address, now - began, now);
    choice_.OnTruth(address, exact, now);
  } else {
    choice_.OnFailure(address, now);
  }
}

// ---- Intents ------------------------------------------------------------------------------------------------------------

struct DirectoryStub::IntendCall {
  explicit IntendCall(absl::Time wall) : deadline(wall) {}

  v1::IntendRequest request;
  OnIntended done;
  Deadline deadline;
  std::vector<std::string> order;
  size_t next = 0;
  absl::Status last;
};

void DirectoryStub::Intend(Intent intent, absl::Time deadline, OnIntended done) {
  auto call = std::make_shared<IntendCall>(deadline);
  call->request = std::move(intent.request);
  call->request.set_requester(options_.requester);
  call->done = std::move(done);
  {
    MutexLock lock(mutex_);
    call->order = intent.at.empty() ? choice_.OrderFor(intent.route, Now()) : std::vector<std::string>{intent.at};
  }
  TryIntend(call);
}

void DirectoryStub::TryIntend(const std::shared_ptr<IntendCall>& call) {
  while (call->next < call->order.size() && !call->deadline.passed()) {
    const absl::Duration limit =
        std::min(call->deadline.left(), absl::Milliseconds(call->request.wait_ms()) + kIntendTimeout);
    const bool started = StartCall<v1::IntendReply>(
        &Stub::AsyncIntend, call->order[call->next++], call->request, limit,
        [this, call](const absl::Status& answer, v1::IntendReply& reply) { OnIntendAnswer(call, answer, reply); });
    if (started) return;  // from here on the call is the other thread's
  }
  call->done(Unanswered(call->order.size(), call->last));
}

void DirectoryStub::OnIntendAnswer(const std::shared_ptr<IntendCall>& call, const absl::Status& answer,
                                   v1::IntendReply& reply) {
  const std::string& address = call->order[call->next - 1];
  absl::Status status = answer;
  if (status.ok()) status = ValidateIntendReply(reply);
  if (status.ok()) return call->done(Intended{.reply = std::move(reply), .directory = address});
  if (CallersFault(status)) return call->done(status);
  const bool silent = absl::IsDeadlineExceeded(status) && !call->deadline.passed();
  if (silent || absl::IsUnavailable(status)) {
    MutexLock lock(mutex_);
    choice_.OnFailure(address, Now());
  }
  call->last = status;
  TryIntend(call);
}

}  // namespace stem
