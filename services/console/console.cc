#include "services/console/console.h"

#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "httplib.h"
#include "services/console/access_token.h"
#include "services/console/page.h"
#include "services/runtime/listen.h"

namespace stem {
namespace {

constexpr absl::Duration kTick = absl::Seconds(1);
constexpr char kJson[] = "application/json; charset=utf-8";
// With the access token. Browsers send a header of this name to another origin only when that allows it, and this one allows none.
constexpr char kOrderHeader[] = "X-Stemcache-Console";

int HttpStatus(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk: return 200;
    case absl::StatusCode::kInvalidArgument: return 400;
    case absl::StatusCode::kUnauthenticated: return 401;
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
  response.set_header("Connection", "close");  // else each of a browser's six would hold a thread while it is idle
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

// What a browser calls this host: "localhost:7401", "127.0.0.1", "[::1]:7401".
bool NamesLoopback(absl::string_view host) {
  const size_t after = host.find(']');
  const size_t colon = host.find(':', after == host.npos ? 0 : after);
  host = host.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[") && !absl::ConsumeSuffix(&host, "]")) return false;
  return IsLoopback({.host = std::string(host), .port = 0});
}

}  // namespace

absl::Status Console::MayAsk(const httplib::Request& request) const {
  const std::string host = request.get_header_value("Host");
  if (!options_.loopback || NamesLoopback(host)) return absl::OkStatus();
  // A page of another site whose name was made to mean this host.
  return absl::PermissionDeniedError(absl::StrCat("this console listens on loopback and was asked as '", host, "'; use http://localhost:PORT/"));
}

absl::Status Console::MayOrder(const httplib::Request& request) const {
  STEM_TRY(MayAsk(request));
  if (options_.admin_token.empty()) return absl::OkStatus();  // and the order is refused, with the reason
  if (!request.has_header(kOrderHeader)) return absl::PermissionDeniedError(absl::StrCat("an order needs the header ", kOrderHeader));
  if (ShowsToken(request.get_header_value(kOrderHeader), options_.admin_token)) return absl::OkStatus();
  return absl::UnauthenticatedError(absl::StrCat("the header ", kOrderHeader, " must be this directory's access token: it is in the file ",
                                                 "beside its --ready-file, or else in its log"));
}

void Console::AnswerOne(int askers_max, const std::function<absl::StatusOr<std::string>()>& answer, httplib::Response& response) {
  if (askers_.fetch_add(1) < askers_max) {
    Reply(answer(), response);
  } else {
    response.set_header("Retry-After", "1");
    Reply(absl::UnavailableError("the console is busy with other questions"), response);
  }
  --askers_;
}

void Console::RouteApi(httplib::Server& http, const char* path, int askers_max, Answer answer) {
  http.Get(path, [this, askers_max, answer](const httplib::Request& request, httplib::Response& response) {
    if (const absl::Status allowed = MayAsk(request); !allowed.ok()) return Reply(allowed, response);
    AnswerOne(askers_max, [&] { return (api_.*answer)(request.params); }, response);
  });
}

void Console::Route(httplib::Server& http) {
  for (const PageFile& file : PageFiles()) {
    http.Get(std::string(file.path), [file](const httplib::Request&, httplib::Response& response) {
      Harden(response);
      response.set_content(file.bytes.data(), file.bytes.size(), std::string(file.content_type));
    });
  }
  RouteApi(http, "/api/about", kAskersMax, &ConsoleApi::About);
  RouteApi(http, "/api/fleet", kAskersMax, &ConsoleApi::Fleet);
  RouteApi(http, "/api/tick", kAskersMax, &ConsoleApi::Tick);
  RouteApi(http, "/api/history", kAskersMax, &ConsoleApi::History);
  RouteApi(http, "/api/nodes", kNodeAskersMax, &ConsoleApi::Nodes);
  RouteApi(http, "/api/requests", kNodeAskersMax, &ConsoleApi::Requests);
  RouteApi(http, "/api/stems", kNodeAskersMax, &ConsoleApi::Stems);
  RouteApi(http, "/api/holders", kNodeAskersMax, &ConsoleApi::Holders);
  RouteApi(http, "/api/curve", kNodeAskersMax, &ConsoleApi::Curve);
  RouteApi(http, "/api/explain", kNodeAskersMax, &ConsoleApi::Explain);
  http.Get("/api/events", [this](const httplib::Request& request, httplib::Response& response) { Follow(request, response); });
  http.Post(R"(/api/nodes/([^/]+)/([a-z]+))", [this](const httplib::Request& request, httplib::Response& response) {
    if (const absl::Status allowed = MayOrder(request); !allowed.ok()) return Reply(allowed, response);
    AnswerOne(kNodeAskersMax, [&] { return api_.Order(request.matches[1].str(), request.matches[2].str(), request.body); }, response);
  });
}

void Console::RouteNone(httplib::Server& http) {
  http.Get(R"(/|/api/.*)", [](const httplib::Request&, httplib::Response& response) {
    Reply(absl::NotFoundError("this directory was started with --console false: it has no console"), response);
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
