#include "tests/bench/directory/fleet_probe.h"

#include <chrono>
#include <utility>

#include "tests/bench/directory/directory_process.h"

namespace stem::bench {

Prober::Prober(const Fleet& fleet, const std::vector<std::string>& directories, uint32_t chain_blocks,
               double per_second)
    : fleet_(fleet), chain_blocks_(chain_blocks), per_second_(per_second), secret_(BenchSecret()) {
  for (const std::string& address : directories) stubs_.push_back(v1::Directory::NewStub(OwnChannel(address)));
}

Prober::~Prober() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void Prober::Start() {
  thread_ = std::thread([this] { Loop(); });
}

std::optional<v1::MatchReply> Prober::Ask(size_t directory, uint64_t chain, int millis) const {
  grpc::ClientContext context;
  secret_.AddToken(context);
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(millis));
  v1::MatchRequest request;
  const NamespaceFingerprint space = BenchSpace();
  request.set_namespace_fingerprint(space.bytes().data(), space.bytes().size());
  request.set_keys(PackKeys(KeysAt(chain, 0, chain_blocks_)));
  v1::MatchReply reply;
  if (!stubs_[directory]->Match(&context, request, &reply).ok()) return std::nullopt;
  return reply;
}

// The preferred directory first; the others when it does not answer, or not exactly. The best answer counts.
void Prober::Probe(uint64_t chain) {
  const Clock::time_point begin = Clock::now();
  std::optional<v1::MatchReply> best;
  uint64_t tries = 0;
  for (size_t i = 0; i < stubs_.size() && !(best && best->truth().exact()); ++i) {
    const size_t directory = (preferred_ + i) % stubs_.size();
    const int left = kDeadlineMillis - static_cast<int>(SecondsSince(begin) * 1e3);
    if (left <= 0) break;
    std::optional<v1::MatchReply> reply = Ask(directory, chain, std::min(left, kAttemptMillis));
    ++tries;
    if (!reply) continue;
    if (!best || reply->truth().exact() || reply->matched_blocks() > best->matched_blocks()) {
      best = std::move(reply);
      if (best->truth().exact()) preferred_ = directory;
    }
  }
  MutexLock lock(mutex_);
  ++counts_.asked;
  counts_.second_tries += tries > 1 ? 1 : 0;
  counts_.ns.Add(SecondsSince(begin) * 1e9);
  if (!best) return;
  ++counts_.answered;
  counts_.whole += best->matched_blocks() == chain_blocks_ ? 1 : 0;
  counts_.exact += best->truth().exact() ? 1 : 0;
}

void Prober::Loop() {
  const Clock::time_point begin = Clock::now();
  for (uint64_t turn = 0; !stop_; ++turn) {
    const auto due =
        begin + std::chrono::nanoseconds(static_cast<int64_t>(static_cast<double>(turn) / per_second_ * 1e9));
    std::this_thread::sleep_until(due);
    const FleetNode& node = fleet_.node(static_cast<uint32_t>(Mix(turn) % fleet_.alive()));
    Probe(node.ChainAt(Mix(~turn) % node.stable()));
  }
}

nlohmann::ordered_json Prober::Take() {
  Counts counts;
  {
    MutexLock lock(mutex_);
    counts = std::exchange(counts_, Counts());
  }
  const auto share = [&](uint64_t part) {
    return counts.asked == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(counts.asked);
  };
  return {{"matches", counts.asked},
          {"answered_%", share(counts.answered)},
          {"whole_%", share(counts.whole)},
          {"exact_%", share(counts.exact)},
          {"second_try_%", share(counts.second_tries)},
          {"p50_us", counts.ns.At(0.5) / 1e3},
          {"p99_us", counts.ns.At(0.99) / 1e3},
          {"max_ms", counts.ns.At(1) / 1e6}};
}

}  // namespace stem::bench
