#include "services/ctl/replay_client.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/ctl/cluster_state.h"
#include "services/ctl/replay_router.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;

constexpr size_t kWindowBytes = 2 << 20;  // loaded, then compared while it is in the cache; a larger block goes alone
constexpr uint64_t kStagingBytes = 16 << 20;
constexpr absl::Duration kConnectPatience = absl::Seconds(10);
constexpr absl::Duration kProbeInterval = absl::Milliseconds(250);  // between two tries at a node that is away
constexpr absl::Duration kNobodyPause = absl::Milliseconds(50);

// What a status of Acquire or Load means for the blocks that it left unserved.
v1::MissCause CauseOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable: return v1::MISS_CAUSE_NODE_LOST;
    case absl::StatusCode::kDeadlineExceeded: return v1::MISS_CAUSE_DEADLINE;
    case absl::StatusCode::kResourceExhausted: return v1::MISS_CAUSE_REFUSED;
    case absl::StatusCode::kDataLoss: return v1::MISS_CAUSE_INTEGRITY;
    default: return v1::MISS_CAUSE_UNKNOWN;
  }
}

// Statuses that end a request in misses. All others mean that this replay or the node is wrong.
bool IsLoss(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsResourceExhausted(status);
}

}  // namespace

NamespaceSpec ReplaySpace(uint32_t block_tokens, uint32_t bytes_per_token) {
  NamespaceSpec space;
  space.model = "stemctl-replay";
  space.kv_dtype = "opaque";
  space.layout = "opaque";
  space.block_tokens = block_tokens;
  space.parts.push_back({.block_bytes = uint64_t{block_tokens} * bytes_per_token});
  return space;
}

ReplayClient::ReplayClient(const ReplayOptions& options, const ReplayHooks& hooks, uint32_t block_tokens,
                           uint32_t client)
    : options_(options),
      hooks_(hooks),
      block_tokens_(block_tokens),
      block_bytes_(size_t{block_tokens} * options.bytes_per_token),
      publisher_((options.seed << 16) + client + 1),
      memory_(std::make_unique_for_overwrite<std::byte[]>(std::max(kWindowBytes, block_bytes_))),
      window_blocks_(static_cast<uint32_t>(std::max(kWindowBytes, block_bytes_) / block_bytes_)),
      tokens_(block_tokens) {
  for (uint32_t i = 0; i < window_blocks_; ++i) windows_.emplace_back(memory_.get() + i * block_bytes_, block_bytes_);
}

absl::StatusOr<std::unique_ptr<ReplayClient>> ReplayClient::Connect(const ReplayOptions& options,
                                                                    const ReplayHooks& hooks, uint32_t block_tokens,
                                                                    uint32_t client) {
  auto made = std::unique_ptr<ReplayClient>(new ReplayClient(options, hooks, block_tokens, client));
  for (const std::string& socket : options.nodes) {
    CacheClient::Options node;
    node.node = GrpcTarget(socket);
    node.space = ReplaySpace(block_tokens, options.bytes_per_token);
    node.staging_bytes = std::max<uint64_t>(kStagingBytes, 2 * made->block_bytes_);
    node.client_name = absl::StrCat("stemctl replay, client ", client + 1);
    auto connected = CacheClient::Connect(std::move(node), absl::Now() + kConnectPatience);
    if (!connected.ok()) {
      return absl::Status(connected.status().code(), absl::StrCat("node ", socket, ": ", connected.status().message()));
    }
    made->nodes_.push_back(*std::move(connected));
    if (made->nodes_.back()->fingerprint() != made->space()) {
      return absl::FailedPreconditionError(absl::StrCat("nodes ", options.nodes.front(), " and ", socket,
                                                        " name the namespace differently: they are of two clusters"));
    }
  }
  made->next_probe_.assign(made->nodes_.size(), absl::InfinitePast());
  STEM_ASSIGN(ChainHasher hasher, made->nodes_.front()->NewHasher());
  made->hasher_.emplace(std::move(hasher));
  return made;
}

std::vector<std::string> ReplayClient::node_names() const {
  std::vector<std::string> names;
  for (const auto& node : nodes_) names.push_back(node->node());
  return names;
}

uint64_t ReplayClient::TokensOfBlock(const TraceRequest& request, uint32_t block) const {
  return std::min<uint64_t>(block_tokens_, request.input_tokens - uint64_t{block} * block_tokens_);
}

