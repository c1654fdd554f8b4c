#include "services/node/records/published_prompts.h"

#include <algorithm>
#include <map>

#include "proto/validate.h"

namespace stem {

void PublishedPrompts::Add(const Space& space) {
  MutexLock lock(mutex_);
  spaces_.push_back(&space);
}

void PublishedPrompts::Remember(const Space& space, const Probe& probe) {
  MutexLock lock(mutex_);
  if (!known_.insert({&space, probe}).second) return;
  prompts_.push_back({&space, probe});
  ++last_;
  if (prompts_.size() <= prompts_max_) return;
  known_.erase(prompts_.front());
  prompts_.pop_front();
}

void PublishedPrompts::Tell(Told* told, v1::Heartbeat& heartbeat) const {
  std::map<const Space*, v1::PublishedPrompts*> by_space;
  const auto of = [&](const Space& space) -> v1::PublishedPrompts& {
    v1::PublishedPrompts*& published = by_space[&space];
    if (published == nullptr) {
      published = heartbeat.add_published();
      *published->mutable_namespace_() = ToMessage(space.spec);
      published->set_fingerprint(std::string(space.fingerprint.bytes()));
    }
    return *published;
  };
  MutexLock lock(mutex_);
  for (; told->spaces < spaces_.size(); ++told->spaces) of(*spaces_[told->spaces]);
  const uint64_t first = std::max(told->prompts, last_ - prompts_.size());  // those before were forgotten
  told->prompts = std::min(first + kPerHeartbeat, last_);
  const auto begin = prompts_.end() - static_cast<ptrdiff_t>(last_ - first);
  for (auto prompt = begin; prompt != begin + static_cast<ptrdiff_t>(told->prompts - first); ++prompt) {
    of(*prompt->space).mutable_probes()->append(prompt->probe.bytes().data(), sizeof(Probe));
  }
}

}  // namespace stem
