#include "services/node/engines/engine_events.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace stem {
namespace {

using Json = nlohmann::json;

constexpr size_t kHashBytesMax = 64;  // twice what SHA-256 gives

// Passes what is nested no deeper than a batch is: the reader below calls itself for each level.
class ShallowOnly : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return ++depth_ <= kDepthMax; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return depth_-- > 0; }
  bool start_array(size_t) override { return ++depth_ <= kDepthMax; }
  bool end_array() override { return depth_-- > 0; }
  bool parse_error(size_t, const std::string&, const Json::exception&) override { return false; }

 private:
  static constexpr int kDepthMax = 16;
  int depth_ = 0;
};

// A field that is there and is not nil.
const Json* Find(const Json& event, const char* name) {
  const auto it = event.find(name);
  return it == event.end() || it->is_null() ? nullptr : &*it;
}

absl::Status Bad(absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat("a KV event batch ", what)); }

absl::StatusOr<std::string> HashOf(const Json& hash) {
  if (hash.is_number_integer()) {
    return absl::FailedPreconditionError(
        "the engine publishes block hashes that are cut to 64 bits; start it with VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0");
  }
  if (!hash.is_string() && !hash.is_binary()) return Bad("has a block hash that is no bytes");
  std::string bytes = hash.is_string() ? hash.get<std::string>() : std::string(hash.get_binary().begin(), hash.get_binary().end());
  if (bytes.empty() || bytes.size() > kHashBytesMax) {
    return Bad(absl::StrCat("has a block hash of ", bytes.size(), " bytes; it must be 1 to ", kHashBytesMax));
  }
  return bytes;
}

absl::Status ReadHashes(const Json& event, EngineEvent& out) {
  const Json* const hashes = Find(event, "block_hashes");
  if (hashes == nullptr || !hashes->is_array()) return Bad("has an event without block_hashes");
  for (const Json& each : *hashes) {
    STEM_ASSIGN(out.hashes.emplace_back(), HashOf(each));
  }
  return absl::OkStatus();
}

// False: something that keys are not made from here.
absl::StatusOr<bool> ReadExtras(const Json& blocks, bool begins_chain, EngineEvent& out) {
  for (size_t block = 0; block < blocks.size(); ++block) {
    std::vector<EngineExtra>& extras = out.extras.emplace_back();
    if (blocks[block].is_null()) continue;
    if (!blocks[block].is_array()) return false;
    for (const Json& extra : blocks[block]) {
      if (extra.is_array() && extra.size() == 2 && extra[0].is_string() && extra[1].is_number_integer()) {
        const bool before = !extra[1].is_number_unsigned() && extra[1].get<int64_t>() < 0;
        if (!before && extra[1].get<uint64_t>() >= out.block_tokens) {
          return Bad(absl::StrCat("has an item at token ", extra[1].get<uint64_t>(), " of a block of ", out.block_tokens));
        }
        extras.push_back({.text = extra[0].get<std::string>(), .offset_tokens = extra[1].get<int64_t>()});
      } else if (extra.is_string() && begins_chain && block == 0) {
        extras.push_back({.text = extra.get<std::string>(), .offset_tokens = {}});
      } else {
        return false;
      }
    }
  }
  return true;
}

absl::Status ReadStored(const Json& event, EngineEvent& out) {
  STEM_TRY(ReadHashes(event, out));
  const Json* const tokens = Find(event, "token_ids");
  const Json* const size = Find(event, "block_size");
  if (tokens == nullptr || !tokens->is_array() || size == nullptr || !size->is_number_unsigned()) {
    return Bad("has a BlockStored without token_ids or block_size");
  }
  const auto block_tokens = size->get<uint64_t>();
  if (block_tokens == 0 || block_tokens > (1u << 20) || tokens->size() != block_tokens * out.hashes.size()) {
    return Bad(absl::StrCat("has a BlockStored of ", out.hashes.size(), " blocks of ", block_tokens, " tokens with ", tokens->size(),
                            " token ids"));
  }
  out.block_tokens = static_cast<uint32_t>(block_tokens);
  for (const Json& token : *tokens) {
    if (!token.is_number_unsigned() || token.get<uint64_t>() > std::numeric_limits<uint32_t>::max()) return Bad("has a token id that is none");
    out.tokens.push_back(token.get<uint32_t>());
  }
  if (const Json* const parent = Find(event, "parent_block_hash"); parent != nullptr) {
    STEM_ASSIGN(out.parent, HashOf(*parent));
  }
  const Json* const extras = Find(event, "extra_keys");
  bool readable = extras == nullptr;
  if (extras != nullptr && extras->is_array()) {
    STEM_ASSIGN(readable, ReadExtras(*extras, !out.parent.has_value(), out));
  }
  const Json* const spec = Find(event, "kv_cache_spec_kind");
  const bool followed = readable && Find(event, "lora_name") == nullptr && (spec == nullptr || *spec == "full_attention");
  out.kind = followed ? EngineEvent::Kind::kStored : EngineEvent::Kind::kOther;
  return absl::OkStatus();
}

absl::StatusOr<EngineEvent> ReadEvent(const Json& event) {
  EngineEvent out;
  if (!event.is_object()) return Bad("has an event that is no map");
  const Json* const type = Find(event, "type");
  if (type == nullptr || !type->is_string()) return Bad("has an event without a type");
  if (*type == "AllBlocksCleared") {
    out.kind = EngineEvent::Kind::kCleared;
    return out;
  }
  const Json* const medium = Find(event, "medium");
  const Json* const group = Find(event, "group_idx");
  if ((medium != nullptr && *medium != "GPU") || (group != nullptr && *group != 0)) return out;
  if (*type == "BlockStored") STEM_TRY(ReadStored(event, out));
  if (*type == "BlockRemoved") {
    STEM_TRY(ReadHashes(event, out));
    out.kind = EngineEvent::Kind::kRemoved;
  }
  return out;
}

}  // namespace

absl::StatusOr<EngineEventBatch> DecodeEngineEvents(absl::string_view payload) {
  if (payload.size() > kEventBytesMax) return Bad(absl::StrCat("has ", payload.size(), " bytes; at most ", kEventBytesMax, " are read"));
  if (ShallowOnly shallow; !Json::sax_parse(payload.begin(), payload.end(), &shallow, Json::input_format_t::msgpack)) {
    return Bad("is no MessagePack, or nested deeper than events are");
  }
  const Json batch = Json::from_msgpack(payload.begin(), payload.end(), /*strict=*/true, /*allow_exceptions=*/false);
  if (!batch.is_array() || batch.size() < 2 || !batch[0].is_number() || !batch[1].is_array()) return Bad("is no [time, [event...], rank] in MessagePack");
  EngineEventBatch out{.unix_seconds = batch[0].get<double>(), .events = {}};
  for (const Json& each : batch[1]) {
    STEM_ASSIGN(out.events.emplace_back(), ReadEvent(each));
  }
  return out;
}

}  // namespace stem
