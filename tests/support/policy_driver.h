// Runs a policy the way a tier does: uses in order, evictions down to a capacity after each request.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "storage/policy/eviction.h"

namespace stem {

class PolicyDriver {
 public:
  PolicyDriver(std::unique_ptr<EvictionPolicy> policy, size_t capacity_blocks)
      : policy_(std::move(policy)), capacity_(capacity_blocks) {}

  EvictionPolicy& policy() { return *policy_; }
  bool holds(uint64_t key) const { return held_.contains(key); }
  const std::map<uint64_t, BlockId>& held() const { return held_; }

  // One request whose blocks form a chain in this order. Returns the keys that left, in order.
  std::vector<uint64_t> Request(const std::vector<uint64_t>& keys) {
    ++request_;
    BlockId parent = kNoBlock;
    for (uint32_t depth = 0; depth < keys.size(); ++depth) {
      const BlockInfo info{.key = keys[depth], .parent = parent, .depth = depth, .request = request_};
      parent = Use(info);
    }
    std::vector<uint64_t> gone;
    while (held_.size() > capacity_) gone.push_back(Evict());
    return gone;
  }
  // Requests of one block each; returns the keys that left.
  std::vector<uint64_t> Uses(const std::vector<uint64_t>& keys) {
    std::vector<uint64_t> gone;
    for (const uint64_t key : keys) {
      for (const uint64_t left : Request({key})) gone.push_back(left);
    }
    return gone;
  }
  // Evicts the victim and returns its key.
  uint64_t Evict() {
    const std::optional<BlockId> victim = policy_->Victim();
    if (!victim.has_value()) {
      ADD_FAILURE() << "no victim among " << held_.size() << " blocks";
      return held_.begin()->first;
    }
    EXPECT_EQ(policy_->Victim(), victim) << "asked again, another answer";
    const auto it = key_of_.find(*victim);
    if (it == key_of_.end()) {
      ADD_FAILURE() << "victim " << *victim << " is not held";
      return 0;
    }
    const uint64_t key = it->second;
    Drop(key);
    return key;
  }
  void Drop(uint64_t key) {
    const BlockId id = held_.at(key);
    policy_->Remove(id);
    held_.erase(key);
    key_of_.erase(id);
    free_.push_back(id);
  }

 private:
  BlockId Use(const BlockInfo& info) {
    if (const auto it = held_.find(info.key); it != held_.end()) {
      policy_->Touch(it->second, info);
      return it->second;
    }
    BlockId id = next_;
    if (free_.empty()) {
      ++next_;
    } else {
      id = free_.back();
      free_.pop_back();
    }
    held_[info.key] = id;
    key_of_[id] = info.key;
    policy_->Admit(id, info);
    return id;
  }

  const std::unique_ptr<EvictionPolicy> policy_;
  const size_t capacity_;
  std::map<uint64_t, BlockId> held_;
  std::map<BlockId, uint64_t> key_of_;
  std::vector<BlockId> free_;
  BlockId next_ = 0;
  uint64_t request_ = 0;
};

}  // namespace stem
