#include "services/ctl/top.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/ctl/printable.h"
#include "services/runtime/at_once.h"
#include "stemcache/v1/directory.grpc.pb.h"
#include "stemcache/v1/node.grpc.pb.h"
#include "stemcache/v1/operator.grpc.pb.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using Json = nlohmann::json;

constexpr uint32_t kStemsAsked = 200;  // of each node
constexpr double kHealthy = 90;        // percent
constexpr size_t kRowsUnbounded = 20;  // of a table, where no height is given
constexpr size_t kSilentShown = 3;     // the rest is counted

TopStyle StyleOfShare(double used) { return used >= 0.97 ? TopStyle::kWarn : TopStyle::kPlain; }

void CutAt(size_t width, TopLine* line) {
  for (TopSpan& span : *line) {
    size_t bytes = 0, columns = 0;  // a character is a column
    for (; bytes < span.text.size(); ++bytes) {
      const bool begins = (static_cast<unsigned char>(span.text[bytes]) & 0xC0) != 0x80;
      if (begins && columns == width) break;
      columns += begins ? 1 : 0;
    }
    span.text.resize(bytes);
    width -= columns;
  }
}

// One table: its heads and as many rows as may be.
struct Section {
  std::string title;
  std::string heads;
  std::vector<TopLine> rows;
  std::string empty;  // said when there is none
};

std::vector<TopLine> Header(const TopView& view) {
  std::vector<TopLine> lines;
  const Traffic traffic = view.windows.now.ok() ? *view.windows.now : Traffic();
  const auto& sum = traffic.sum;
  size_t live = 0;
  for (const TopView::Node& node : view.nodes) live += node.status.state() == "live" ? 1 : 0;
  lines.push_back({{"stemcache  ", TopStyle::kTitle},
                   {view.directory.ok() ? fmt::format("{} of {} nodes live", live, view.nodes.size()) : std::string("no directory answers"),
                    view.directory.ok() && live == view.nodes.size() ? TopStyle::kGood : TopStyle::kBad},
                   {fmt::format("   {} requests/s   {} tokens/s asked", Short(traffic.PerSecond(sum.change().requests())),
                                Short(traffic.PerSecond(traffic.tokens_asked())))}});
  lines.push_back({{"hit rate   "},
                   {fmt::format("now {}   5 min {}   1 h {}", HitRateText(view.windows.now), HitRateText(view.windows.minutes), HitRateText(view.windows.hour)),
                    TopStyle::kTitle},
                   {fmt::format("   prefill saved {} s/s", Short(traffic.PerSecond(sum.change().prefill_saved_us()) * 1e-6))}});
  const double dram = Share(sum.dram_bytes_used(), sum.dram_bytes());
  const double ssd = Share(sum.ssd_bytes_used(), sum.ssd_bytes());
  lines.push_back({{"fill       "},
                   {fmt::format("DRAM {} of {}", Percent(dram), Bytes(static_cast<double>(sum.dram_bytes()))), StyleOfShare(dram)},
                   {sum.ssd_bytes() == 0 ? std::string("   no SSD tier")
                                         : fmt::format("   SSD {} of {}", Percent(ssd), Bytes(static_cast<double>(sum.ssd_bytes()))),
                    StyleOfShare(ssd)}});
  std::string paths = "moved      ";
  for (const auto& [path, word] : {std::pair(v1::BYTE_PATH_LOCAL, "local"), {v1::BYTE_PATH_SAME_HOST, "same host"},
                                   {v1::BYTE_PATH_REMOTE, "remote"}, {v1::BYTE_PATH_SSD_READ, "SSD read"},
                                   {v1::BYTE_PATH_SSD_WRITE, "SSD write"}, {v1::BYTE_PATH_PUBLISH, "publish"}}) {
    absl::StrAppend(&paths, word, " ", Bytes(traffic.PerSecondOf(path)), "/s   ");
  }
  lines.push_back({{paths}});
  for (size_t i = 0; i < std::min(view.silent.size(), kSilentShown); ++i) lines.push_back({{Printable(view.silent[i]), TopStyle::kBad}});
  if (view.silent.size() > kSilentShown) {
    lines.push_back({{fmt::format("and {} more do not answer", view.silent.size() - kSilentShown), TopStyle::kBad}});
  }
  return lines;
}