absl::Status ReplayClient::Prepare(const TraceRequest& request) {
  ++tally_.requests;
  tally_.prompt_tokens += request.input_tokens;
  last_hits_ = 0;
  keys_.clear();
  prefixes_.clear();
  size_t blocks = request.hash_ids.size();
  const uint64_t tail_tokens = request.input_tokens % block_tokens_;
  if (options_.partial == PartialBlock::kDrop && tail_tokens != 0) {
    --blocks;
    tally_.miss_tokens[v1::MISS_CAUSE_BELOW_BLOCK] += tail_tokens;
  }
  STEM_TRY(hasher_->Restart({}));
  prefix_hasher_.Reset(space());
  for (size_t i = 0; i < blocks; ++i) {
    TokensOf(request.hash_ids[i], tokens_);
    STEM_TRY(hasher_->AppendTokens(tokens_, keys_));
    prefixes_.push_back(prefix_hasher_.Extend(tokens_));
  }
  return absl::OkStatus();
}

absl::Status ReplayClient::Serve(uint64_t index, const TraceRequest& request, ReplayRouter& router) {
  STEM_TRY(Prepare(request));
  if (keys_.empty()) return absl::OkStatus();
  const absl::Time deadline = absl::Now() + options_.deadline;
  size_t place = router.NodeFor(index, request, keys_, deadline);
  const absl::Time sent = absl::Now();
  absl::StatusOr<Stem> stem = AcquireSomewhere(place, deadline, &place);
  CacheClient& node = *nodes_[place];
  if (!stem.ok()) {
    if (!IsLoss(stem.status())) return stem.status();
    CountMisses(request, 0, {}, stem.status());
    if (!node.connected()) return absl::OkStatus();
    return Publish(0, node);  // the engine has computed it: only the answer was too late
  }
  tally_.match_latency.Record(absl::Now() - sent);
  absl::Status loaded_status;
  if (const uint32_t promised = stem->matched_blocks(); promised > 0) {
    // Only waits: what is wrong with the block shows in Load.
    node.Read(*stem, promised - 1, deadline).status().IgnoreError();
  }
  tally_.acquire_latency.Record(absl::Now() - sent);
  last_hits_ = LoadAndCheck(request, *stem, node, deadline, &loaded_status);
  CountMisses(request, last_hits_, stem->misses(), loaded_status);
  // The stem's pins hold the parent of what is published.
  if (last_hits_ < keys_.size()) STEM_TRY(Publish(last_hits_, node));
  node.Release(*std::move(stem));
  return absl::OkStatus();
}

absl::StatusOr<Stem> ReplayClient::AcquireSomewhere(size_t preferred, absl::Time deadline, size_t* node) {
  for (;;) {
    for (size_t i = 0; i < nodes_.size(); ++i) {
      *node = (preferred + i) % nodes_.size();
      CacheClient& client = *nodes_[*node];
      const bool was_there = client.connected();
      if (!was_there && absl::Now() < next_probe_[*node]) continue;
      absl::StatusOr<Stem> stem = client.Acquire(keys_, {}, deadline);
      if (was_there || !absl::IsUnavailable(stem.status())) return stem;
      next_probe_[*node] = absl::Now() + kProbeInterval;
    }
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return absl::UnavailableError("no node is there");
    std::this_thread::sleep_for(absl::ToChronoMicroseconds(std::min(left, kNobodyPause)));
  }
}

uint32_t ReplayClient::LoadAndCheck(const TraceRequest& request, const Stem& stem, CacheClient& node,
                                    absl::Time deadline, absl::Status* status) {
  uint32_t loaded = 0;
  absl::Duration loading;
  while (status->ok() && loaded < stem.matched_blocks()) {
    const uint32_t count = std::min(window_blocks_, stem.matched_blocks() - loaded);
    const auto payloads = std::span<const std::span<std::byte>>(windows_).first(count);
    const absl::Time begun = absl::Now();
    LoadResult result = node.Load(stem, loaded, payloads, deadline);
    loading += absl::Now() - begun;
    *status = std::move(result.status);
    if (hooks_.loaded) hooks_.loaded(request, loaded, payloads.first(result.blocks_loaded));
    Check(request, stem, loaded, result.blocks_loaded);
    loaded += result.blocks_loaded;
  }
  if (loaded > 0) tally_.load_latency.Record(loading);
  return loaded;
}

