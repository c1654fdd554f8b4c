#include "services/ctl/ask.h"

#include <utility>

#include <google/protobuf/util/json_util.h>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "services/runtime/log.h"

namespace stem {
namespace {

using Json = nlohmann::json;

// Numbers of 64 bits become strings in protobuf's JSON, so they are read back as numbers.
void NumbersFromText(Json* json) {
  if (json->is_structured()) {
    for (Json& entry : *json) NumbersFromText(&entry);
    return;
  }
  if (!json->is_string()) return;
  const std::string text = json->get<std::string>();
  uint64_t number = 0;
  if (!text.empty() && text.find_first_not_of("0123456789") == text.npos && absl::SimpleAtoi(text, &number)) {
    *json = number;
  }
}

}  // namespace

absl::StatusOr<std::optional<ClusterSecret>> ReadSecret(const std::string& path) {
  if (path.empty()) return std::nullopt;
  Logger log({.process = "stemctl"});
  STEM_ASSIGN(ClusterSecret secret, ClusterSecret::Read(path, log));
  return std::optional<ClusterSecret>(std::move(secret));
}

Json ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return Json::object();
  Json json = Json::parse(text, nullptr, false);
  NumbersFromText(&json);
  return json;
}

}  // namespace stem
