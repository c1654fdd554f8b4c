#include "services/ctl/ask.h"

#include <utility>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/json_util.h>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "services/runtime/log.h"

namespace stem {
namespace {

using Json = nlohmann::json;

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

void NumberFromText(Json* json) {
  if (!json->is_string()) return;
  const std::string& text = json->get_ref<const std::string&>();
  uint64_t number = 0;
  int64_t negative = 0;
  if (absl::SimpleAtoi(text, &number)) {
    *json = number;
  } else if (absl::SimpleAtoi(text, &negative)) {
    *json = negative;
  }
}

// Numbers of 64 bits become strings in protobuf's JSON, so the fields that are ones are read back as numbers.
void NumbersFromText(const Descriptor& message, Json* json) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    const auto found = json->find(field.name());
    if (found == json->end()) continue;
    const FieldDescriptor* const value = field.is_map() ? field.message_type()->map_value() : &field;
    const bool is_number = value->cpp_type() == FieldDescriptor::CPPTYPE_UINT64 || value->cpp_type() == FieldDescriptor::CPPTYPE_INT64;
    const bool is_message = value->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    const auto read = [&](Json* one) {
      if (is_number) NumberFromText(one);
      if (is_message) NumbersFromText(*value->message_type(), one);
    };
    if (field.is_repeated()) {
      for (Json& one : *found) read(&one);
    } else {
      read(&*found);
    }
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
  NumbersFromText(*message.GetDescriptor(), &json);
  return json;
}

}  // namespace stem
