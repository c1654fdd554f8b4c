// An OTLP/HTTP collector for tests: takes what tracers post, on a real port, and remembers it.
#pragma once

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "httplib.h"
#include "opentelemetry/trace.pb.h"
#include "proto/mutex.h"

namespace stem {

namespace otel = ::stemcache::opentelemetry;

// A span and who sent it.
struct ReceivedSpan {
  std::string service;
  std::string instance;
  otel::Span span;

  // Its attribute as text; empty when there is none.
  std::string Attribute(const std::string& key) const {
    for (const otel::KeyValue& each : span.attributes()) {
      if (each.key() != key) continue;
      if (each.value().has_string_value()) return each.value().string_value();
      return absl::StrCat(each.value().has_bool_value() ? int64_t{each.value().bool_value()} : each.value().int_value());
    }
    return "";
  }
};

// Threads: any.
class SpanReceiver {
 public:
  SpanReceiver() {
    http_.Post("/v1/traces", [this](const httplib::Request& request, httplib::Response& response) { Take(request, response); });
    port_ = http_.bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { http_.listen_after_bind(); });
    while (!http_.is_running()) std::this_thread::yield();
  }
  ~SpanReceiver() {
    delay_ms_ = 0;
    http_.stop();
    thread_.join();
  }
  SpanReceiver(const SpanReceiver&) = delete;
  SpanReceiver& operator=(const SpanReceiver&) = delete;

  std::string url() const { return absl::StrCat("http://127.0.0.1:", port_); }
  // What it answers from now on, and how long it thinks first.
  void set_status(int status) { status_ = status; }
  void set_delay(absl::Duration delay) { delay_ms_ = absl::ToInt64Milliseconds(delay); }

  std::vector<ReceivedSpan> spans() {
    MutexLock lock(mutex_);
    return spans_;
  }
  // As they were posted.
  std::vector<std::string> bodies() {
    MutexLock lock(mutex_);
    return bodies_;
  }
  // Waits until `enough` of its spans, or 20 s.
  template <typename Enough>
  bool WaitFor(Enough enough) {
    const absl::Time end = absl::Now() + absl::Seconds(20);
    while (!enough(spans())) {
      if (absl::Now() >= end) return false;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return true;
  }

 private:
  void Take(const httplib::Request& request, httplib::Response& response) {
    for (int64_t slept = 0; slept < delay_ms_; slept += 10) absl::SleepFor(absl::Milliseconds(10));
    response.status = status_;
    if (status_ != 200) return;
    otel::ExportTraceServiceRequest batch;
    if (request.get_header_value("Content-Type") != "application/x-protobuf" || !batch.ParseFromString(request.body)) {
      response.status = 400;
      return;
    }
    MutexLock lock(mutex_);
    bodies_.push_back(request.body);
    for (const otel::ResourceSpans& from : batch.resource_spans()) {
      ReceivedSpan received;
      for (const otel::KeyValue& each : from.resource().attributes()) {
        if (each.key() == "service.name") received.service = each.value().string_value();
        if (each.key() == "service.instance.id") received.instance = each.value().string_value();
      }
      for (const otel::ScopeSpans& scope : from.scope_spans()) {
        for (const otel::Span& span : scope.spans()) {
          received.span = span;
          spans_.push_back(received);
        }
      }
    }
  }

  httplib::Server http_;
  int port_ = 0;
  std::atomic<int> status_{200};
  std::atomic<int64_t> delay_ms_{0};
  std::thread thread_;
  Mutex mutex_;
  std::vector<ReceivedSpan> spans_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> bodies_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
