#include "services/ctl/trace.h"

#include <cerrno>
#include <cstring>
#include <limits>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace stem {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kTokensMax = uint64_t{1} << 32;
constexpr uint64_t kTimestampMsMax = uint64_t{1} << 50;
constexpr uint64_t kHashIdMax = std::numeric_limits<int64_t>::max();
constexpr size_t kBlocksMax = 65536;
constexpr uint32_t kTraceBlockTokensMax = 65536;

// The parser throws; this is where that stops.
absl::StatusOr<Json> ParseObject(const std::string& line) {
  Json json;
  try {
    json = Json::parse(line);
  } catch (const Json::parse_error& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 9: syntax error ..." without its prefix.
    const absl::string_view what = error.what();
    const size_t colon = what.find(": ");
    if (error.byte > line.size()) {
      return absl::InvalidArgumentError(absl::StrFormat("ends in the middle of its JSON, after %d bytes", line.size()));
    }
    return absl::InvalidArgumentError(
        absl::StrFormat("is not JSON at byte %d: %s", error.byte, what.substr(colon == what.npos ? 0 : colon + 2)));
  }
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("is a JSON ", json.type_name(), ", not an object"));
  }
  return json;
}

std::string Shown(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 40) text = text.substr(0, 37) + "...";
  return text;
}

absl::StatusOr<uint64_t> Number(const Json& json, const char* name, uint64_t least, uint64_t most) {
  const auto it = json.find(name);
  if (it == json.end()) return absl::InvalidArgumentError(absl::StrCat("has no \"", name, "\""));
  if (it->is_number_unsigned() && it->get<uint64_t>() >= least && it->get<uint64_t>() <= most) {
    return it->get<uint64_t>();
  }
  // Some published traces write milliseconds as 1234.0.
  if (it->is_number_float()) {
    const double value = it->get<double>();
    if (value >= static_cast<double>(least) && value <= static_cast<double>(most)) return static_cast<uint64_t>(value);
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("has \"%s\": %s; must be a number in %d..%d", name, Shown(*it), least, most));
}

// `partial_optional`: the last, partial block may be left out.
absl::Status HashIds(const Json& json, size_t blocks, bool partial_optional, std::vector<uint64_t>* ids) {
  const auto it = json.find("hash_ids");
  if (it == json.end()) return absl::InvalidArgumentError("has no \"hash_ids\"");
  if (!it->is_array()) {
    return absl::InvalidArgumentError(absl::StrCat("has \"hash_ids\": ", Shown(*it), "; must be an array"));
  }
  if (it->size() != blocks && !(partial_optional && it->size() + 1 == blocks)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("has %d hash_ids; its input_length and block size make %d", it->size(), blocks));
  }
  ids->clear();
  for (const Json& id : *it) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > kHashIdMax) {
      return absl::InvalidArgumentError(
          absl::StrFormat("has %s among its hash_ids; each must be an integer in 0..%d", Shown(id), kHashIdMax));
    }
    ids->push_back(id.get<uint64_t>());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status TraceReader::Wrong(absl::string_view what) const {
  const char* right = R"({"timestamp":0,"input_length":700,"output_length":20,"hash_ids":[0,1]})";
  if (options_.format == TraceFormat::kStem && line_number_ == 1) {
    right = R"({"format":"stem-trace","version":1,"block_tokens":512})";
  } else if (options_.format == TraceFormat::kBailian) {
    right = R"({"chat_id":7,"parent_chat_id":-1,"timestamp":0.5,"input_length":20,"output_length":9,"turn":1,"hash_ids":[0,1]})";
  }
  return absl::DataLossError(
      absl::StrFormat("%s:%d: the line %s; a right one is %s", path_, line_number_, what, right));
}

absl::StatusOr<std::unique_ptr<TraceReader>> TraceReader::Open(const std::string& path, const Options& options) {
  std::FILE* const file = std::fopen(path.c_str(), "re");
  if (file == nullptr) {
    return absl::NotFoundError(absl::StrFormat("cannot read trace %s: %s", path, std::strerror(errno)));
  }
  auto reader = std::unique_ptr<TraceReader>(new TraceReader(path, options, file));
  if (options.format == TraceFormat::kStem) {
    STEM_TRY(reader->ReadHeader());
  } else {
    reader->block_tokens_ = options.block_tokens.value_or(
        options.format == TraceFormat::kBailian ? kBailianBlockTokens : kMooncakeBlockTokens);
  }
  return reader;
}

