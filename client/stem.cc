#include "client/stem.h"

#include "client/stem_state.h"

namespace stem {

uint32_t Stem::matched_blocks() const { return state_->matched_blocks(); }
uint32_t Stem::chain_blocks() const { return state_->chain_blocks(); }
uint32_t Stem::parts_asked() const { return state_->parts_asked(); }
bool Stem::needs(uint32_t position) const { return state_->needs(position); }
uint32_t Stem::landed_blocks() const { return state_->landed_blocks(); }
stemcache::v1::Source Stem::source(uint32_t block) const { return state_->source(block); }
std::vector<MissRun> Stem::misses() const { return state_->misses(); }
stemcache::v1::Truth Stem::truth() const { return state_->truth(); }
stemcache::v1::Difference Stem::difference() const { return state_->difference(); }

bool View::intact() const { return state_->session_lives(); }

}  // namespace stem
