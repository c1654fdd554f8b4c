#include "services/node/announce/announcers.h"

#include <set>
#include <utility>

namespace stem {

void Announcers::Introduce(Options options) {
  MutexLock lock(mutex_);
  options_ = std::move(options);
}

void Announcers::SetDirectories(const std::vector<std::string>& directories) {
  const std::set<std::string> wanted(directories.begin(), directories.end());
  std::vector<std::unique_ptr<Announcer>> ended;  // outside the lock: their threads are waited for
  {
    MutexLock lock(mutex_);
    for (auto it = streams_.begin(); it != streams_.end();) {
      if (wanted.contains(it->first)) {
        ++it;
        continue;
      }
      ended.push_back(std::move(it->second));
      it = streams_.erase(it);
    }
    for (const std::string& directory : wanted) {
      std::unique_ptr<Announcer>& stream = streams_[directory];
      if (stream != nullptr) continue;
      stream = std::make_unique<Announcer>(Announcer::Options{.directory = directory,
                                                              .hello = options_.hello,
                                                              .heartbeat = options_.heartbeat,
                                                              .usage = options_.usage_of_a_stream(),
                                                              .engine_cache = options_.engine_cache},
                                           changes_, spaces_, secret_, log_);
    }
  }
}

std::vector<stemcache::v1::NodeStatusReply::Stream> Announcers::Status() const {
  std::vector<stemcache::v1::NodeStatusReply::Stream> status;
  MutexLock lock(mutex_);
  for (const auto& [directory, stream] : streams_) {
    stemcache::v1::NodeStatusReply::Stream& each = status.emplace_back();
    each.set_directory(directory);
    each.set_connected(stream->connected());
    each.set_sequence_acknowledged(stream->acknowledged());
  }
  return status;
}

}  // namespace stem
