#include "services/ctl/planner/config_fields.h"

#include "absl/strings/str_cat.h"

namespace stem::planner {

bool ConfigFields::Has(const char* field) const {
  const auto found = object_.find(field);
  return found != object_.end() && !found->is_null();
}

void ConfigFields::Fail(const std::string& what) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(what);
}

uint32_t ConfigFields::Required(const char* field) {
  if (!Has(field)) {
    Fail(absl::StrCat("the config has no '", field, "'"));
    return 0;
  }
  const nlohmann::json& value = object_.at(field);
  const bool whole = value.is_number_integer();
  if (!whole || value.get<int64_t>() < 1 || value.get<int64_t>() > INT32_MAX) {
    Fail(absl::StrCat("the config's '", field, "' is ", value.dump().substr(0, 40),
                      "; must be a whole number of at least 1"));
    return 0;
  }
  return value.get<uint32_t>();
}

uint32_t ConfigFields::Optional(const char* field, uint32_t otherwise) {
  return Has(field) ? Required(field) : otherwise;
}

bool ConfigFields::Flag(const char* field, bool otherwise) {
  if (!Has(field)) return otherwise;
  if (object_.at(field).is_boolean()) return object_.at(field).get<bool>();
  Fail(absl::StrCat("the config's '", field, "' is ", object_.at(field).dump().substr(0, 40),
                    "; must be true or false"));
  return otherwise;
}

std::string ConfigFields::Text(const char* field) const {
  return Has(field) && object_.at(field).is_string() ? object_.at(field).get<std::string>() : "";
}

}  // namespace stem::planner
