#include "services/node/engines/engine_blocks.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "openssl/sha.h"

namespace stem {
namespace {

// As the connector makes them (client/python/stemcache/vllm/keys.py): longer ones by their hash.
constexpr size_t kTextBytesMax = 1024;

std::string Bounded(const std::string& text) {
  if (text.size() <= kTextBytesMax) return text;
  std::string digest(SHA256_DIGEST_LENGTH, 0);
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

}  // namespace

struct EngineBlocks::Block {
  std::string hash;
  Block* parent = nullptr;
  uint32_t children = 0;
  uint32_t index = 0;  // in its block of the namespace
  bool present = false;
  bool announced = false;            // the last of its block alone
  bool begins = false;               // its block of the namespace is the chain's first
  std::optional<BlockKey> before;    // else: key of the block before; absent: that has none, and so nothing behind it has
  std::optional<BlockKey> key;       // the last of its block alone
  // Where it is not the last of its block, and that may have a key:
  std::string salt;                  // of a chain's first
  std::vector<uint32_t> tokens;
  std::vector<EngineExtra> items;    // offsets count from the namespace's block
  std::vector<Block*> next;          // within the same block of the namespace

  bool keyed() const { return begins || before.has_value(); }
  size_t kept_bytes() const {
    size_t bytes = salt.size() + tokens.size() * sizeof(uint32_t) + items.size() * sizeof(EngineExtra);
    for (const EngineExtra& item : items) bytes += item.text.size();
    return bytes;
  }
};

EngineBlocks::~EngineBlocks() = default;

absl::StatusOr<std::unique_ptr<EngineBlocks>> EngineBlocks::Create(const NamespaceSpec& spec, const NamespaceFingerprint& fingerprint,
                                                                 const Root& root, OnChange on_change) {
  if (spec.hash_scheme == HashScheme::kExternal) {
    return absl::FailedPreconditionError("keys of the namespace are an engine's own hashes (hash_scheme external), not made from tokens");
  }
  STEM_ASSIGN(ChainHasher hasher, ChainHasher::Create(spec.hash_scheme, root, "", spec.block_tokens));
  return std::unique_ptr<EngineBlocks>(
      new EngineBlocks(std::move(hasher), EngineCacheOf(fingerprint), spec.block_tokens, std::move(on_change)));
}

EngineBlocks::EngineBlocks(ChainHasher hasher, const NamespaceFingerprint& space, uint32_t block_tokens, OnChange on_change)
    : space_(space), block_tokens_(block_tokens), on_change_(std::move(on_change)), hasher_(std::move(hasher)) {}

absl::Status EngineBlocks::Apply(const EngineEvent& event) {
  MutexLock lock(mutex_);
  switch (event.kind) {
    case EngineEvent::Kind::kStored:
      if (per_block_ == 0 && block_tokens_ % event.block_tokens != 0) {
        return absl::FailedPreconditionError(absl::StrCat("the engine's blocks have ", event.block_tokens,
                                                          " tokens, which do not divide the namespace's ", block_tokens_));
      }
      Store(event);
      break;
    case EngineEvent::Kind::kRemoved:
      for (const std::string& hash : event.hashes) Remove(hash);
      break;
    case EngineEvent::Kind::kCleared: ClearLocked(); break;
    case EngineEvent::Kind::kOther: stats_.dropped += event.hashes.size(); break;
  }
  return absl::OkStatus();
}

void EngineBlocks::Store(const EngineEvent& event) {
  const uint32_t parts = block_tokens_ / event.block_tokens;
  const bool fits = parts * event.block_tokens == block_tokens_ && parts <= kPiecesMax;
  if (fits && (per_block_ == 0 || parts < per_block_)) {
    ClearLocked();  // what came before were prompts' tails, which are shorter
    per_block_ = parts;
  }
  const auto parent_of = [&](const std::optional<std::string>& hash) {
    const auto it = hash.has_value() ? blocks_.find(*hash) : blocks_.end();
    return it == blocks_.end() ? nullptr : it->second.get();
  };
  Block* parent = parent_of(event.parent);
  // A block behind one that is not known has no key; one of another size is a prompt's tail.
  if ((event.parent.has_value() && parent == nullptr) || event.block_tokens * per_block_ != block_tokens_ ||
      blocks_.size() + event.hashes.size() > kEngineBlocksMax || kept_bytes_ > kKeptBytesMax) {
    stats_.dropped += event.hashes.size();
    return;
  }
  for (size_t i = 0; i < event.hashes.size(); ++i) {
    std::unique_ptr<Block>& block = blocks_[event.hashes[i]];
    if (block == nullptr) block = NewBlock(parent, event, i);
    if (!block->present) ++stats_.engine_blocks;
    block->present = true;
    ++stats_.stored;
    Announce(*block);
    parent = block.get();
  }
}

std::unique_ptr<EngineBlocks::Block> EngineBlocks::NewBlock(Block* parent, const EngineEvent& event, size_t index) {
  auto block = std::make_unique<Block>();
  block->hash = event.hashes[index];
  block->parent = parent;
  const bool first = parent == nullptr || parent->index + 1 == per_block_;  // of its block of the namespace
  block->begins = parent == nullptr || (!first && parent->begins);
  if (parent != nullptr) {
    ++parent->children;
    block->index = first ? 0 : parent->index + 1;
    block->before = first ? parent->key : parent->before;
  }
  if (!first) parent->next.push_back(block.get());
  const auto tokens = std::span(event.tokens).subspan(index * event.block_tokens, event.block_tokens);
  block->tokens.assign(tokens.begin(), tokens.end());
  for (const EngineExtra& extra : index < event.extras.size() ? event.extras[index] : std::vector<EngineExtra>()) {
    if (!extra.offset_tokens.has_value()) {
      block->salt = Bounded(extra.text);
    } else if (*extra.offset_tokens >= 0) {  // else a block before has it
      block->items.push_back({Bounded(extra.text), *extra.offset_tokens + int64_t{block->index} * event.block_tokens});
    }
  }
  if (block->items.size() > kExtrasPerBlockMax) {
    block->begins = false;
    block->before.reset();
  }
  const bool last = block->index + 1 == per_block_;
  if (last && block->keyed()) block->key = KeyOf(*block);
  if (last || !block->keyed()) {
    block->salt = {};
    block->tokens = {};
    block->items = {};
  }
  kept_bytes_ += block->kept_bytes();
  return block;
}

std::optional<BlockKey> EngineBlocks::KeyOf(const Block& last) {
  std::vector<const Block*> pieces(per_block_);
  const Block* each = &last;
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece, each = each->parent) *piece = each;
  if (!last.begins) {
    hasher_.GoOnAfter(*last.before);
  } else if (!hasher_.Restart(pieces.front()->salt).ok()) {
    return std::nullopt;
  }
  std::vector<const EngineExtra*> items;
  for (const Block* piece : pieces) {
    for (const EngineExtra& item : piece->items) items.push_back(&item);
  }
  std::ranges::stable_sort(items, {}, [](const EngineExtra* item) { return *item->offset_tokens; });
  for (const EngineExtra* item : items) {
    const auto offset = static_cast<uint32_t>(*item->offset_tokens);
    if (!hasher_.AddExtra({.tag = ExtraTag::kMultimodal, .bytes = item->text, .offset_tokens = offset}).ok()) return std::nullopt;
  }
  std::vector<BlockKey> keys;
  for (const Block* piece : pieces) {
    if (!hasher_.AppendTokens(piece->tokens, keys).ok()) return std::nullopt;
  }
  return keys.size() == 1 ? std::optional(keys.front()) : std::nullopt;
}

void EngineBlocks::Announce(Block& block) {
  for (Block* next : block.next) Announce(*next);
  if (!block.key.has_value() || block.announced) return;
  const Block* each = &block;
  for (uint32_t left = per_block_; left > 0; --left, each = each->parent) {
    if (!each->present) return;
  }
  block.announced = true;
  ++stats_.blocks;
  on_change_({.name = {space_, *block.key}, .parent = block.before, .residence = Residence::kDram, .reason = GoneReason::kNone});
}

void EngineBlocks::Withdraw(Block& block) {
  for (Block* next : block.next) Withdraw(*next);
  if (!block.announced) return;
  block.announced = false;
  --stats_.blocks;
  on_change_({.name = {space_, *block.key}, .parent = block.before, .residence = Residence::kGone, .reason = GoneReason::kEvicted});
}

void EngineBlocks::Remove(const std::string& hash) {
  const auto it = blocks_.find(hash);
  if (it == blocks_.end() || !it->second->present) return;
  Block* const block = it->second.get();
  block->present = false;
  --stats_.engine_blocks;
  ++stats_.removed;
  Withdraw(*block);
  Forget(block);
}

void EngineBlocks::Forget(Block* block) {
  while (block != nullptr && !block->present && block->children == 0) {
    Block* const parent = block->parent;
    if (parent != nullptr) {
      --parent->children;
      std::erase(parent->next, block);
    }
    kept_bytes_ -= block->kept_bytes();
    blocks_.erase(blocks_.find(block->hash));
    block = parent;
  }
}

void EngineBlocks::Clear() {
  MutexLock lock(mutex_);
  ClearLocked();
}

void EngineBlocks::ClearLocked() {
  for (const auto& [hash, block] : blocks_) Withdraw(*block);
  blocks_.clear();
  kept_bytes_ = 0;
  stats_.engine_blocks = 0;
}

void EngineBlocks::Snapshot(const OnChange& each) const {
  MutexLock lock(mutex_);
  for (const auto& [hash, block] : blocks_) {
    if (!block->announced) continue;
    each({.name = {space_, *block->key}, .parent = block->before, .residence = Residence::kDram, .reason = GoneReason::kNone});
  }
}

EngineBlocksStats EngineBlocks::stats() const {
  MutexLock lock(mutex_);
  return stats_;
}

}  // namespace stem
