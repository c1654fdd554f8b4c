#include "storage/policy/block_history.h"

#include <algorithm>
#include <bit>

#include "proto/mixed.h"

namespace stem {
namespace {

// Blocks that only their conversation used: turn, time since the turn before, growth, length of the prompt.
constexpr uint32_t kTurns = 5, kPauses = 4, kGrowths = 3, kLengths = 3;
constexpr uint32_t kOwn = kTurns * kPauses * kGrowths * kLengths;
// Blocks that others used too: by how many, how often.
constexpr uint32_t kSharings = 6, kRates = 8;
constexpr uint32_t kPromptEnd = kOwn + kSharings * kRates;  // a prompt's last block, most often a partial one
// Conversations that will resume, as their engine says: turn, time since the turn before. Then those that have ended.
constexpr uint32_t kResuming = kPromptEnd + 1;
constexpr uint32_t kEnded = kResuming + kTurns * kPauses;
constexpr uint32_t kClasses = kEnded + 1;
constexpr size_t kEndedMax = 1 << 16;  // conversations that are remembered to have ended

// Classes of one family are taken for each other while little is known of them.
std::vector<uint32_t> Families() {
  std::vector<uint32_t> families;
  for (uint32_t cls = 0; cls < kClasses; ++cls) {
    if (cls < kOwn) {
      families.push_back(cls / (kPauses * kGrowths * kLengths));
    } else if (cls <= kPromptEnd) {
      families.push_back(kTurns + (cls - kOwn) / kRates);
    } else {
      families.push_back(families[kPromptEnd] + (cls < kEnded ? 1 : 2));
    }
  }
  return families;
}

// Which power of four above 2^lowest, below `buckets`.
uint32_t Bucket(uint64_t value, int lowest, uint32_t buckets) {
  const int width = static_cast<int>(std::bit_width(value)) - lowest;
  return width <= 0 ? 0 : std::min<uint32_t>(static_cast<uint32_t>(width + 1) / 2, buckets - 1);
}

}  // namespace

bool BlockHistory::IsShared(uint16_t cls) { return cls >= kOwn && cls < kPromptEnd; }

uint16_t BlockHistory::ClassNow(uint16_t cls, uint64_t conversation) const {
  return conversation != 0 && !IsShared(cls) && ended_.Count(conversation) > 0 ? kEnded : cls;
}

BlockHistory::BlockHistory(uint64_t horizon_uses)
    : model_(horizon_uses, Families(), Families().back()), ended_(kEndedMax), speakers_(kClasses) {}

const BlockHistory::Story* BlockHistory::Find(uint64_t key) const {
  const auto it = stories_.find(key);
  return it == stories_.end() ? nullptr : &it->second;
}

void BlockHistory::Use(std::span<const BlockInfo> chain) {
  if (chain.empty()) return;
  model_.Advance();
  const Prompt prompt = Recognize(chain);
  used_.clear();
  stories_.reserve(stories_.size() + chain.size());  // so that the pointers below stay
  for (const BlockInfo& info : chain) {
    Story& story = stories_[info.key];
    if (story.uses > 0) {
      const auto gap = static_cast<float>(model_.now() - story.last);
      story.gap += std::max(0.3f, 1 / static_cast<float>(story.uses)) * (gap - story.gap);
    }
    ++story.uses;
    story.turn = prompt.turn;
    if (info.conversation.id != 0) story.conversation = info.conversation.id;  // not forgotten over a peer's copy
    story.prompt_blocks = prompt.blocks;
    used_.push_back(&story);
  }
  const BlockInfo& request = chain.back();
  ended_.Take(request.conversation.id);
  for (Story* story : used_) story->cls = ClassOf(*story, prompt, request.conversation.outlook, story == used_.back());
  ChooseSpeakers(chain);
  for (size_t i = 0; i < chain.size(); ++i) {
    Story& story = *used_[i];
    model_.UsedAgain(story.sample);
    story.last = model_.Use();
    story.sample = speakers_[story.cls] == i + 1 ? model_.Sample(story.cls) : 0;
    by_last_use_.emplace_back(story.last, chain[i].key);
  }
  for (const Story* story : used_) speakers_[story->cls] = 0;
  Forget();
}

BlockHistory::Prompt BlockHistory::Recognize(std::span<const BlockInfo> chain) const {
  Prompt prompt{.blocks = chain.back().depth + 1};
  for (const BlockInfo& info : chain) {
    const Story* const story = Find(info.key);
    if (story == nullptr) break;
    prompt.known = info.depth + 1;
    // The prompt that this block was used for before ended here, but for a partial block: that conversation goes on.
    const bool goes_on = info.conversation.id != 0 ? story->conversation == info.conversation.id
                                                   : prompt.known > 1 && story->prompt_blocks <= prompt.known + 1;
    prompt.turn = goes_on ? story->turn + 1 : 0;
    prompt.pause = goes_on ? model_.now() - story->last : 0;
  }
  return prompt;
}

uint16_t BlockHistory::ClassOf(const Story& story, const Prompt& prompt, Outlook outlook, bool last) {
  const bool shared = story.uses > prompt.turn + 1;
  if (outlook == Outlook::kEnded && !shared) return kEnded;
  if (last && story.uses == 1) return kPromptEnd;
  if (shared) {
    const uint32_t others = story.uses - prompt.turn - 1;
    const uint32_t sharing = std::min<uint32_t>(std::bit_width(others) - 1, kSharings - 1);
    return static_cast<uint16_t>(kOwn + sharing * kRates + Bucket(static_cast<uint64_t>(story.gap), 6, kRates));
  }
  const uint32_t turn = std::min(prompt.turn, kTurns - 1);
  const uint32_t pause = turn == 0 ? 0 : Bucket(prompt.pause, 11, kPauses);
  if (outlook == Outlook::kWillResume) return static_cast<uint16_t>(kResuming + turn * kPauses + pause);
  const uint32_t growth = turn == 0 ? std::min<uint32_t>(prompt.known, kGrowths - 1)
                                    : Bucket(prompt.blocks - prompt.known, 1, kGrowths);
  const uint32_t length = prompt.blocks <= 4 ? 0 : prompt.blocks <= 32 ? 1 : 2;
  return static_cast<uint16_t>(((turn * kPauses + pause) * kGrowths + growth) * kLengths + length);
}

// Blocks of one request share their fate: one of each class, by lot, speaks for them, or long prompts would shout others down.
void BlockHistory::ChooseSpeakers(std::span<const BlockInfo> chain) {
  for (size_t i = 0; i < chain.size(); ++i) {
    uint32_t& speaker = speakers_[used_[i]->cls];
    const auto lot = [&](size_t place) { return Mixed(chain[place].key ^ Mixed(model_.now())); };
    if (speaker == 0 || lot(i) < lot(speaker - 1)) speaker = static_cast<uint32_t>(i + 1);
  }
}

void BlockHistory::Forget() {
  while (!by_last_use_.empty() && model_.now() - by_last_use_.front().first >= model_.horizon()) {
    const auto [last, key] = by_last_use_.front();
    by_last_use_.pop_front();
    const auto it = stories_.find(key);
    if (it != stories_.end() && it->second.last == last) stories_.erase(it);
  }
}

}  // namespace stem
