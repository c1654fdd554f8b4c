// One Get of a chain: what lies whole in the node's memory is copied without a call, and the node told afterwards; else the node is asked, and
// what it promises is loaded. The caller runs the steps: this says which.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "client/cache_client.h"
#include "client/counters.h"
#include "client/deadline.h"
#include "client/session.h"
#include "client/stem_state.h"
#include "stemcache/v1/node.pb.h"

namespace stem {

// Threads: one at a time.
class GetCall {
 public:
  // `message`: the Acquire that would ask for it. `destinations`: one span per position; borrowed, with the memory they name.
  GetCall(std::shared_ptr<Session> session, std::shared_ptr<Counters> counters, v1::ClientMessage message,
          std::span<const std::span<std::byte>> destinations, const Deadline& deadline);

  // Null: it does not all lie there, ask for it. Else the stem of which `destinations` are to be loaded.
  std::shared_ptr<StemState> Glance();
  // What came of that. True when it was everything; else the rest is to be asked for.
  bool OnGlanced(const LoadResult& loaded);

  // The Acquire to send. Once.
  v1::ClientMessage TakeMessage() { return std::move(message_); }
  // What is to be loaded of the stem that was acquired: one span per position of its blocks. Lives as long as this.
  std::span<const std::span<std::byte>> Rest(const Stem& stem);

  // The end, one of these.
  GetResult Whole() const { return {.blocks_loaded = blocks_loaded_, .misses = {}, .status = absl::OkStatus()}; }
  GetResult Failed(absl::Status why) const { return {.blocks_loaded = blocks_loaded_, .misses = {}, .status = std::move(why)}; }
  GetResult Loaded(const Stem& stem, const LoadResult& loaded) const;

  const std::shared_ptr<Session>& session() const { return session_; }
  std::span<const std::span<std::byte>> destinations() const { return destinations_; }

 private:
  const std::shared_ptr<Session> session_;
  const std::shared_ptr<Counters> counters_;
  v1::ClientMessage message_;
  const std::span<const std::span<std::byte>> destinations_;
  const uint32_t parts_;
  const Deadline::Clock::time_point began_;
  const uint64_t deadline_us_;
  std::shared_ptr<StemState> glanced_;
  uint32_t blocks_loaded_ = 0;
  std::vector<std::span<std::byte>> rest_;
};

}  // namespace stem
