// This node's stream to one directory: hello, snapshot, then every change in order and a heartbeat; again from the start when
// the directory asks, falls too far behind, or comes back. One thread, and one that reads replies.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "grpcpp/client_context.h"
#include "proto/mutex.h"
#include "services/node/announce/change_log.h"
#include "services/node/spaces/space_table.h"
#include "services/runtime/cluster_secret.h"
#include "services/runtime/log.h"
#include "stemcache/v1/directory.grpc.pb.h"

namespace stem {

class Announcer {
 public:
  struct Options {
    std::string directory;  // host:port
    stemcache::v1::Hello hello;
    absl::Duration heartbeat;  // at least this often something is sent
    // What heartbeats say; `begins`: it is the first of a stream. The announcer sets the sequence.
    std::function<stemcache::v1::Heartbeat(bool begins)> usage;
    std::function<void(const std::function<void(const BlockChange&)>&)> engine_cache;  // adds that are no pool's; may be empty
  };

  // Borrows all but the options; starts its thread.
  Announcer(Options options, const ChangeLog& changes, const SpaceTable& spaces, const ClusterSecret& secret, Logger& log);
  ~Announcer();
  Announcer(const Announcer&) = delete;
  Announcer& operator=(const Announcer&) = delete;

  const std::string& directory() const { return options_.directory; }
  bool connected() const { return connected_.load(); }
  uint64_t acknowledged() const { return acknowledged_.load(); }

 private:
  using Stream = grpc::ClientReaderWriter<stemcache::v1::AnnounceMessage, stemcache::v1::AnnounceReply>;
  // Numbers that stand for namespaces on one stream.
  struct Interned;

  void Run();
  // Speaks one stream until it breaks or the node stops.
  absl::Status Speak(stemcache::v1::Directory::Stub& stub);
  bool SendSnapshot(Stream& stream, Interned& interned, uint64_t sequence);
  // Waits until the directory has taken all but one of `sent` chunks; for a while at most, as it may never say so. False when the
  // snapshot is not to be gone on with.
  bool AwaitChunksTaken(uint32_t sent);
  bool SendChanges(Stream& stream, Interned& interned, const std::vector<BlockChange>& changes, uint64_t first) const;
  void ReadReplies(Stream& stream);

  Options options_;
  const ChangeLog& changes_;
  const SpaceTable& spaces_;
  const ClusterSecret& secret_;
  Logger& log_;
  const absl::Time started_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> connected_{false};
  std::atomic<bool> resync_{false};  // the directory asked for a snapshot
  std::atomic<uint64_t> acknowledged_{0};
  Mutex mutex_;
  CondVar stopped_;
  CondVar chunk_taken_;
  uint32_t chunks_taken_ ABSL_GUARDED_BY(mutex_) = 0;  // of the snapshot that is being sent
  bool replies_ended_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of the open stream, to end it
  std::thread thread_;
};

}  // namespace stem
