// An advice in the words of one engine: a command to copy, and for each setting why, how much, what may go wrong.
#pragma once

#include <string>
#include <vector>

#include "proto/status.h"
#include "services/ctl/planner/advice.h"

namespace stem::planner {

struct Setting {
  std::string topic, title;
  std::string name, value;  // as the engine takes them; an empty value: a switch
  std::string form;         // flags, environment, yaml, overrides
  std::string otherwise;    // the engine's default
  std::string source;
  std::string mechanism, effect, risk, check, fall_back;
};

// What the engine does not have, and what comes nearest.
struct Lack {
  std::string topic, title, nearest;
};

struct EngineAdvice {
  std::string engine, title, versions, source;
  std::string command;
  std::string file, file_text;  // a file that the command reads; empty = none
  std::vector<Setting> settings;
  std::vector<Lack> lacks;
  std::vector<std::string> notes;
};

// Errors: InvalidArgument lists the engines.
absl::StatusOr<EngineAdvice> AdviseEngine(const Advice& advice, const std::string& engine);

}  // namespace stem::planner
