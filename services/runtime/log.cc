#include "services/runtime/log.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "spdlog/logger.h"
#include "spdlog/pattern_formatter.h"
#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/sinks/stdout_sinks.h"

namespace stem {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kLevelNames[] = {"debug", "info", "warn", "error"};
constexpr spdlog::level::level_enum kSpdlogLevels[] = {spdlog::level::debug, spdlog::level::info, spdlog::level::warn,
                                                       spdlog::level::err};

std::string Timestamp() {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone());
}

// A word stays as it is; anything that could be mistaken for more than one value is quoted.
std::string QuotedIfNeeded(absl::string_view text) {
  bool plain = !text.empty();
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    plain = plain && byte > ' ' && byte < 0x7f && c != '"' && c != '=' && c != '\\';
  }
  return plain ? std::string(text) : absl::StrCat("\"", absl::Utf8SafeCEscape(text), "\"");
}

struct ToText {
  std::string operator()(absl::string_view text) const { return QuotedIfNeeded(text); }
  std::string operator()(bool flag) const { return flag ? "true" : "false"; }
  std::string operator()(const auto& number) const { return absl::StrCat(number); }
};

struct ToJson {
  Json operator()(absl::string_view text) const { return std::string(text); }
  Json operator()(const auto& value) const { return value; }
};

std::string TextLine(const LogOptions&, LogLevel level, absl::string_view event, Logger::Fields fields) {
  std::string line = absl::StrCat(Timestamp(), " ", kLevelNames[static_cast<int>(level)], " ", event);
  for (const LogField& field : fields) {
    absl::StrAppend(&line, " ", field.key, "=", std::visit(ToText(), field.value));
  }
  return line;
}

std::string JsonLine(const LogOptions& options, LogLevel level, absl::string_view event, Logger::Fields fields) {
  Json line = {{"ts", Timestamp()},
               {"level", kLevelNames[static_cast<int>(level)]},
               {"event", std::string(event)},
               {"process", options.process}};
  for (const LogField& field : fields) line[std::string(field.key)] = std::visit(ToJson(), field.value);
  // Bytes that are not UTF-8 are replaced: a log line must not throw.
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::unique_ptr<spdlog::logger> MakeSink(const LogOptions& options) {
  spdlog::sink_ptr sink;
  if (options.out != nullptr) {
    sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(*options.out, true);
  } else {
    sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  }
  auto logger = std::make_unique<spdlog::logger>(options.process, std::move(sink));
  logger->set_formatter(std::make_unique<spdlog::pattern_formatter>("%v"));
  logger->set_level(spdlog::level::debug);
  logger->flush_on(spdlog::level::debug);
  return logger;
}

}  // namespace

absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view text) {
  for (int level = 0; level < 4; ++level) {
    if (text == kLevelNames[level]) return static_cast<LogLevel>(level);
  }
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a log level; use debug, info, warn or error"));
}

absl::StatusOr<LogFormat> ParseLogFormat(absl::string_view text) {
  if (text == "text") return LogFormat::kText;
  if (text == "json") return LogFormat::kJson;
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a log format; use text or json"));
}

Logger::Logger(const LogOptions& options) : options_(options), sink_(MakeSink(options)) {}

Logger::~Logger() = default;

void Logger::Write(LogLevel level, absl::string_view event, Fields fields) {
  if (!Enabled(level)) return;
  const std::string line = options_.format == LogFormat::kJson ? JsonLine(options_, level, event, fields)
                                                               : TextLine(options_, level, event, fields);
  sink_->log(kSpdlogLevels[static_cast<int>(level)], spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace stem
