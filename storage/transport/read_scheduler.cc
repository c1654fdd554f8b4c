#include "storage/transport/read_scheduler.h"

#include <cstring>
#include <utility>

#include "proto/check.h"

namespace stem {

ReadScheduler::ReadScheduler(Limits limits, ReadWire& wire, TransportCounters& counters, OpId first_op)
    : limits_(limits), wire_(wire), counters_(counters), next_op_(first_op) {}

void ReadScheduler::Submit(PeerId peer, std::vector<ReadOp> ops, SteadyTime deadline, ReadCallbacks callbacks) {
  if (ops.empty()) {
    callbacks.on_safe(absl::OkStatus());
    return;
  }
  auto batch = std::make_shared<Batch>();
  batch->peer = peer;
  batch->first_op = next_op_;
  batch->unsafe = ops.size();
  batch->ops = std::move(ops);
  batch->callbacks = std::move(callbacks);
  batch->deadline = deadlines_.emplace(deadline, batch);
  PeerQueue& queue = queues_[peer];
  for (size_t i = 0; i < batch->ops.size(); ++i, ++next_op_) {
    queue.waiting.push_back(next_op_);
    ops_.emplace(next_op_, Op{.batch = batch});
  }
}

size_t ReadScheduler::Issue() {
  size_t issued = 0;
  for (bool any = true; any;) {
    any = false;
    // Starts behind the peer that was served last, so that a total window that is full does not starve the rest.
    auto next = queues_.upper_bound(last_served_);
    for (size_t left = queues_.size(); left > 0; --left) {
      if (next == queues_.end()) next = queues_.begin();
      const auto current = next++;
      const PeerId peer = current->first;
      if (!IssueNext(peer, current->second)) continue;
      last_served_ = peer;
      any = true;
      ++issued;
    }
  }
  if (issued > 0) wire_.Flush();
  std::erase_if(queues_, [](const auto& entry) {
    return entry.second.waiting.empty() && entry.second.ops_on_wire == 0;
  });
  return issued;
}

bool ReadScheduler::IssueNext(PeerId peer, PeerQueue& queue) {
  if (queue.waiting.empty()) return false;
  const OpId id = queue.waiting.front();
  Op& op = ops_.at(id);
  const ReadOp& read = Read(id, op);
  const uint64_t bytes = read.destination.size();
  if (queue.ops_on_wire >= limits_.peer_ops_max || !wire_.Ready(peer)) return false;
  if (queue.ops_on_wire > 0 && queue.bytes_on_wire + bytes > limits_.peer_bytes_max) return false;
  const uint64_t in_flight = counters_.bytes_in_flight;
  if (in_flight > 0 && in_flight + bytes > limits_.total_bytes_max) return false;

  queue.waiting.pop_front();
  op.on_wire = true;
  queue.bytes_on_wire += bytes;
  ++queue.ops_on_wire;
  counters_.bytes_in_flight += bytes;
  // An op that is on the wire belongs to a batch that has not expired, so its deadline is still in the map.
  const auto issued = wire_.Issue(peer, id, read, op.batch->deadline->first);
  if (!issued.ok()) {
    Ended(id, issued.status());
  } else if (*issued == ReadWire::Issued::kLanded) {
    Ended(id, absl::OkStatus());
  }
  return true;
}

void ReadScheduler::Land(OpId id, std::span<std::byte> to, std::span<const std::byte> from) {
  const Op& op = ops_.at(id);
  STEM_CHECK(!op.answered && to.size() == from.size());
  if (op.batch->callbacks.land) return op.batch->callbacks.land(id - op.batch->first_op, to, from);
  std::memcpy(to.data(), from.data(), from.size());
}

void ReadScheduler::Ended(OpId id, const absl::Status& status) {
  STEM_CHECK(ops_.contains(id));
  Answer(id, status);
  MakeSafe(id);
}

void ReadScheduler::Answer(OpId id, const absl::Status& status) {
  Op& op = ops_.at(id);
  if (op.answered) return;
  op.answered = true;
  if (status.ok()) {
    ++counters_.ops_landed;
    counters_.bytes_read += Read(id, op).destination.size();
  } else {
    ++counters_.ops_failed;
    if (op.batch->outcome.ok()) op.batch->outcome = status;
  }
  if (op.batch->callbacks.on_op) op.batch->callbacks.on_op(id - op.batch->first_op, status);
}

void ReadScheduler::MakeSafe(OpId id) {
  auto node = ops_.extract(id);
  const Op& op = node.mapped();
  STEM_CHECK(op.answered);
  Batch& batch = *op.batch;
  if (op.on_wire) {
    const uint64_t bytes = Read(id, op).destination.size();
    PeerQueue& queue = queues_.at(batch.peer);
    queue.bytes_on_wire -= bytes;
    --queue.ops_on_wire;
    counters_.bytes_in_flight -= bytes;
  }
  --counters_.ops_queued;
  if (--batch.unsafe > 0) return;
  if (!batch.expired) deadlines_.erase(batch.deadline);
  batch.callbacks.on_safe(batch.outcome);
}

bool ReadScheduler::Fail(const std::vector<OpId>& ids, const absl::Status& status, bool memory_is_safe) {
  // Every answer first: a caller whose time is up should not wait for the wire to be told.
  for (const OpId id : ids) Answer(id, status);
  bool any_on_wire = false;
  for (const OpId id : ids) {
    const bool on_wire = ops_.at(id).on_wire;
    any_on_wire |= on_wire;
    if (!on_wire || memory_is_safe || wire_.GiveUp(id)) MakeSafe(id);
  }
  return any_on_wire;
}

std::vector<PeerId> ReadScheduler::Expire(SteadyTime now) {
  std::vector<PeerId> given_up;
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const std::shared_ptr<Batch> batch = deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    batch->expired = true;
    std::vector<OpId> late;
    for (OpId id = batch->first_op; id < batch->first_op + batch->ops.size(); ++id) {
      if (const auto op = ops_.find(id); op != ops_.end() && !op->second.answered) late.push_back(id);
    }
    counters_.ops_expired += late.size();
    if (Fail(late, absl::DeadlineExceededError("the read's deadline passed before its bytes came"), false)) {
      given_up.push_back(batch->peer);
    }
    std::erase_if(queues_[batch->peer].waiting, [this](OpId id) { return !ops_.contains(id); });
  }
  return given_up;
}

void ReadScheduler::Lose(PeerId peer, const absl::Status& why) {
  std::vector<OpId> lost;
  for (const auto& [id, op] : ops_) {
    if (op.batch->peer == peer) lost.push_back(id);
  }
  Fail(lost, why, false);
  if (const auto queue = queues_.find(peer); queue != queues_.end()) queue->second.waiting.clear();
}

void ReadScheduler::LoseAll(const absl::Status& why, bool memory_is_safe) {
  std::vector<OpId> lost;
  for (const auto& [id, op] : ops_) lost.push_back(id);
  Fail(lost, why, memory_is_safe);
  for (auto& [peer, queue] : queues_) queue.waiting.clear();
}

size_t ReadScheduler::on_wire(PeerId peer) const {
  const auto queue = queues_.find(peer);
  return queue == queues_.end() ? 0 : queue->second.ops_on_wire;
}

SteadyTime ReadScheduler::NextDeadline() const {
  return deadlines_.empty() ? SteadyTime::max() : deadlines_.begin()->first;
}

}  // namespace stem
