#include "services/console/seen_stems.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"

namespace stem {

namespace v1 = ::stemcache::v1;

std::vector<SeenStem> MergeStems(const FleetQuestions::NodeAnswers<v1::HotStemsReply>& answers, size_t most) {
  absl::flat_hash_map<std::string, SeenStem> merged;
  for (const auto& answer : answers) {
    if (!answer.reply.ok()) continue;
    for (const v1::HotStemsReply::Stem& stem : answer.reply->stems()) {
      SeenStem& seen = merged[absl::StrCat(stem.namespace_fingerprint(), stem.key())];
      seen.nodes.push_back(answer.node);
      if (seen.nodes.size() == 1) {
        seen.stem = stem;
        continue;
      }
      v1::HotStemsReply::Stem& sum = seen.stem;
      const double requests = static_cast<double>(sum.requests() + stem.requests());
      if (requests > 0) {
        sum.set_hit_fraction((sum.hit_fraction() * static_cast<double>(sum.requests()) + stem.hit_fraction() * static_cast<double>(stem.requests())) / requests);
      }
      sum.set_requests(sum.requests() + stem.requests());
      sum.set_requests_per_minute(sum.requests_per_minute() + stem.requests_per_minute());
      sum.set_last_asked_ago_ms(std::min(sum.last_asked_ago_ms(), stem.last_asked_ago_ms()));
      if (sum.parent().empty()) sum.set_parent(stem.parent());
    }
  }
  std::vector<SeenStem> stems;
  stems.reserve(merged.size());
  for (auto& [name, seen] : merged) stems.push_back(std::move(seen));
  std::sort(stems.begin(), stems.end(), [](const SeenStem& a, const SeenStem& b) {
    return a.stem.requests_per_minute() != b.stem.requests_per_minute() ? a.stem.requests_per_minute() > b.stem.requests_per_minute()
                                                                        : a.stem.key() < b.stem.key();
  });
  if (stems.size() > most) stems.resize(most);
  return stems;
}

}  // namespace stem
