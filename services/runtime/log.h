// Structured logs: one event a line, as text for people or JSON for machines. Each process builds one Logger
// in main and passes it by reference. Writing is synchronous, so nothing queues up: a slow stderr slows the writer.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <ostream>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spdlog {
class logger;
}

namespace stem {

enum class LogLevel { kDebug, kInfo, kWarn, kError };
enum class LogFormat { kText, kJson };

// "debug", "info", "warn" or "error". Errors: InvalidArgument.
absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view text);
// "text" or "json". Errors: InvalidArgument.
absl::StatusOr<LogFormat> ParseLogFormat(absl::string_view text);

// One key and its value. Borrows strings: lives no longer than the logging call.
struct LogField {
  using Value = std::variant<absl::string_view, int64_t, uint64_t, double, bool>;

  LogField(absl::string_view name, absl::string_view text) : key(name), value(text) {}
  LogField(absl::string_view name, const char* text) : key(name), value(absl::string_view(text)) {}
  LogField(absl::string_view name, const std::string& text) : key(name), value(absl::string_view(text)) {}
  LogField(absl::string_view name, bool flag) : key(name), value(flag) {}
  LogField(absl::string_view name, std::floating_point auto number) : key(name), value(static_cast<double>(number)) {}
  LogField(absl::string_view name, std::signed_integral auto number) : key(name), value(static_cast<int64_t>(number)) {}
  LogField(absl::string_view name, std::unsigned_integral auto number)
      : key(name), value(static_cast<uint64_t>(number)) {}

  absl::string_view key;
  Value value;
};

struct LogOptions {
  std::string process;                  // e.g. "stem-node"; in every line
  LogFormat format = LogFormat::kText;
  LogLevel level = LogLevel::kInfo;     // less severe lines are dropped
  std::ostream* out = nullptr;          // null = standard error; else borrowed, must outlive the Logger
};

// Event names are snake_case constants ("node_attached"); what varies goes into fields.
//   text: 2026-11-23T15:30:19.123456Z info node_attached session=7 client="my engine"
//   json: {"ts":"2026-11-23T15:30:19.123456Z","level":"info","event":"node_attached","process":"stem-node","session":7}
// Values are escaped, so that no value can begin a line of its own. Threads: any.
class Logger {
 public:
  using Fields = std::initializer_list<LogField>;

  explicit Logger(const LogOptions& options);
  ~Logger();
  Logger(const Logger&) = delete;
  Logger& operator=(const Logger&) = delete;

  void Debug(absl::string_view event, Fields fields = {}) { Write(LogLevel::kDebug, event, fields); }
  void Info(absl::string_view event, Fields fields = {}) { Write(LogLevel::kInfo, event, fields); }
  void Warn(absl::string_view event, Fields fields = {}) { Write(LogLevel::kWarn, event, fields); }
  void Error(absl::string_view event, Fields fields = {}) { Write(LogLevel::kError, event, fields); }

  // Whether lines of this level are written: guards fields that are dear to compute.
  bool Enabled(LogLevel level) const { return level >= options_.level; }

 private:
  void Write(LogLevel level, absl::string_view event, Fields fields);

  const LogOptions options_;
  const std::unique_ptr<spdlog::logger> sink_;
};

}  // namespace stem
