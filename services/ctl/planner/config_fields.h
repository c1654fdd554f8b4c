// Typed reading of a config.json's fields, where every error names the field.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "proto/status.h"

namespace stem::planner {

// Wraps one JSON object, which must outlive it. The first error is kept; after it every number is 0.
class ConfigFields {
 public:
  explicit ConfigFields(const nlohmann::json& object) : object_(object) {}

  // A whole number in 1..2^31-1. Missing or null: an error, or `otherwise`.
  uint32_t Required(const char* field);
  uint32_t Optional(const char* field, uint32_t otherwise);
  bool Flag(const char* field, bool otherwise);
  std::string Text(const char* field) const;  // "" = missing or not a text
  bool Has(const char* field) const;          // there, and not null

  const nlohmann::json& object() const { return object_; }
  void Fail(const std::string& what);
  const absl::Status& status() const { return status_; }

 private:
  const nlohmann::json& object_;
  absl::Status status_;
};

}  // namespace stem::planner
