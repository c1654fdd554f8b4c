#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "proto/check.h"
#include "tests/bench/directory/churn.h"
#include "tests/bench/directory/filled_index.h"
#include "tests/bench/directory/measure.h"
#include "tests/bench/directory/scenarios.h"

namespace stem::bench {
namespace {

constexpr uint64_t kHotStems = 16;
constexpr uint32_t kCallsMin = 400;  // a round's p99 needs some
constexpr uint32_t kCallsMax = 20'000;

// Per round percentiles; a figure is the median of its rounds.
struct Rounds {
  std::vector<double> p50, p99;

  void Take(Samples& samples) {
    p50.push_back(samples.At(0.5));
    p99.push_back(samples.At(0.99));
    samples.Clear();
  }
};

class LookupBench {
 public:
  LookupBench(const Shape& shape, const LookupOptions& options) : options_(options), filled_(shape) {
    const uint64_t before = UseOf().resident_bytes;
    filled_.Fill();
    const ProcessUse use = UseOf();
    bytes_ = use.resident_bytes - before;
    floor_ = std::make_unique<Floor>(bytes_, use.huge_bytes > use.resident_bytes / 2);
    churn_ = std::make_unique<Churn>(filled_);
    ceiling_ = churn_->Ceiling(0.3);
  }

  Json Run() {
    Json rows = Json::array();
    for (const double wanted : options_.churn_per_second) RunBeside(wanted < 0 ? ceiling_ / 2 : wanted, rows);
    for (const uint32_t depth : options_.depths) rows.push_back(ScoreRow(depth));
    rows.push_back(FloorRow());
    return rows;
  }

 private:
  uint32_t Calls(uint32_t depth) const { return std::clamp(options_.blocks_per_round / depth, kCallsMin, kCallsMax); }

  void Time(const MemberView& view, const MatchCall& call, uint32_t matched, Samples& samples) {
    const uint64_t begin = TicksNow();
    const ChainMatch match = MatchChain(filled_.index, view, call);
    samples.AddTicks(TicksNow() - begin, scale_);
    if (match.matched_blocks != matched) {
      std::fprintf(stderr, "a match of %zu keys from %016llx on found %u blocks, not %u\n", call.keys.size(),
                   static_cast<unsigned long long>(call.keys[0].low), match.matched_blocks, matched);
      for (const ChainMiss& miss : match.misses) std::fprintf(stderr, "miss %u+%u cause %d\n", miss.first, miss.count, miss.cause);
      const ChainMatch again = MatchChain(filled_.index, view, call);
      std::fprintf(stderr, "again %u\n", again.matched_blocks);
      std::abort();
    }
  }

  void Hot(uint32_t depth, Rounds& rounds) {
    const std::shared_ptr<const MemberView> view = filled_.membership.View(BenchNow());
    std::vector<MatchCall> calls;
    std::vector<uint32_t> matched;
    for (uint64_t i = 0; i < kHotStems; ++i) {
      calls.push_back(filled_.CallOf(Mix(i) % filled_.shape.chains(), depth));
      matched.push_back(filled_.MatchedOf(Mix(i) % filled_.shape.chains(), depth));
    }
    Samples samples;
    samples.Reserve(Calls(depth));
    for (uint64_t i = 0; i < 4 * kHotStems; ++i) {
      Time(*view, calls[i % kHotStems], matched[i % kHotStems], samples);
    }
    samples.Clear();
    for (uint64_t i = 0; i < Calls(depth); ++i) {
      Time(*view, calls[i % kHotStems], matched[i % kHotStems], samples);
    }
    rounds.Take(samples);
  }

  void Random(uint32_t depth, Rounds& rounds) {
    const std::shared_ptr<const MemberView> view = filled_.membership.View(BenchNow());
    MatchCall call = filled_.CallOf(0, depth);
    Samples samples;
    samples.Reserve(Calls(depth));
    for (uint64_t i = 0; i < Calls(depth); ++i) {
      const uint64_t chain = Mix(++random_) % filled_.shape.chains();
      filled_.MakeCall(chain, depth, call);
      Time(*view, call, filled_.MatchedOf(chain, depth), samples);
    }
    rounds.Take(samples);
  }