void ReplayClient::Check(const TraceRequest& request, const Stem& stem, uint32_t first, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t block = first + i;
    const v1::Source source = stem.source(block);
    ++tally_.hits[source];
    tally_.bytes_loaded[source] += block_bytes_;
    tally_.matched_tokens += TokensOfBlock(request, block);
    const auto mismatch = CheckPayload(prefixes_[block], windows_[i]);
    if (!mismatch) continue;
    ++tally_.mismatches;
    if (tally_.mismatch_examples.size() < kMismatchExamplesMax) {
      tally_.mismatch_examples.push_back(absl::StrFormat("request of line %d, block %d of %d (%s), %s", request.line,
                                                         block, keys_.size(), v1::Source_Name(source),
                                                         mismatch->ToString()));
    }
  }
}

void ReplayClient::CountMiss(const TraceRequest& request, uint32_t block, v1::MissCause cause) {
  ++tally_.misses[cause];
  tally_.miss_tokens[cause] += TokensOfBlock(request, block);
}

void ReplayClient::CountMisses(const TraceRequest& request, uint32_t first, const std::vector<MissRun>& runs,
                               const absl::Status& status) {
  const auto blocks = static_cast<uint32_t>(keys_.size());
  uint32_t next = first;
  const auto count_to = [&](uint32_t end, v1::MissCause cause) {
    for (; next < std::min(end, blocks); ++next) CountMiss(request, next, cause);
  };
  const v1::MissCause own = CauseOf(status);
  // Between what was loaded and what the stem itself gave up: this client failed to get it.
  const uint32_t given_up = runs.empty() ? blocks : runs.front().first;
  if (own == v1::MISS_CAUSE_INTEGRITY && next < given_up) {
    count_to(next + 1, own);
    count_to(given_up, v1::MISS_CAUSE_UNREACHABLE);  // held, but behind the block that failed its proof
  }
  count_to(given_up, own);
  for (const MissRun& run : runs) count_to(run.first + run.count, run.cause);
  count_to(blocks, v1::MISS_CAUSE_UNKNOWN);
}

// Staging may hold less than a long prompt: then it goes in several rounds, each the parent of the next.
absl::Status ReplayClient::Publish(uint32_t first, CacheClient& node) {
  const auto blocks = static_cast<uint32_t>(keys_.size());
  absl::Duration publishing;
  while (first < blocks) {
    ReserveOptions reserve;
    if (first > 0) reserve.parent = keys_[first - 1];
    const absl::Time begun = absl::Now();
    auto reservation =
        node.Reserve(std::span<const BlockKey>(keys_).subspan(first), reserve, begun + options_.deadline);
    publishing += absl::Now() - begun;
    if (!reservation.ok()) {
      tally_.publish.failed += blocks - first;
      return IsLoss(reservation.status()) ? absl::OkStatus() : reservation.status();
    }
    const auto wanted = static_cast<uint32_t>(reservation->wanted().size());
    const bool again = wanted > 0 && reservation->staging_bytes_missing() > 0;
    const uint32_t next = again ? first + reservation->wanted().back().block + 1 : blocks;
    const uint32_t refused = again ? 0 : reservation->refused();  // else those that the next round asks for
    tally_.publish.refused += refused;
    if (refused > 0) NoteRefusal(reservation->reason());
    tally_.publish.not_wanted += next - first - wanted - refused;
    if (wanted > 0) {
      const absl::Status committed = WriteAndCommit(*std::move(reservation), first, node, &publishing);
      if (!committed.ok()) {
        tally_.publish.failed += wanted + (blocks - next);
        return IsLoss(committed) ? absl::OkStatus() : committed;
      }
    }
    first = next;
  }
  tally_.publish_latency.Record(publishing);
  return absl::OkStatus();
}

void ReplayClient::NoteRefusal(const std::string& reason) {
  if (tally_.publish.refused_reason.empty()) tally_.publish.refused_reason = reason;
}

absl::Status ReplayClient::WriteAndCommit(Reservation reservation, uint32_t first, CacheClient& node,
                                          absl::Duration* publishing) {
  for (const WantedPayload& payload : reservation.wanted()) {
    FillPayload(prefixes_[first + payload.block], {publisher_, ++publish_number_}, payload.staging);
  }
  const absl::Time begun = absl::Now();
  const auto result = node.Commit(std::move(reservation), begun + options_.deadline);
  *publishing += absl::Now() - begun;
  if (!result.ok()) return result.status();
  tally_.publish.committed += result->committed;
  tally_.publish.duplicate += result->duplicate;
  tally_.publish.refused += result->refused;
  if (result->refused > 0) NoteRefusal(result->reason);
  tally_.bytes_published += uint64_t{result->committed} * block_bytes_;
  return absl::OkStatus();
}

}  // namespace stem
