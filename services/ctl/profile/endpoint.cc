#include "services/ctl/profile/endpoint.h"

#include <algorithm>
#include <thread>

#include <httplib.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "proto/mutex.h"
#include "services/ctl/profile/event_stream.h"

namespace stem::profile {
namespace {

constexpr size_t kErrorChars = 300;

// Ends a client's request when it takes too long: the library's time-outs are for each read, which a slow sender resets.
class Limit {
 public:
  Limit(httplib::Client& client, absl::Duration limit) : thread_([this, &client, limit] { Watch(client, limit); }) {}
  ~Limit() {
    {
      const MutexLock lock(mutex_);
      done_ = true;
    }
    changed_.NotifyAll();
  }

  bool passed() {
    const MutexLock lock(mutex_);
    return passed_;
  }

 private:
  void Watch(httplib::Client& client, absl::Duration limit) {
    const absl::Time end = absl::Now() + limit;
    const MutexLock lock(mutex_);
    while (!done_ && !passed_) {
      const absl::Duration left = end - absl::Now();
      passed_ = left <= absl::ZeroDuration();
      if (!passed_) changed_.WaitFor(mutex_, left);
    }
    if (!done_) client.stop();
  }

  Mutex mutex_;
  CondVar changed_;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  bool passed_ ABSL_GUARDED_BY(mutex_) = false;
  std::jthread thread_;  // last: it uses the others
};

void Configure(httplib::Client& client, absl::Duration limit, const std::string& api_key) {
  const auto whole = absl::ToChronoMicroseconds(limit);
  client.set_connection_timeout(absl::ToChronoMicroseconds(std::min(limit, absl::Seconds(10))));
  client.set_read_timeout(whole);
  client.set_write_timeout(whole);
  client.set_follow_location(false);
  client.set_decompress(true);
  if (!api_key.empty()) client.set_bearer_token_auth(api_key);
}

std::string Shortened(std::string text) {
  for (char& letter : text) letter = static_cast<unsigned char>(letter) < 0x20 ? ' ' : letter;
  if (text.size() > kErrorChars) text = absl::StrCat(text.substr(0, kErrorChars), "...");
  return text;
}

// What went wrong, in a line; empty when the answer is 200 and whole.
std::string ErrorOf(const httplib::Result& result, bool limit_passed, absl::Duration limit, const std::string& body) {
  if (limit_passed) return absl::StrCat("no whole answer within ", absl::FormatDuration(limit));
  if (!result) return absl::StrCat("no answer: ", httplib::to_string(result.error()));
  if (result->status == 200) return "";
  return absl::StrCat("status ", result->status, ": ", Shortened(body));
}

}  // namespace

absl::StatusOr<Endpoint> Endpoint::Parse(const std::string& url, const std::string& api_key, absl::Duration limit) {
  Endpoint endpoint;
  absl::string_view rest = url;
  const bool secure = absl::ConsumePrefix(&rest, "https://");
  if (!secure && !absl::ConsumePrefix(&rest, "http://")) {
    return absl::InvalidArgumentError(absl::StrCat("'", url, "' is no URL of an endpoint; it is like http://127.0.0.1:8000"));
  }
  const size_t slash = rest.find('/');
  absl::string_view authority = rest.substr(0, slash);
  endpoint.prefix_ = slash == absl::string_view::npos ? "" : std::string(rest.substr(slash));
  while (absl::EndsWith(endpoint.prefix_, "/")) endpoint.prefix_.pop_back();
  if (endpoint.prefix_.empty()) endpoint.prefix_ = "/v1";
  const size_t colon = authority.rfind(':');
  const bool has_port = colon != absl::string_view::npos && authority.find(']', colon) == absl::string_view::npos;
  endpoint.port_ = secure ? 443 : 80;
  if (has_port && (!absl::SimpleAtoi(authority.substr(colon + 1), &endpoint.port_) || endpoint.port_ < 1 || endpoint.port_ > 65535)) {
    return absl::InvalidArgumentError(absl::StrCat("'", url, "' has no port between 1 and 65535"));
  }
  endpoint.host_ = std::string(has_port ? authority.substr(0, colon) : authority);
  if (endpoint.host_.empty()) return absl::InvalidArgumentError(absl::StrCat("'", url, "' names no host"));
  endpoint.origin_ = absl::StrCat(secure ? "https://" : "http://", endpoint.host_, ":", endpoint.port_);
  endpoint.url_ = url;
  endpoint.api_key_ = api_key;
  endpoint.limit_ = limit;
  return endpoint;
}

bool Endpoint::local() const { return host_ == "127.0.0.1" || host_ == "localhost" || host_ == "[::1]"; }

absl::StatusOr<std::string> Endpoint::Get(const std::string& path) const {
  httplib::Client client(origin_);
  Configure(client, limit_, api_key_);
  std::string body;
  Limit limit(client, limit_);
  const httplib::Result result = client.Get(path, [&](const char* data, size_t size) {
    body.append(data, size);
    return body.size() <= kAnswerBytesMax;
  });
  const std::string error = ErrorOf(result, limit.passed(), limit_, body);
  if (limit.passed()) return absl::DeadlineExceededError(absl::StrCat(origin_, path, ": ", error));
  if (!error.empty()) return absl::UnavailableError(absl::StrCat(origin_, path, ": ", error));
  return body;
}

Completion Endpoint::Stream(const std::string& path, nlohmann::json body, const Moments& moments) const {
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  httplib::Client client(origin_);
  Configure(client, limit_, api_key_);
  Completion completion;
  EventStream stream(&completion, moments, absl::Now());
  httplib::Request request;
  request.method = "POST";
  request.path = absl::StrCat(prefix_, path);
  request.body = body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  request.set_header("Content-Type", "application/json");
  std::string beginning;  // of the body: an error's text
  size_t received = 0;
  request.content_receiver = [&](const char* data, size_t size, uint64_t, uint64_t) {
    received += size;
    if (beginning.size() < kErrorChars) beginning.append(data, size);
    stream.Feed(absl::string_view(data, size));
    return received <= kAnswerBytesMax && !stream.broken();
  };
  Limit limit(client, limit_);
  const httplib::Result result = client.send(request);
  completion.http_status = result ? result->status : 0;
  completion.error = received > kAnswerBytesMax ? absl::StrCat("more than ", kAnswerBytesMax >> 20, " MiB of answer")
                     : stream.broken()          ? stream.why_broken()
                                                : ErrorOf(result, limit.passed(), limit_, beginning);
  const uint64_t asked = body.value("max_tokens", uint64_t{0});
  stream.End(asked);
  if (completion.error.empty() && completion.pieces == 0) {
    completion.error = absl::StrCat("status 200, but no token came: ", Shortened(beginning));
  }
  return completion;
}

Completion Endpoint::Raw(const std::string& path, const std::string& body) const {
  httplib::Client client(origin_);
  Configure(client, limit_, api_key_);
  Completion completion;
  httplib::Request request;
  request.method = "POST";
  request.path = absl::StrCat(prefix_, path);
  request.body = body;
  request.set_header("Content-Type", "application/json");
  std::string answer;
  size_t received = 0;
  request.content_receiver = [&](const char* data, size_t size, uint64_t, uint64_t) {
    if (answer.size() < kErrorChars) answer.append(data, std::min(size, kErrorChars));
    return (received += size) <= kAnswerBytesMax;
  };
  const absl::Time begun = absl::Now();
  Limit limit(client, limit_);
  const httplib::Result result = client.send(request);
  completion.timing.total = absl::Now() - begun;
  completion.http_status = result ? result->status : 0;
  completion.error = ErrorOf(result, limit.passed(), limit_, answer);
  return completion;
}

}  // namespace stem::profile
