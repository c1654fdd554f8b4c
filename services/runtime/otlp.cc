#include "services/runtime/otlp.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "httplib.h"
#include "opentelemetry/trace.pb.h"
#include "services/runtime/tracing.h"
#include "services/runtime/version.h"

namespace stem {
namespace {

namespace otel = ::stemcache::opentelemetry;

constexpr absl::string_view kScheme = "http://";
constexpr char kContentType[] = "application/x-protobuf";
constexpr time_t kTimeoutSeconds = 2;
constexpr absl::Duration kRetryAfterMax = absl::Seconds(30);
constexpr absl::string_view kUrlForm = "use http://host:port, e.g. http://127.0.0.1:4318";

std::string HostName() {
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) != 0) return "";
  return name;
}

// Big-endian, as the hex digits of traceparent read.
void AppendId(std::string& bytes, uint64_t id) {
  for (int shift = 56; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(id >> shift));
}

void AddText(google::protobuf::RepeatedPtrField<otel::KeyValue>& attributes, const char* key, const std::string& value) {
  if (value.empty()) return;
  otel::KeyValue* const added = attributes.Add();
  added->set_key(key);
  added->mutable_value()->set_string_value(value);
}

// Protobuf's strings are UTF-8, and names come from anywhere.
std::string Utf8(const std::string& text) {
  std::string clean = text;
  std::replace_if(clean.begin(), clean.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x80; }, '?');
  return clean;
}

void Fill(const Span& span, otel::Span& out) {
  AppendId(*out.mutable_trace_id(), span.self.trace_high);
  AppendId(*out.mutable_trace_id(), span.self.trace_low);
  AppendId(*out.mutable_span_id(), span.self.span);
  if (span.parent != 0) AppendId(*out.mutable_parent_span_id(), span.parent);
  out.set_flags(span.self.sampled ? 1 : 0);
  out.set_name(span.name);
  switch (span.kind) {
    case SpanKind::kInternal: out.set_kind(otel::Span::SPAN_KIND_INTERNAL); break;
    case SpanKind::kServer: out.set_kind(otel::Span::SPAN_KIND_SERVER); break;
    case SpanKind::kClient: out.set_kind(otel::Span::SPAN_KIND_CLIENT); break;
  }
  out.set_start_time_unix_nano(static_cast<uint64_t>(absl::ToUnixNanos(span.begin)));
  out.set_end_time_unix_nano(static_cast<uint64_t>(absl::ToUnixNanos(span.end)));
  for (const auto& [key, value] : span.attributes) {
    otel::KeyValue* const added = out.add_attributes();
    added->set_key(key);
    if (const auto* number = std::get_if<int64_t>(&value)) added->mutable_value()->set_int_value(*number);
    if (const auto* flag = std::get_if<bool>(&value)) added->mutable_value()->set_bool_value(*flag);
    if (const auto* text = std::get_if<std::string>(&value)) added->mutable_value()->set_string_value(Utf8(*text));
  }
  if (span.error.empty()) return;
  out.mutable_status()->set_code(otel::Status::STATUS_CODE_ERROR);
  out.mutable_status()->set_message(Utf8(span.error));
}

}  // namespace

absl::StatusOr<OtlpUrl> ParseOtlpUrl(absl::string_view text) {
  if (!absl::StartsWith(text, kScheme)) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' does not begin with http://; ", kUrlForm));
  }
  const absl::string_view rest = text.substr(kScheme.size());
  const size_t slash = std::min(rest.find('/'), rest.size());
  absl::StatusOr<HostPort> address = ParseHostPort(rest.substr(0, slash));
  if (!address.ok() || address->port == 0) return absl::InvalidArgumentError(absl::StrCat("'", text, "' names no host and port; ", kUrlForm));
  OtlpUrl url{.address = *std::move(address), .path = std::string(rest.substr(slash))};
  if (url.path.size() <= 1) url.path = "/v1/traces";
  return url;
}

OtlpClient::OtlpClient(const OtlpUrl& url, OtlpSender sender)
    : path_(url.path),
      sender_(std::move(sender)),
      host_(HostName()),
      http_(std::make_unique<httplib::Client>(url.address.host, url.address.port)) {
  http_->set_keep_alive(true);
  http_->set_connection_timeout(kTimeoutSeconds);
  http_->set_read_timeout(kTimeoutSeconds);
  http_->set_write_timeout(kTimeoutSeconds);
}

OtlpClient::~OtlpClient() = default;

std::string OtlpClient::Encode(std::span<const Span> spans) const {
  otel::ExportTraceServiceRequest request;
  otel::ResourceSpans& of_resource = *request.add_resource_spans();
  auto& attributes = *of_resource.mutable_resource()->mutable_attributes();
  AddText(attributes, "service.name", sender_.service);
  AddText(attributes, "service.instance.id", Utf8(sender_.instance));
  AddText(attributes, "service.version", std::string(kVersion));
  AddText(attributes, "host.name", host_);
  otel::ScopeSpans& of_scope = *of_resource.add_scope_spans();
  of_scope.mutable_scope()->set_name("stemcache");
  of_scope.mutable_scope()->set_version(std::string(kVersion));
  for (const Span& span : spans) Fill(span, *of_scope.add_spans());
  return request.SerializeAsString();
}

OtlpClient::Outcome OtlpClient::Post(const std::string& body) {
  const httplib::Result result = http_->Post(path_, body, kContentType);
  if (!result) return {.status = absl::UnavailableError(absl::StrCat("no answer: ", httplib::to_string(result.error())))};
  Outcome outcome;
  if (result->status / 100 == 2) {
    otel::ExportTraceServiceResponse answer;
    if (answer.ParseFromString(result->body)) {
      outcome.rejected_spans = static_cast<uint64_t>(std::max<int64_t>(0, answer.partial_success().rejected_spans()));
    }
    return outcome;
  }
  const std::string why = absl::StrCat("HTTP ", result->status);
  // The ones that OTLP calls retryable.
  const int status = result->status;
  if (status != 429 && status != 502 && status != 503 && status != 504) return {.status = absl::InvalidArgumentError(why)};
  outcome.status = absl::UnavailableError(why);
  if (int seconds = 0; absl::SimpleAtoi(result->get_header_value("Retry-After"), &seconds)) {
    outcome.retry_after = std::clamp(absl::Seconds(seconds), absl::ZeroDuration(), kRetryAfterMax);
  }
  return outcome;
}

}  // namespace stem