Section Stems(const TopView& view) {
  Section section{.title = "hottest stems",
                  .heads = fmt::format("{:>9}{:>8}{:>8}{:>9}{:>7}  {:<14}{:<24}{}", "req/min", "hit", "blocks", "tokens", "nodes", "tenant",
                                       "model", "key"),
                  .rows = {},
                  .empty = "none was asked for yet"};
  for (const FleetStem& each : view.stems) {
    const v1::HotStemsReply::Stem& stem = each.stem;
    const TopStyle style = stem.hit_fraction() >= 0.5 ? TopStyle::kGood : stem.hit_fraction() >= 0.1 ? TopStyle::kWarn : TopStyle::kBad;
    section.rows.push_back({{fmt::format("{:>9}", Short(stem.requests_per_minute()))},
                            {fmt::format("{:>8}", Percent(stem.hit_fraction())), style},
                            {fmt::format("{:>8}{:>9}{:>7}  {:<14}{:<24}", stem.blocks(), Short(double{1} * stem.blocks() * stem.block_tokens()),
                                         each.nodes.size(), Fit(stem.tenant(), 13), Fit(stem.model(), 23))},
                            {absl::BytesToHexString(stem.key()), TopStyle::kDim}});
  }
  return section;
}

Section Misses(const TopView& view) {
  Section section{.title = "misses by cause",
                  .heads = fmt::format("{:<20}{:>12}{:>10}{:>10}{:>10}", "cause", "tokens/s", "now", "5 min", "1 h"),
                  .rows = {},
                  .empty = "none"};
  std::map<std::string, std::array<double, 3>> shares;  // of tokens asked
  std::map<std::string, double> rates;
  const std::array<const absl::StatusOr<Traffic>*, 3> windows = {&view.windows.now, &view.windows.minutes, &view.windows.hour};
  for (size_t i = 0; i < windows.size(); ++i) {
    if (!windows[i]->ok()) continue;
    for (const auto& [cause, tokens] : (*windows[i])->misses()) {
      shares[cause][i] = Share(tokens, (*windows[i])->tokens_asked());
      if (i == 0) rates[cause] = (*windows[i])->PerSecond(tokens);
    }
  }
  std::vector<std::pair<std::string, std::array<double, 3>>> sorted(shares.begin(), shares.end());
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  for (const auto& [cause, share] : sorted) {
    const bool alarming = cause == "integrity" || cause == "node_lost" || cause == "refused" || cause == "deadline";
    section.rows.push_back({{fmt::format("{:<20}", cause), alarming ? TopStyle::kBad : TopStyle::kPlain},
                            {fmt::format("{:>12}{:>10}{:>10}{:>10}", Short(rates[cause]), Percent(share[0]), Percent(share[1]), Percent(share[2]))}});
  }
  return section;
}

Section Tenants(const TopView& view) {
  Section section{.title = "tenants",
                  .heads = fmt::format("{:<24}{:>12}{:>10}{:>20}", "tenant", "tokens/s", "hit", "DRAM used"),
                  .rows = {},
                  .empty = "none asked in the last 5 min"};
  const absl::StatusOr<Traffic>& window = view.windows.minutes;
  if (!window.ok()) return section;
  std::vector<v1::NodeCounters::Tenant> tenants(window->sum.change().tenants().begin(), window->sum.change().tenants().end());
  std::stable_sort(tenants.begin(), tenants.end(), [](const auto& a, const auto& b) { return a.tokens_asked() > b.tokens_asked(); });
  for (const v1::NodeCounters::Tenant& tenant : tenants) {
    if (tenant.tokens_asked() == 0) continue;
    const double used = Share(tenant.dram_bytes_used(), tenant.dram_bytes());
    section.rows.push_back({{fmt::format("{:<24}{:>12}{:>10}", Fit(tenant.tenant(), 23), Short(window->PerSecond(tenant.tokens_asked())),
                                         Percent(Share(tenant.tokens_hit(), tenant.tokens_asked())))},
                            {fmt::format("{:>20}", fmt::format("{} of {}", Percent(used), Bytes(static_cast<double>(tenant.dram_bytes())))),
                             StyleOfShare(used)}});
  }
  return section;
}

