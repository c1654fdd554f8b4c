// Traces of requests, read one line at a time. Three formats, all JSON lines (grammar: README.md):
//   mooncake  {"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [...]}
//   bailian   {"chat_id": n, "parent_chat_id": n or -1, "timestamp": seconds, "input_length", "output_length", "turn", "hash_ids"}
//   stem      a header line, then the same fields and "session" and "turn"
// One integer of hash_ids per token block of the prompt; the last block may be partial. Equal integers mean equal
// prefixes up to and including that block.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "proto/status.h"

namespace stem {

enum class TraceFormat { kMooncake, kBailian, kStem };

inline constexpr uint32_t kMooncakeBlockTokens = 512;
inline constexpr uint32_t kBailianBlockTokens = 16;
inline constexpr size_t kTraceLineBytesMax = 4 << 20;  // 65,536 ids of 20 digits fit
inline constexpr absl::string_view kStemTraceName = "stem-trace";
inline constexpr uint32_t kStemTraceVersion = 1;

struct TraceRequest {
  uint64_t line = 0;                // in the file, from 1
  uint64_t timestamp_ms = 0;        // from the trace's start, never falls
  uint64_t input_tokens = 0;        // of the prompt, at least 1
  uint64_t output_tokens = 0;
  std::optional<uint64_t> session;  // not in mooncake traces; in bailian ones the chat_id that the conversation began with
  uint32_t turn = 0;                // in the session, from 0
  std::vector<uint64_t> hash_ids;   // ceil(input_tokens / block_tokens) of them
};

// Memory is bounded by one line, and in bailian traces by one number for each chat_id. Not for two threads at once.
class TraceReader {
 public:
  struct Options {
    TraceFormat format = TraceFormat::kMooncake;
    std::optional<uint32_t> block_tokens;  // absent = the header's (stem), 512 (mooncake) or 16 (bailian)
  };

  // Errors: NotFound (no such file), DataLoss (a header that is no header), InvalidArgument (not of these options).
  static absl::StatusOr<std::unique_ptr<TraceReader>> Open(const std::string& path, const Options& options);

  // Fills `request` and returns true, or false at the end. DataLoss names file, line, what is wrong and
  // what would be right; after an error the reader is at its end.
  absl::StatusOr<bool> Next(TraceRequest* request);

  uint32_t block_tokens() const { return block_tokens_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  TraceReader(std::string path, const Options& options, std::FILE* file)
      : path_(std::move(path)), options_(options), file_(file) {}

  // The next line without its end into line_; false at the end of the file.
  absl::StatusOr<bool> ReadLine();
  absl::Status ReadHeader();
  absl::Status ParseLine(TraceRequest* request);
  absl::Status ParseTimestamp(const nlohmann::json& json, TraceRequest* request);
  absl::Status ParseChat(const nlohmann::json& json, TraceRequest* request);
  absl::Status Wrong(absl::string_view what) const;

  const std::string path_;
  const Options options_;
  const std::unique_ptr<std::FILE, Close> file_;
  uint32_t block_tokens_ = kMooncakeBlockTokens;
  std::string line_;
  uint64_t line_number_ = 0;
  uint64_t last_timestamp_ms_ = 0;
  absl::flat_hash_map<uint64_t, uint64_t> first_chat_;  // chat_id -> the one that its conversation began with
  bool ended_ = false;
};

// Lines of a stem trace, newline included.
std::string StemTraceHeader(uint32_t block_tokens);
void AppendStemTraceLine(const TraceRequest& request, std::string* out);

}  // namespace stem
