// The live view of a cluster: asked once a refresh, laid out as styled lines for a screen of any size, or as JSON.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "services/ctl/levers.h"
#include "services/ctl/traffic.h"

namespace stem {

// A stem as all nodes together see it.
struct FleetStem {
  stemcache::v1::HotStemsReply::Stem stem;  // rates and counts added up
  uint32_t nodes = 0;                       // that were asked for it
};

struct TopView {
  struct Node {
    stemcache::v1::DirectoryStatusReply::Node status;
    absl::StatusOr<Traffic> now;
  };
  TrafficWindows windows;
  absl::StatusOr<stemcache::v1::DirectoryStatusReply> directory;
  std::vector<Node> nodes;              // by name
  std::vector<FleetStem> stems;         // busiest first
  std::vector<std::string> silent;      // who did not answer, and why

  nlohmann::json ToJson() const;
};

// Asks directories for traffic and nodes, and the nodes for their hot stems; who does not answer is in `silent`.
TopView AskTop(const StatusTargets& targets);

// Of several nodes' hot stems one list, busiest first.
std::vector<FleetStem> MergeStems(const std::vector<stemcache::v1::HotStemsReply>& replies);

enum class TopStyle { kPlain, kTitle, kHead, kGood, kWarn, kBad, kDim };
struct TopSpan {
  std::string text;
  TopStyle style = TopStyle::kPlain;
};
using TopLine = std::vector<TopSpan>;
enum class TopPage { kAll, kStems, kMisses, kTenants, kNodes };

// At most `height` lines of at most `width` columns (0 = no limit).
std::vector<TopLine> LayOut(const TopView& view, TopPage page, size_t width, size_t height);
// Without styles.
std::string ToText(const std::vector<TopLine>& lines);

}  // namespace stem