Section Nodes(const TopView& view) {
  Section section{.title = "nodes",
                  .heads = fmt::format("{:<16}{:<10}{:>7}{:>7}{:>8}{:>8}{:>8}{:>13}{:>13}", "node", "state", "health", "req/s", "hit", "DRAM",
                                       "SSD", "from peers", "published"),
                  .rows = {},
                  .empty = "none is known"};
  for (const TopView::Node& node : view.nodes) {
    const auto& status = node.status;
    const Traffic traffic = node.now.ok() ? *node.now : Traffic();
    const double dram = Share(status.dram_bytes_used(), status.dram_bytes());
    section.rows.push_back(
        {{fmt::format("{:<16}", Fit(status.address().node(), 15))},
         {fmt::format("{:<10}", Fit(StateOf(status), 9)), status.state() != "live" ? TopStyle::kBad : status.draining() ? TopStyle::kWarn : TopStyle::kGood},
         {fmt::format("{:>7}", fmt::format("{} %", status.health_percent())), status.health_percent() >= kHealthy ? TopStyle::kPlain : TopStyle::kWarn},
         {fmt::format("{:>7}{:>8}", Short(traffic.PerSecond(traffic.sum.change().requests())), HitRateText(node.now))},
         {fmt::format("{:>8}", Percent(dram)), StyleOfShare(dram)},
         {fmt::format("{:>8}", status.ssd_bytes() == 0 ? std::string("-") : Percent(Share(status.ssd_bytes_used(), status.ssd_bytes())))},
         {fmt::format("{:>13}{:>13}",
                      absl::StrCat(Bytes(traffic.PerSecondOf(v1::BYTE_PATH_SAME_HOST) + traffic.PerSecondOf(v1::BYTE_PATH_REMOTE)), "/s"),
                      absl::StrCat(Bytes(traffic.PerSecondOf(v1::BYTE_PATH_PUBLISH)), "/s"))}});
  }
  return section;
}

Section Peers(const TopView& view) {
  Section section{.title = "peers: who reads from whom",
                  .heads = fmt::format("{:<16}{:<16}{:>12}{:>10}{:>14}", "reader", "from", "rate", "reading", "in all"),
                  .rows = {},
                  .empty = "no node has read from another"};
  for (const TopView::Link& link : view.links) {
    section.rows.push_back(
        {{fmt::format("{:<16}{:<16}{:>12}{:>10}{:>14}", Fit(link.node, 15), Fit(link.peer, 15),
                      link.bytes_per_second.has_value() ? Short(*link.bytes_per_second) + "B/s" : std::string("-"),
                      link.busy_share.has_value() ? Percent(*link.busy_share) : std::string("-"), Bytes(static_cast<double>(link.bytes)))}});
  }
  return section;
}

void Append(const Section& section, size_t rows_max, std::vector<TopLine>* lines) {
  lines->push_back({});
  lines->push_back({{section.title, TopStyle::kTitle}});
  if (section.rows.empty()) {
    lines->push_back({{"  " + section.empty, TopStyle::kDim}});
    return;
  }
  lines->push_back({{section.heads, TopStyle::kHead}});
  const size_t shown = section.rows.size() <= rows_max ? section.rows.size() : rows_max - 1;
  lines->insert(lines->end(), section.rows.begin(), section.rows.begin() + static_cast<ptrdiff_t>(shown));
  if (shown < section.rows.size()) lines->push_back({{fmt::format("  and {} more", section.rows.size() - shown), TopStyle::kDim}});
}

