// How likely a block is to be used again, learned from what was: for each class of blocks and each age, how many were used
// again and how many could have been, counted over all uses, also of blocks that had left by then (so nothing censors the
// figures but the horizon). From it the rank of keeping a block: the most hits per block and use of time that can be had by
// keeping it up to some age (Gittins' index of a job with this class's hazard), which sees a hill behind a valley.
//
// Time is counted in uses of any block: what a slot could have served instead.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace stem {

class ReuseModel {
 public:
  static constexpr uint32_t kNoFamily = ~uint32_t{0};

  // Remembers `horizon_uses` uses, rounded up to a power of two. Class c is told apart only as far as its own figures bear, and is
  // otherwise taken for one of family[c]. Of the family `over`, nothing is expected until it is seen to come back.
  ReuseModel(uint64_t horizon_uses, std::vector<uint32_t> family, uint32_t over = kNoFamily);

  uint64_t now() const { return now_; }
  uint64_t horizon() const { return horizon_; }
  size_t classes() const { return family_.size(); }
  size_t bins() const { return starts_.size(); }
  // Of an age in uses.
  uint32_t BinOf(uint64_t age) const;
  uint64_t BinStart(uint32_t bin) const { return starts_[bin]; }

  // One block is used: returns the time of that.
  uint64_t Use() { return now_++; }
  // The use just told of is a sample of its class. Returns its number, above 0, for UsedAgain.
  uint64_t Sample(uint32_t cls);
  // The block of that sample is used again now. Ignored when that is longer ago than the horizon.
  void UsedAgain(uint64_t sample);
  // Notes which ages samples have reached. Before the uses of each request.
  void Advance();

  // Works the figures into ranks.
  void Refresh();
  // Expected hits per block and use; higher = keep.
  float rank(uint32_t cls, uint32_t bin) const { return ranks_[cls * bins() + bin]; }
  // That a block of that class and age is used again within the horizon.
  float chance(uint32_t cls, uint32_t bin) const { return chances_[cls * bins() + bin]; }
  // A state is class * bins() + bin; from states() on, the same of a block that moved to another
  // node, which costs less to lose. The place of a state among all by
  // rank, 0 = the least; and back.
  uint32_t states() const { return static_cast<uint32_t>(ranks_.size()); }
  uint32_t place(uint32_t state) const { return places_[state]; }
  uint32_t state_at(uint32_t place) const { return static_cast<uint32_t>(ordered_[place]); }

 private:
  struct Sampled {
    uint64_t at = 0;
    uint32_t cls = 0;
    bool again = false;
  };
  struct Count {
    float again = 0;    // used again at this age
    float reached = 0;  // not used again before this age
  };
  struct Kept {
    double alive = 0;  // not used yet
    double hits = 0;
    double held = 0;
  };
  void Forget();
  void SumFamilies();
  void EstimateHazards(uint32_t cls);
  void RankAges(uint32_t cls);
  void OrderStates();
  double WidthOf(size_t bin) const;

  const std::vector<uint32_t> family_;  // by class
  const uint32_t families_;
  const uint32_t over_;
  const uint64_t horizon_;
  std::vector<uint64_t> starts_;      // by bin: its least age
  std::deque<Sampled> samples_;       // of the horizon, oldest first
  uint64_t first_sample_ = 1;         // number of the oldest
  std::vector<uint64_t> cursors_;     // by bin: number of the next sample to reach it
  std::vector<Count> counts_;         // by class and bin
  std::vector<Count> family_counts_;  // by family and bin, all blocks in the last row: scratch of Refresh
  std::vector<double> hazards_;       // by bin: scratch of Refresh, as the next two
  std::vector<Kept> kept_;            // by bin
  std::vector<size_t> hull_;          // bins
  size_t reached_bins_ = 0;           // that any sample has reached
  std::vector<float> ranks_;          // by class and bin
  std::vector<float> chances_;        // by class and bin
  std::vector<uint64_t> by_rank_;     // of blocks that did not move: the rank's bits, and the state
  std::vector<uint64_t> ordered_;     // all states, likewise
  std::vector<uint32_t> places_;      // by state, in ordered_
  uint64_t now_ = 0;
  uint64_t forgot_at_ = 0;
};

}  // namespace stem
