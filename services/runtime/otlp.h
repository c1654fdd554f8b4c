// OTLP over HTTP, one collector: spans as protobuf, posted to /v1/traces. Of Tracer's thread alone.
// Source: OpenTelemetry Protocol 1.x, "OTLP/HTTP".
#pragma once

#include <memory>
#include <span>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/status.h"
#include "services/runtime/listen.h"

namespace httplib {
class Client;
}

namespace stem {

struct Span;

struct OtlpUrl {
  HostPort address;
  std::string path;  // "/v1/traces" where the text names none
};

// "http://host:port[/path]". Errors: InvalidArgument.
absl::StatusOr<OtlpUrl> ParseOtlpUrl(absl::string_view text);

// Who sends: attributes of every span.
struct OtlpSender {
  std::string service;
  std::string instance;
};

class OtlpClient {
 public:
  OtlpClient(const OtlpUrl& url, OtlpSender sender);
  ~OtlpClient();
  OtlpClient(const OtlpClient&) = delete;
  OtlpClient& operator=(const OtlpClient&) = delete;

  std::string Encode(std::span<const Span> spans) const;

  struct Outcome {
    absl::Status status;               // Unavailable: it may do later; InvalidArgument: it never will
    absl::Duration retry_after;        // that the collector asked for
    uint64_t rejected_spans = 0;       // of a batch that was taken
  };
  // Takes two seconds at most to connect, and as much to send and to be answered.
  Outcome Post(const std::string& body);

 private:
  const std::string path_;
  const OtlpSender sender_;
  const std::string host_;  // this machine's name
  const std::unique_ptr<httplib::Client> http_;
};

}  // namespace stem