Json StemToJson(const FleetStem& each) {
  const v1::HotStemsReply::Stem& stem = each.stem;
  return {{"key", absl::BytesToHexString(stem.key())},
          {"parent", absl::BytesToHexString(stem.parent())},
          {"namespace", absl::BytesToHexString(stem.namespace_fingerprint())},
          {"model", stem.model()},
          {"tenant", stem.tenant()},
          {"blocks", stem.blocks()},
          {"tokens", uint64_t{stem.blocks()} * stem.block_tokens()},
          {"requests_per_minute", stem.requests_per_minute()},
          {"requests", stem.requests()},
          {"last_asked_ago_ms", stem.last_asked_ago_ms()},
          {"hit_fraction", stem.hit_fraction()},
          {"nodes", each.nodes.size()}};
}

struct NodeWords {
  absl::StatusOr<v1::HotStemsReply> stems;
  absl::StatusOr<v1::NodeStatusReply> status;
  absl::Time asked;
};

void AddLinks(const v1::NodeStatusReply& status, absl::Time asked, std::vector<TopView::Link>* links) {
  for (const v1::NodeStatusReply::Link& link : status.links()) {
    links->push_back({.node = status.address().node(), .incarnation = status.address().incarnation(), .peer = link.peer(), .asked = asked,
                      .bytes = link.bytes(), .busy_us = link.busy_us(), .bytes_per_second = std::nullopt, .busy_share = std::nullopt});
  }
}

}  // namespace

void RateLinks(const TopView& before, TopView* view) {
  for (TopView::Link& link : view->links) {
    const auto same = [&](const TopView::Link& other) {
      return other.node == link.node && other.incarnation == link.incarnation && other.peer == link.peer;
    };
    const auto then = std::find_if(before.links.begin(), before.links.end(), same);
    if (then == before.links.end()) continue;
    const double seconds = absl::ToDoubleSeconds(link.asked - then->asked);
    if (seconds <= 0 || link.bytes < then->bytes || link.busy_us < then->busy_us) continue;
    link.bytes_per_second = static_cast<double>(link.bytes - then->bytes) / seconds;
    link.busy_share = static_cast<double>(link.busy_us - then->busy_us) * 1e-6 / seconds;
  }
  std::stable_sort(view->links.begin(), view->links.end(),
                   [](const TopView::Link& a, const TopView::Link& b) { return a.bytes_per_second.value_or(-1) > b.bytes_per_second.value_or(-1); });
}

TopView AskTop(const StatusTargets& targets) {
  TopView view{.windows = {}, .directory = absl::InvalidArgumentError("no directory to ask"), .nodes = {}, .links = {}, .stems = {}, .silent = {}};
  const absl::StatusOr<std::optional<ClusterSecret>> secret = ReadSecret(targets.secret_file);
  if (!secret.ok()) view.silent.push_back(std::string(secret.status().message()));
  const ClusterSecret* const shown = secret.ok() && secret->has_value() ? &**secret : nullptr;
  const HistorySource history{.directories = targets.directories, .secret = shown, .deadline = targets.deadline};
  for (const std::string& directory : targets.directories) {
    view.directory = Ask(directory, shown, targets.deadline, &v1::Directory::Stub::DirectoryStatus);
    if (view.directory.ok()) break;
    view.silent.push_back(absl::StrCat("directory ", directory, ": ", view.directory.status().message()));
  }
  if (view.directory.ok()) view.windows = AskTrafficWindows(history);
  if (view.directory.ok()) {
    for (const auto& node : view.directory->nodes()) view.nodes.push_back({node, absl::UnknownError("not asked")});
    AskAtOnce(view.nodes.size(), kQuestionsAtOnce, [&](size_t i) { view.nodes[i].now = AskTraffic(history, 10, view.nodes[i].status.address().node()); });
  }
  if (!view.directory.ok() && targets.nodes.empty()) return view;
  const absl::StatusOr<std::vector<NamedNode>> nodes = NodesToAsk(targets);
  if (!nodes.ok()) view.silent.push_back(std::string(nodes.status().message()));
  if (!nodes.ok()) return view;
  std::vector<NodeWords> answers(nodes->size());
  v1::HotStemsRequest request;
  request.set_stems_max(kStemsAsked);
  AskAtOnce(nodes->size(), kQuestionsAtOnce, [&](size_t i) {
    const std::string& address = (*nodes)[i].address;
    answers[i].stems = Ask(address, shown, targets.deadline, &v1::NodeOperator::Stub::HotStems, request);
    if (answers[i].stems.ok()) answers[i].status = Ask(address, shown, targets.deadline, &v1::Node::Stub::NodeStatus);
    answers[i].asked = absl::Now();
  });
  std::vector<NodeStems> told;
  for (size_t i = 0; i < answers.size(); ++i) {
    if (!answers[i].stems.ok()) {
      view.silent.push_back(absl::StrCat((*nodes)[i].name, " did not answer: ", answers[i].stems.status().message()));
      continue;
    }
    told.push_back({(*nodes)[i].name, &*answers[i].stems});
    if (answers[i].status.ok()) AddLinks(*answers[i].status, answers[i].asked, &view.links);
  }
  view.stems = MergeStems(told, SIZE_MAX);
  return view;
}

