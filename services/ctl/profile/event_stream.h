// The server-sent events of a streamed completion, as they arrive. Grammar: HTML standard, 9.2; chunks as OpenAI's API reference has them.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "absl/strings/string_view.h"
#include "services/ctl/profile/endpoint.h"

namespace stem::profile {

class EventStream {
 public:
  // Fills `*completion`, which must outlive it. Times count from `begun`.
  EventStream(Completion* completion, const Moments& moments, absl::Time begun)
      : completion_(*completion), moments_(moments), begun_(begun) {}

  void Feed(absl::string_view bytes);
  // After the last byte. `tokens_asked`: 0 = no limit was given.
  void End(uint64_t tokens_asked);

  // It is no stream of completions: there is no use in reading on.
  bool broken() const { return !why_.empty(); }
  const std::string& why_broken() const { return why_; }

 private:
  void Line(absl::string_view line);
  void Chunk(const nlohmann::json& chunk);
  void Token(const nlohmann::json& choice);
  void Usage(const nlohmann::json& usage);

  Completion& completion_;
  const Moments moments_;
  const absl::Time begun_;
  absl::Time last_;
  std::string rest_;  // of a line that is not whole yet
  std::string why_;
  bool done_ = false, usage_ = false;
};

}  // namespace stem::profile
