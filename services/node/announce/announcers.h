// This node's streams to every directory of a list that may change while it runs: a directory that joins the list gets a stream,
// one that leaves it has its stream ended, the others notice nothing.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/mutex.h"
#include "services/node/announce/announcer.h"
#include "stemcache/v1/node.pb.h"

namespace stem {

// Threads: any.
class Announcers {
 public:
  // What all streams say alike.
  struct Options {
    stemcache::v1::Hello hello;
    absl::Duration heartbeat;
    // For one stream's heartbeats: called for each directory when its stream is made.
    std::function<std::function<stemcache::v1::Heartbeat(bool begins)>()> usage_of_a_stream;
    std::function<void(const std::function<void(const BlockChange&)>&)> engine_cache;  // as of Announcer
  };

  // Borrows all. No stream yet.
  Announcers(const ChangeLog& changes, const SpaceTable& spaces, const ClusterSecret& secret, Logger& log)
      : changes_(changes), spaces_(spaces), secret_(secret), log_(log) {}
  Announcers(const Announcers&) = delete;
  Announcers& operator=(const Announcers&) = delete;

  // Once, before the first SetDirectories: what the node is called and where it is reached is known by now.
  void Introduce(Options options);

  // `directories`: host:port each, all of them. Streams that are to end have ended when this returns: up to one heartbeat
  // for each.
  void SetDirectories(const std::vector<std::string>& directories) ABSL_LOCKS_EXCLUDED(mutex_);

  // By address.
  std::vector<stemcache::v1::NodeStatusReply::Stream> Status() const;

 private:
  const ChangeLog& changes_;
  const SpaceTable& spaces_;
  const ClusterSecret& secret_;
  Logger& log_;
  mutable Mutex mutex_;
  Options options_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::unique_ptr<Announcer>> streams_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
