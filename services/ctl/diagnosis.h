// What is wrong with a cluster's room, sharing and namespaces, and what to change: from what directories and nodes say of themselves.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "services/ctl/status.h"
#include "services/ctl/traffic.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {

struct DiagnosisInputs {
  struct Node {
    std::string name;
    absl::StatusOr<stemcache::v1::HitCurveReply> curve;
    absl::StatusOr<stemcache::v1::NamespacesReply> namespaces;
  };
  absl::StatusOr<Traffic> hour;
  absl::StatusOr<stemcache::v1::DirectoryStatusReply> directory;
  std::vector<Node> nodes;
};

// Of one node's hit rates, at other sizes; all in shares of the blocks that were asked there.
struct NodeRoom {
  std::string name;
  uint64_t dram_bytes = 0;
  uint64_t ssd_bytes = 0;
  uint64_t working_set_bytes = 0;
  double seconds = 0;          // that it was observed
  uint64_t references = 0;     // that the estimate rests on
  double hit_rate_now = 0;     // from DRAM, measured
  double twice_dram_adds = 0;  // estimated: to hits in DRAM without an SSD tier, to those in DRAM and SSD together with one
  double twice_ssd_adds = 0;
};

struct Finding {
  enum class Kind { kFine, kNote, kTrouble };
  Kind kind = Kind::kFine;
  std::string topic;   // capacity, duplicates, orphans, namespaces, misses, health, index
  std::string what;
  std::string advice;  // empty = nothing is to be done
};

struct Diagnosis {
  std::vector<NodeRoom> rooms;
  uint64_t duplicate_bytes = 0;  // held beyond the first copy, by all nodes
  uint64_t orphan_bytes = 0;
  std::vector<std::pair<std::string, double>> misses;  // cause and share of the tokens asked in the last hour
  std::vector<Finding> findings;  // troubles first

  bool healthy() const;  // no trouble
  nlohmann::json ToJson() const;
  std::string ToText() const;
};

Diagnosis Diagnose(const DiagnosisInputs& inputs);
DiagnosisInputs AskDiagnosis(const StatusTargets& targets);

// A hit curve's rate at `bytes`, between its points.
double RateAt(const stemcache::v1::HitCurveReply& curve, double bytes);

}  // namespace stem