absl::Status TraceReader::ReadHeader() {
  STEM_ASSIGN(const bool more, ReadLine());
  if (!more) {
    line_number_ = 1;
    return Wrong("is missing: the file is empty");
  }
  const auto json = ParseObject(line_);
  if (!json.ok()) return Wrong(json.status().message());
  const auto format = json->find("format");
  if (format == json->end() || *format != std::string(kStemTraceName)) {
    return Wrong("is not the header of a stem trace (for a Mooncake trace say --format mooncake)");
  }
  const auto version = Number(*json, "version", kStemTraceVersion, kStemTraceVersion);
  if (!version.ok()) return Wrong(version.status().message());
  const auto block_tokens = Number(*json, "block_tokens", 1, kTraceBlockTokensMax);
  if (!block_tokens.ok()) return Wrong(block_tokens.status().message());
  block_tokens_ = static_cast<uint32_t>(*block_tokens);
  if (options_.block_tokens && *options_.block_tokens != block_tokens_) {
    return absl::InvalidArgumentError(absl::StrFormat("--block-tokens %d, but %s was made with %d tokens a block",
                                                      *options_.block_tokens, path_, block_tokens_));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> TraceReader::ReadLine() {
  line_.clear();
  ++line_number_;
  for (;;) {
    const int c = getc_unlocked(file_.get());
    if (c == '\n') break;
    if (c == EOF) {
      if (std::ferror(file_.get()) != 0) {
        return absl::UnavailableError(absl::StrFormat("reading %s: %s", path_, std::strerror(errno)));
      }
      if (line_.empty()) return false;
      break;
    }
    if (line_.size() == kTraceLineBytesMax) {
      return Wrong(absl::StrFormat("is longer than %d bytes", kTraceLineBytesMax));
    }
    line_.push_back(static_cast<char>(c));
  }
  if (!line_.empty() && line_.back() == '\r') line_.pop_back();
  return true;
}

absl::Status TraceReader::ParseLine(TraceRequest* request) {
  STEM_ASSIGN(const Json json, ParseObject(line_));
  request->line = line_number_;
  STEM_TRY(ParseTimestamp(json, request));
  STEM_ASSIGN(request->input_tokens, Number(json, "input_length", 1, kTokensMax));
  STEM_ASSIGN(request->output_tokens, Number(json, "output_length", 0, kTokensMax));
  const size_t blocks = (request->input_tokens + block_tokens_ - 1) / block_tokens_;
  if (blocks > kBlocksMax) {
    return absl::InvalidArgumentError(absl::StrFormat("has \"input_length\": %d, which is %d blocks; at most %d",
                                                      request->input_tokens, blocks, kBlocksMax));
  }
  STEM_TRY(HashIds(json, blocks, options_.format == TraceFormat::kBailian, &request->hash_ids));
  request->session.reset();
  request->turn = 0;
  if (options_.format == TraceFormat::kBailian) STEM_TRY(ParseChat(json, request));
  if (options_.format == TraceFormat::kStem) {
    STEM_ASSIGN(request->session, Number(json, "session", 0, kHashIdMax));
    STEM_ASSIGN(const uint64_t turn, Number(json, "turn", 0, std::numeric_limits<uint32_t>::max()));
    request->turn = static_cast<uint32_t>(turn);
  }
  last_timestamp_ms_ = request->timestamp_ms;
  return absl::OkStatus();
}

absl::Status TraceReader::ParseTimestamp(const Json& json, TraceRequest* request) {
  if (options_.format != TraceFormat::kBailian) {
    STEM_ASSIGN(request->timestamp_ms, Number(json, "timestamp", last_timestamp_ms_, kTimestampMsMax));
    return absl::OkStatus();
  }
  const auto it = json.find("timestamp");
  if (it == json.end() || !it->is_number() || it->get<double>() < 0 || it->get<double>() > kTimestampMsMax / 1000) {
    return absl::InvalidArgumentError(
        absl::StrFormat("has \"timestamp\": %s; must be seconds in 0..%d", it == json.end() ? "nothing" : Shown(*it), kTimestampMsMax / 1000));
  }
  request->timestamp_ms = static_cast<uint64_t>(it->get<double>() * 1000 + 0.5);
  if (request->timestamp_ms < last_timestamp_ms_) {
    return absl::InvalidArgumentError(absl::StrFormat("has \"timestamp\": %s, before the line above it", Shown(*it)));
  }
  return absl::OkStatus();
}

absl::Status TraceReader::ParseChat(const Json& json, TraceRequest* request) {
  STEM_ASSIGN(const uint64_t chat, Number(json, "chat_id", 0, kHashIdMax));
  const auto parent = json.find("parent_chat_id");
  if (parent == json.end() || !parent->is_number_integer()) {
    return absl::InvalidArgumentError("has no integer \"parent_chat_id\"; a conversation's first has -1");
  }
  const auto it = first_chat_.find(static_cast<uint64_t>(parent->get<int64_t>()));
  request->session = parent->get<int64_t>() < 0 || it == first_chat_.end() ? chat : it->second;
  first_chat_[chat] = *request->session;
  STEM_ASSIGN(const uint64_t turn, Number(json, "turn", 0, std::numeric_limits<uint32_t>::max()));
  request->turn = turn == 0 ? 0 : static_cast<uint32_t>(turn - 1);
  return absl::OkStatus();
}

absl::StatusOr<bool> TraceReader::Next(TraceRequest* request) {
  if (ended_) return false;
  const auto more = ReadLine();
  if (!more.ok() || !*more) {
    ended_ = true;
    return more;
  }
  if (const absl::Status parsed = ParseLine(request); !parsed.ok()) {
    ended_ = true;
    return Wrong(parsed.message());
  }
  return true;
}

std::string StemTraceHeader(uint32_t block_tokens) {
  return absl::StrFormat("{\"format\":\"%s\",\"version\":%d,\"block_tokens\":%d}\n", kStemTraceName, kStemTraceVersion,
                         block_tokens);
}

void AppendStemTraceLine(const TraceRequest& request, std::string* out) {
  absl::StrAppend(out, "{\"timestamp\":", request.timestamp_ms, ",\"input_length\":", request.input_tokens,
                  ",\"output_length\":", request.output_tokens, ",\"session\":", request.session.value_or(0),
                  ",\"turn\":", request.turn, ",\"hash_ids\":[");
  for (size_t i = 0; i < request.hash_ids.size(); ++i) {
    absl::StrAppend(out, i == 0 ? "" : ",", request.hash_ids[i]);
  }
  out->append("]}\n");
}

}  // namespace stem
