// The console's HTTP side: the page, its API, and a stream of what changes. Read-only unless it is told to take orders, which it does from this
// host alone.
#pragma once

#include <atomic>
#include <functional>
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

// Who are answered at a time. Of the HTTP server's threads some always stay for /healthz and /metrics, however slow nodes are.
inline constexpr int kFollowersMax = 16;    // told of what changes
inline constexpr int kAskersMax = 6;        // of the API
inline constexpr int kNodeAskersMax = 4;    // of those, with a question or an order that goes to nodes
inline constexpr size_t kConsoleThreads = kFollowersMax + kAskersMax + 4;

class Console {
 public:
  struct Options {
    std::string admin_token;  // takes orders from who shows it, and then the server must listen on loopback; empty = takes none
    bool loopback = true;     // the server listens there: browsers that came by another name are refused
  };
  // `directory`: a channel to this directory. `secret` is borrowed.
  Console(std::shared_ptr<grpc::Channel> directory, const ClusterSecret& secret, const Options& options)
      : options_(options), fleet_(std::move(directory), secret), api_(fleet_, !options.admin_token.empty()) {}
  // After the server that it serves.
  ~Console() = default;
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  // Adds what it serves; before the server starts. Threads: the server's.
  void Route(httplib::Server& http);
  // In the place of a console that is not wanted: says so.
  static void RouteNone(httplib::Server& http);
  // Ends the streams; before the server stops.
  void Stop();

 private:
  using Answer = absl::StatusOr<std::string> (ConsoleApi::*)(const Parameters&);

  void RouteApi(httplib::Server& http, const char* path, int askers_max, Answer answer);
  absl::Status MayAsk(const httplib::Request& request) const;
  absl::Status MayOrder(const httplib::Request& request) const;
  // Replies with what `answer` returns, unless so many are answered already.
  void AnswerOne(int askers_max, const std::function<absl::StatusOr<std::string>()>& answer, httplib::Response& response);
  void Follow(const httplib::Request& request, httplib::Response& response);

  const Options options_;
  FleetQuestions fleet_;
  ConsoleApi api_;
  std::atomic<int> followers_{0};
  std::atomic<int> askers_{0};
  Mutex mutex_;
  CondVar stop_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace stem
