// One session with one incarnation of the node: the stream that carries requests and answers, and the attach socket
// whose end means that the node is gone. Never reconnects; connection.h replaces it.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "client/attach.h"
#include "client/counters.h"
#include "client/deadline.h"
#include "client/outcome.h"
#include "client/timers.h"
#include "grpcpp/grpcpp.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "stemcache/v1/node.grpc.pb.h"

namespace stem {

class StemState;

// Threads: any. One reader thread polls the stream's completion queue and runs every answer; writes never block.
class Session : public std::enable_shared_from_this<Session> {
 public:
  static constexpr size_t kRequestsMax = 4096;      // calls and stems at a time
  static constexpr size_t kOutBytesMax = 16 << 20;  // waiting to be written

  static constexpr absl::Duration kGotWait = absl::Milliseconds(10);
  static constexpr absl::Duration kFarewellMax = absl::Milliseconds(100);

  using OnReply = std::function<void(absl::StatusOr<v1::NodeMessage>)>;

  // What to tell the node when a call expires before its answer.
  enum class Undo { kNone, kRelease, kAbandon };

  struct Request {
    v1::ClientMessage message;  // request_id and deadline_us are set by Call
    Undo undo = Undo::kNone;
    std::shared_ptr<void> held;  // kept until the node answered or is gone, even when the call expired
    bool timed = false;          // expires by itself; else the caller calls Expire
    OnReply done;                // runs exactly once, on the reader, or in Expire
  };

  // Starts the stream over the node's Unix socket `path`; `attachment` is the session's from now on.
  static std::shared_ptr<Session> Start(const std::string& path, Attachment attachment, Timers& timers,
                                        std::shared_ptr<Counters> counters);
  ~Session();

  // Sends Open and waits for the answer. Errors: DeadlineExceeded, Unavailable, what the node refused with.
  absl::Status AwaitOpened(const Deadline& deadline);

  // The request's id. Errors (then `done` never runs): Unavailable (ended), DeadlineExceeded (it had passed), ResourceExhausted.
  absl::StatusOr<uint64_t> Call(Request request, const Deadline& deadline);
  // Ends a call that has no answer yet with DeadlineExceeded; its Undo is sent.
  void Expire(uint64_t request_id);

  // Landed and Lost of this acquire go to `stem`, until Release.
  void Track(uint64_t acquire_id, const std::shared_ptr<StemState>& stem);
  // These never wait; nothing happens when the session has ended.
  void Release(uint64_t acquire_id, std::span<const uint32_t> corrupt, uint32_t payloads_loaded);
  void Abandon(uint64_t reserve_id);
  // Tells the node of a Get that began then and ended now; took_us and began_us_ago are set here. With others, kGotWait later at most. Dropped as a hint.
  void NoteGot(v1::Got::Chain chain, Deadline::Clock::time_point began);
  // A hint: dropped when the session has ended, or half of kOutBytesMax waits to be written.
  void EndConversation(uint64_t conversation);

  bool lives() const { return lives_.load(std::memory_order_acquire); }
  const AttachGrant& grant() const { return attachment_.grant; }
  const std::shared_ptr<SessionMemory>& memory() const { return attachment_.memory; }

  // Begins to end the session; outstanding calls get Unavailable. Never waits.
  void Cancel();
  // Tells the node of what was got last, which takes kFarewellMax at most; then Cancel, and waits for its threads. Not from a callback.
  void Close();

 private:
  struct Pending {
    OnReply done;  // empty once expired: only `held` still waits
    Undo undo = Undo::kNone;
    std::shared_ptr<void> held;
    std::optional<Timers::Id> timer;
  };
  struct Outgoing {
    v1::ClientMessage message;
    size_t bytes = 0;
  };

  Session(Attachment attachment, Timers& timers, std::shared_ptr<Counters> counters);

  void Read();   // the reader thread
  void Watch();  // the thread that listens on the attach socket
  // Takes what came on it; false when it has ended.
  bool TakeOffer();
  void OnMessage();
  void OnWritten(bool ok);
  void Farewell();
  void FinishWhenQuiet() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndAll();
  void Answer(uint64_t request_id, absl::StatusOr<v1::NodeMessage> reply);
  void ToStem(const v1::NodeMessage& message);
  void Enqueue(v1::ClientMessage message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnGotTime();
  void SendGot() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendUndo(Undo undo, uint64_t request_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Attachment attachment_;
  Timers& timers_;
  const std::shared_ptr<Counters> counters_;

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<v1::Node::Stub> stub_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<v1::ClientMessage, v1::NodeMessage>> stream_;
  std::atomic<bool> lives_ = true;
  std::atomic<bool> opened_ = false;
  std::thread reader_;
  std::thread watcher_;

  // The reader's own.
  v1::NodeMessage incoming_;
  grpc::Status finish_status_;

  Mutex mutex_;
  CondVar written_;  // or ended_
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  absl::flat_hash_map<uint64_t, Pending> pending_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, std::weak_ptr<StemState>> stems_ ABSL_GUARDED_BY(mutex_);
  std::deque<Outgoing> out_ ABSL_GUARDED_BY(mutex_);
  size_t out_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  v1::Got got_ ABSL_GUARDED_BY(mutex_);  // to be told
  std::vector<Deadline::Clock::time_point> got_began_ ABSL_GUARDED_BY(mutex_);  // by its chains
  size_t got_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool got_timed_ ABSL_GUARDED_BY(mutex_) = false;  // a timer will send it
  bool started_ ABSL_GUARDED_BY(mutex_) = false;  // the stream takes writes
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;  // one write at a time
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;   // no more writes
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;  // every call has its answer; no more calls
};

}  // namespace stem
