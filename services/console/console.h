// The console's HTTP side: the page, its API, and a stream of what changes. Read-only unless it is told to take orders, which it does from this
// host alone.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "proto/mutex.h"
#include "services/console/console_api.h"

namespace httplib {
class Server;
struct Request;
struct Response;
}  // namespace httplib

namespace stem {

inline constexpr int kFollowersMax = 16;                            // who are told of what changes, at a time
inline constexpr size_t kConsoleThreads = kFollowersMax + 8;        // of the HTTP server: a follower holds one

class Console {
 public:
  struct Options {
    bool admin = false;     // takes orders; then the server must listen on loopback
    bool loopback = true;   // the server listens there: browsers that came by another name are refused
  };
  // `directory`: a channel to this directory. `secret` is borrowed.
  Console(std::shared_ptr<grpc::Channel> directory, const ClusterSecret& secret, const Options& options)
      : options_(options), fleet_(std::move(directory), secret), api_(fleet_, options.admin) {}
  // After the server that it serves.
  ~Console() = default;
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  // Adds what it serves; before the server starts. Threads: the server's.
  void Route(httplib::Server& http);
  // Ends the streams; before the server stops.
  void Stop();

 private:
  using Answer = absl::StatusOr<std::string> (ConsoleApi::*)(const Parameters&);

  void RouteApi(httplib::Server& http, const char* path, Answer answer);
  absl::Status MayAsk(const httplib::Request& request) const;
  void Follow(const httplib::Request& request, httplib::Response& response);

  const Options options_;
  FleetQuestions fleet_;
  ConsoleApi api_;
  std::atomic<int> followers_{0};
  Mutex mutex_;
  CondVar stop_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace stem
