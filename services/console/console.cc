#include "services/console/console.h"

#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "httplib.h"
#include "services/console/page.h"
#include "services/runtime/listen.h"

namespace stem {
namespace {

constexpr absl::Duration kTick = absl::Seconds(1);
constexpr char kJson[] = "application/json; charset=utf-8";
// Browsers send a header of this name to another origin only when that allows it, and this one allows none.
constexpr char kOrderHeader[] = "X-Stemcache-Console";

int HttpStatus(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk: return 200;
    case absl::StatusCode::kInvalidArgument: return 400;
    case absl::StatusCode::kPermissionDenied: return 403;
    case absl::StatusCode::kNotFound: return 404;
    case absl::StatusCode::kResourceExhausted: return 429;
    case absl::StatusCode::kUnimplemented: return 501;
    case absl::StatusCode::kUnavailable: return 503;
    case absl::StatusCode::kDeadlineExceeded: return 504;
    default: return 500;
  }
}

// Nothing of another host is loaded, sent to, or allowed to frame this.
void Harden(httplib::Response& response) {
  response.set_header("Content-Security-Policy",
                      "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
                      "form-action 'none'; frame-ancestors 'none'");
  response.set_header("X-Content-Type-Options", "nosniff");
  response.set_header("Referrer-Policy", "no-referrer");
  response.set_header("Cache-Control", "no-cache");
}

void Reply(const absl::StatusOr<std::string>& answer, httplib::Response& response) {
  Harden(response);
  response.status = HttpStatus(answer.status().code());
  if (answer.ok()) {
    response.set_content(*answer, kJson);
  } else {
    const std::string why(answer.status().message());
    response.set_content(nlohmann::json{{"error", why}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), kJson);
  }
}

bool NamesLoopback(absl::string_view host) {
  if (absl::StartsWith(host, "[")) return absl::StartsWith(host, "[::1]");
  host = host.substr(0, host.find(':'));
  return host == "localhost" || absl::StartsWith(host, "127.");
}

}  // namespace

absl::Status Console::MayAsk(const httplib::Request& request) const {
  const std::string host = request.get_header_value("Host");
  if (!options_.loopback || NamesLoopback(host)) return absl::OkStatus();
  // A page of another site whose name was made to mean this host.
  return absl::PermissionDeniedError(absl::StrCat("this console listens on loopback and was asked as '", host, "'; use http://localhost:PORT/"));
}

void Console::RouteApi(httplib::Server& http, const char* path, Answer answer) {
  http.Get(path, [this, answer](const httplib::Request& request, httplib::Response& response) {
    const absl::Status allowed = MayAsk(request);
    Reply(allowed.ok() ? (api_.*answer)(request.params) : allowed, response);
  });
}

void Console::Route(httplib::Server& http) {
  for (const PageFile& file : PageFiles()) {
    http.Get(std::string(file.path), [file](const httplib::Request&, httplib::Response& response) {
      Harden(response);
      response.set_content(file.bytes.data(), file.bytes.size(), std::string(file.content_type));
    });
  }
  RouteApi(http, "/api/about", &ConsoleApi::About);
  RouteApi(http, "/api/fleet", &ConsoleApi::Fleet);
  RouteApi(http, "/api/history", &ConsoleApi::History);
  RouteApi(http, "/api/nodes", &ConsoleApi::Nodes);
  RouteApi(http, "/api/requests", &ConsoleApi::Requests);
  RouteApi(http, "/api/stems", &ConsoleApi::Stems);
  RouteApi(http, "/api/curve", &ConsoleApi::Curve);
  RouteApi(http, "/api/explain", &ConsoleApi::Explain);
  http.Get("/api/events", [this](const httplib::Request& request, httplib::Response& response) { Follow(request, response); });
  http.Post(R"(/api/nodes/([^/]+)/([a-z]+))", [this](const httplib::Request& request, httplib::Response& response) {
    absl::Status allowed = MayAsk(request);
    if (allowed.ok() && !request.has_header(kOrderHeader)) {
      allowed = absl::PermissionDeniedError(absl::StrCat("an order needs the header ", kOrderHeader));
    }
    Reply(allowed.ok() ? api_.Order(request.matches[1].str(), request.matches[2].str(), request.body) : allowed, response);
  });
}

void Console::Follow(const httplib::Request& request, httplib::Response& response) {
  if (const absl::Status allowed = MayAsk(request); !allowed.ok()) return Reply(allowed, response);
  if (followers_.fetch_add(1) >= kFollowersMax) {
    --followers_;
    return Reply(absl::UnavailableError(absl::StrCat(kFollowersMax, " browsers follow this directory, its limit")), response);
  }
  Harden(response);
  response.set_chunked_content_provider(
      "text/event-stream",
      [this, first = true](size_t, httplib::DataSink& sink) mutable {
        {
          MutexLock lock(mutex_);
          if (!first && !stopping_) stop_.WaitFor(mutex_, kTick);
          if (stopping_) return false;
        }
        first = false;
        const absl::StatusOr<std::string> tick = api_.Tick();
        const std::string event = tick.ok() ? absl::StrCat("data: ", *tick, "\n\n") : std::string(": no answer\n\n");
        return sink.write(event.data(), event.size());
      },
      [this](bool) { --followers_; });
}

void Console::Stop() {
  MutexLock lock(mutex_);
  stopping_ = true;
  stop_.NotifyAll();
}

}  // namespace stem
