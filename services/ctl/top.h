// The live view of a cluster: asked once a refresh, laid out as styled lines for a screen of any size, or as JSON.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "services/ctl/levers.h"
#include "services/ctl/traffic.h"
#include "services/runtime/fleet_stems.h"

namespace stem {

struct TopView {
  struct Node {
    stemcache::v1::DirectoryStatusReply::Node status;
    absl::StatusOr<Traffic> now;
  };
  // What one node has read from another.
  struct Link {
    std::string node;
    uint64_t incarnation = 0;
    std::string peer;
    absl::Time asked;
    uint64_t bytes = 0;
    uint64_t busy_us = 0;
    std::optional<double> bytes_per_second;  // since an earlier view
    std::optional<double> busy_share;        // of that time; above 1 when reads went beside each other
  };
  TrafficWindows windows;
  absl::StatusOr<stemcache::v1::DirectoryStatusReply> directory;
  std::vector<Node> nodes;              // by name
  std::vector<Link> links = {};         // busiest first, once rated
  std::vector<FleetStem> stems;         // busiest first
  std::vector<std::string> silent;      // who did not answer, and why

  nlohmann::json ToJson() const;
};

// Asks directories for traffic and nodes, and the nodes for their hot stems; who does not answer is in `silent`.
TopView AskTop(const StatusTargets& targets);

// Sets the rates of `view`'s links by what they had read in `before`.
void RateLinks(const TopView& before, TopView* view);

enum class TopStyle { kPlain, kTitle, kHead, kGood, kWarn, kBad, kDim };
struct TopSpan {
  std::string text;
  TopStyle style = TopStyle::kPlain;
};
using TopLine = std::vector<TopSpan>;
enum class TopPage { kAll, kStems, kMisses, kTenants, kNodes, kPeers };

// At most `height` lines of at most `width` columns; 0 = no limit, but for tables, which have 20 rows then.
std::vector<TopLine> LayOut(const TopView& view, TopPage page, size_t width, size_t height);
// Without styles.
std::string ToText(const std::vector<TopLine>& lines);

}  // namespace stem
