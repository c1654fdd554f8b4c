#include "client/get.h"

#include <algorithm>
#include <utility>

namespace stem {

GetCall::GetCall(std::shared_ptr<Session> session, std::shared_ptr<Counters> counters, v1::ClientMessage message,
                 std::span<const std::span<std::byte>> destinations, const Deadline& deadline)
    : session_(std::move(session)),
      counters_(std::move(counters)),
      message_(std::move(message)),
      destinations_(destinations),
      parts_(static_cast<uint32_t>(message_.acquire().parts_size())),
      began_(Deadline::Clock::now()),
      deadline_us_(deadline.left_us()) {}

std::shared_ptr<StemState> GetCall::Glance() {
  glanced_ = std::make_shared<StemState>(StemState::Origin{.session = session_,
                                                           .memory = session_->memory(),
                                                           .counters = counters_,
                                                           .acquire_id = 0,
                                                           .keys = *UnpackNames<BlockKey>(message_.acquire().keys()),
                                                           .parts = {message_.acquire().parts().begin(), message_.acquire().parts().end()}});
  return glanced_->Glance(destinations_) ? glanced_ : nullptr;
}

bool GetCall::OnGlanced(const LoadResult& loaded) {
  blocks_loaded_ = loaded.blocks_loaded;
  if (!loaded.status.ok()) return false;
  uint64_t bytes = 0;
  for (const std::span<std::byte> destination : destinations_) bytes += destination.size();
  v1::Got::Chain chain;
  chain.set_allocated_asked(message_.release_acquire());
  chain.set_traceparent(std::move(*message_.mutable_traceparent()));
  chain.set_payloads_loaded(glanced_->payloads_loaded());
  chain.set_bytes_loaded(bytes);
  chain.set_deadline_us(deadline_us_);
  session_->NoteGot(std::move(chain), began_);
  return true;
}

std::span<const std::span<std::byte>> GetCall::Rest(const Stem& stem) {
  const size_t positions = size_t{stem.matched_blocks()} * parts_;
  rest_.assign(destinations_.begin(), destinations_.begin() + static_cast<ptrdiff_t>(positions));
  for (uint32_t position = 0; position < positions; ++position) {
    if (position < blocks_loaded_ * parts_ || !stem.needs(position)) rest_[position] = {};
  }
  return rest_;
}

GetResult GetCall::Loaded(const Stem& stem, const LoadResult& loaded) const {
  GetResult result{.blocks_loaded = std::max(blocks_loaded_, loaded.blocks_loaded), .misses = {}, .status = loaded.status};
  for (MissRun miss : stem.misses()) {
    const uint32_t end = miss.first + miss.count;
    if (end <= result.blocks_loaded) continue;  // they left after they were copied
    miss.first = std::max(miss.first, result.blocks_loaded);
    miss.count = end - miss.first;
    result.misses.push_back(miss);
  }
  return result;
}

}  // namespace stem
