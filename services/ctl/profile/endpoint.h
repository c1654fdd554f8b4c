// An OpenAI-compatible endpoint, asked once at a time: what came, when, and what was wrong with it. Nothing it sends can hold a call longer
// than its limit or take more memory than kAnswerBytesMax.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/time/time.h"
#include "proto/status.h"

namespace stem::profile {

inline constexpr size_t kAnswerBytesMax = size_t{64} << 20;

struct Timing {
  absl::Duration first;              // from sending to the first token
  absl::Duration total;
  std::vector<double> gaps_s;        // between arrivals of tokens after the first
};

struct Completion {
  int http_status = 0;               // 0 = no answer
  std::string error;                 // empty: a whole answer came
  Timing timing;
  uint64_t prompt_tokens = 0;        // as the server says; 0 = it does not
  uint64_t cached_tokens = 0;        // of them, as the server says
  uint64_t completion_tokens = 0;    // as the server says, else the pieces that came
  uint64_t pieces = 0;               // of the stream that carried a token
  std::string text;
  std::vector<std::string> tokens;   // with logprobs
  std::vector<double> logprobs;
  std::vector<std::string> oddities;  // what the server said that does not fit together

  bool ok() const { return error.empty(); }
};

struct Moments {
  std::function<void()> first_token;  // may be empty
};

class Endpoint {
 public:
  // `url`: http[s]://host[:port][/v1]. Errors: InvalidArgument.
  static absl::StatusOr<Endpoint> Parse(const std::string& url, const std::string& api_key, absl::Duration limit);

  // Reads a page. Errors: Unavailable (no answer, or not 200), DeadlineExceeded.
  absl::StatusOr<std::string> Get(const std::string& path) const;

  // Streams one completion; `body` as /completions or /chat/completions take it, without "stream". Never fails: see Completion::error.
  Completion Stream(const std::string& path, nlohmann::json body, const Moments& moments) const;

  // Sends bytes as they are: status of the answer, or 0 and why there was none.
  Completion Raw(const std::string& path, const std::string& body) const;

  const std::string& url() const { return url_; }
  const std::string& origin() const { return origin_; }  // scheme://host:port
  const std::string& prefix() const { return prefix_; }  // "/v1"
  bool local() const;
  int port() const { return port_; }

 private:
  Endpoint() = default;

  std::string url_, origin_, host_, prefix_, api_key_;
  int port_ = 0;
  absl::Duration limit_;
};

}  // namespace stem::profile