Json TopView::ToJson() const {
  Json json = {{"traffic", windows.ToJson()}, {"nodes", Json::array()}, {"links", Json::array()}, {"stems", Json::array()}, {"silent", silent}};
  for (const Node& node : nodes) {
    Json entry = stem::ToJson(node.status);
    entry["now"] = node.now.ok() ? node.now->ToJson() : Json{{"error", node.now.status().ToString()}};
    json["nodes"].push_back(std::move(entry));
  }
  for (const Link& link : links) {
    Json entry = {{"node", link.node}, {"peer", link.peer}, {"bytes", link.bytes}, {"busy_us", link.busy_us}};
    if (link.bytes_per_second.has_value()) entry["bytes_per_second"] = *link.bytes_per_second;
    if (link.busy_share.has_value()) entry["busy_share"] = *link.busy_share;
    json["links"].push_back(std::move(entry));
  }
  for (const FleetStem& each : stems) json["stems"].push_back(StemToJson(each));
  return json;
}

std::vector<TopLine> LayOut(const TopView& view, TopPage page, size_t width, size_t height) {
  std::vector<TopLine> lines = Header(view);
  constexpr size_t kFrame = 3;  // an empty line, title and heads
  const auto whole = [&](const Section& section) {
    Append(section, height == 0 ? kRowsUnbounded : std::max<size_t>(height, lines.size() + kFrame + 1) - lines.size() - kFrame, &lines);
  };
  switch (page) {
    case TopPage::kStems: whole(Stems(view)); break;
    case TopPage::kMisses: whole(Misses(view)); break;
    case TopPage::kTenants: whole(Tenants(view)); break;
    case TopPage::kNodes: whole(Nodes(view)); break;
    case TopPage::kPeers: whole(Peers(view)); break;
    case TopPage::kAll: {
      const std::array<Section, 5> sections = {Stems(view), Misses(view), Nodes(view), Peers(view), Tenants(view)};
      // What is left for rows, in turns: those that need little get all they need.
      size_t left = height == 0 ? SIZE_MAX : std::max<size_t>(height, lines.size() + sections.size() * (kFrame + 1)) - lines.size() - sections.size() * kFrame;
      std::array<size_t, sections.size()> rows = {};
      for (bool more = true; more && left > 0;) {
        more = false;
        for (size_t i = 0; i < sections.size() && left > 0; ++i) {
          const size_t enough = height == 0 ? kRowsUnbounded : sections[i].rows.size();
          if (rows[i] >= std::max<size_t>(std::min(sections[i].rows.size(), enough), 1)) continue;
          ++rows[i];
          --left;
          more = true;
        }
      }
      for (size_t i = 0; i < sections.size(); ++i) Append(sections[i], std::max<size_t>(rows[i], 1), &lines);
    }
  }
  if (height > 0 && lines.size() > height) lines.resize(height);
  if (width > 0) {
    for (TopLine& line : lines) CutAt(width, &line);
  }
  return lines;
}

std::string ToText(const std::vector<TopLine>& lines) {
  std::string text;
  for (const TopLine& line : lines) {
    std::string row;
    for (const TopSpan& span : line) row += span.text;
    row.erase(row.find_last_not_of(' ') + 1);
    absl::StrAppend(&text, row, "\n");
  }
  return text;
}

}  // namespace stem