  void RunBeside(double churn_per_second, Json& rows) {
    std::map<uint32_t, Rounds> hot, random;
    std::vector<double> reached;
    for (uint32_t round = 0; round < options_.rounds; ++round) {
      if (churn_per_second > 0) {
        churn_->Start(churn_per_second);
      } else {
        FloorRound();
      }
      for (const uint32_t depth : options_.depths) {
        Hot(depth, hot[depth]);
        Random(depth, random[depth]);
      }
      if (churn_per_second > 0) reached.push_back(churn_->Stop());
    }
    for (const uint32_t depth : options_.depths) {
      for (auto* each : {&hot, &random}) {
        rows.push_back({{"depth", std::min(depth, filled_.shape.chain_blocks)},
                        {"stems", each == &hot ? "hot" : "random"},
                        {"beside_changes/s", Median(reached)},
                        {"p50_ns", Median((*each)[depth].p50)},
                        {"p99_ns", Median((*each)[depth].p99)}});
      }
    }
  }

  void FloorRound() {
    dependent_.push_back(floor_->DependentNs(100'000));
    independent_.push_back(floor_->IndependentNs(1'000'000));
    Samples samples;
    floor_->Single(20'000, scale_, samples);
    single_.Take(samples);
  }

  // All nodes at once, as a gateway asks; and the view of the members that every answer begins with.
  Json ScoreRow(uint32_t depth) {
    Samples scores, views;
    MatchCall call = filled_.CallOf(0, depth);
    for (uint64_t i = 0; i < Calls(depth); ++i) {
      filled_.MakeCall(Mix(++random_) % filled_.shape.chains(), depth, call);
      const uint64_t begin = TicksNow();
      const std::shared_ptr<const MemberView> view = filled_.membership.View(BenchNow());
      const uint64_t viewed = TicksNow();
      const std::vector<ChainScore> nodes = ScoreChain(filled_.index, *view, call);
      scores.AddTicks(TicksNow() - viewed, scale_);
      views.AddTicks(viewed - begin, scale_);
      STEM_CHECK(nodes.size() == view->nodes.size());
    }
    return {{"depth", depth},
            {"score_p50_ns", scores.At(0.5)},
            {"score_p99_ns", scores.At(0.99)},
            {"view_p50_ns", views.At(0.5)},
            {"view_p99_ns", views.At(0.99)}};
  }

  Json FloorRow() const {
    return {{"stems", "floor"},
            {"floor_MiB", static_cast<double>(bytes_) / (1 << 20)},
            {"dependent_read_ns", Median(dependent_)},
            {"independent_read_ns", Median(independent_)},
            {"single_read_p50_ns", Median(single_.p50)},
            {"single_read_p99_ns", Median(single_.p99)},
            {"empty_timer_ns", static_cast<double>(scale_.empty_ticks) * scale_.ns_per_tick},
            {"churn_ceiling/s", ceiling_}};
  }

  const LookupOptions options_;
  const TickScale scale_ = TickScale::Measure();
  FilledIndex filled_;
  uint64_t bytes_ = 0;
  std::unique_ptr<Floor> floor_;
  std::unique_ptr<Churn> churn_;
  double ceiling_ = 0;
  uint64_t random_ = 0;
  std::vector<double> dependent_, independent_;
  Rounds single_;
};

}  // namespace

Json Lookup(const Shape& shape, const LookupOptions& options) {
  LookupOptions possible = options;
  std::erase_if(possible.depths, [&](uint32_t depth) { return depth > shape.chain_blocks; });
  if (possible.depths.empty()) possible.depths = {shape.chain_blocks};
  return LookupBench(shape, possible).Run();
}

}  // namespace stem::bench
