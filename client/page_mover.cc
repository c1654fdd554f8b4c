#include "client/page_mover.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/checksum.h"

namespace stem {

absl::StatusOr<std::unique_ptr<PageMover>> PageMover::Create(CacheClient& client, EnginePages pages, uint32_t load_threads,
                                                             LocalProof proof) {
  STEM_TRY(CheckPages(pages, client.space()));
  if (load_threads == 0 || load_threads > 64) {
    return absl::InvalidArgumentError(absl::StrCat("load_threads is ", load_threads, "; it must be 1 to 64"));
  }
  std::unique_ptr<PageMover> mover(new PageMover(client, std::move(pages), proof));
  for (uint32_t i = 0; i < load_threads + 1 && mover->pages_.make_queue; ++i) {
    STEM_ASSIGN(std::unique_ptr<PageExchange> exchange, PageExchange::Create(mover->pages_));
    mover->exchanges_.push_back(std::move(exchange));
  }
  for (uint32_t i = 0; i < load_threads + 1; ++i) {
    PageExchange* const exchange = mover->exchanges_.empty() ? nullptr : mover->exchanges_[i].get();
    mover->threads_.emplace_back([m = mover.get(), saves = i == load_threads, exchange] { m->Work(saves, exchange); });
  }
  return mover;
}

PageMover::PageMover(CacheClient& client, EnginePages pages, LocalProof proof)
    : client_(client), pages_(std::move(pages)), part_ids_(pages_.part_ids()), proof_(proof) {}

PageMover::~PageMover() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    changed_.NotifyAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

absl::Status PageMover::Check(const MoveJob& job) const {
  if (job.first_block >= job.keys.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("first_block is ", job.first_block, "; the job has ", job.keys.size(), " keys"));
  }
  const size_t pages = (job.keys.size() - job.first_block) * pages_.pages_of_all_tables();
  if (job.pages.size() != pages) {
    return absl::InvalidArgumentError(absl::StrCat("the job has ", job.pages.size(), " pages; its ",
                                                   job.keys.size() - job.first_block, " blocks need ", pages));
  }
  for (const int32_t page : job.pages) {
    if (page >= 0 && static_cast<uint32_t>(page) < pages_.page_count) continue;
    if (page == kNoPage) continue;
    return absl::InvalidArgumentError(absl::StrCat("page ", page, " is none of the engine's ", pages_.page_count));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> PageMover::Submit(MoveJob job) {
  STEM_TRY(Check(job));
  MutexLock lock(mutex_);
  std::deque<Queued>& queue = queues_[job.save ? 1 : 0];
  if (queue.size() >= kJobsMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(kJobsMax, job.save ? " saves" : " loads", " wait already, which is the limit"));
  }
  const uint64_t ticket = next_ticket_++;
  queue.push_back({ticket, std::move(job)});
  ++outstanding_;
  changed_.NotifyAll();
  return ticket;
}

std::vector<MoveResult> PageMover::Poll() {
  MutexLock lock(mutex_);
  outstanding_ -= results_.size();
  return std::exchange(results_, {});
}

size_t PageMover::outstanding() const {
  MutexLock lock(mutex_);
  return outstanding_;
}

void PageMover::Work(bool saves, PageExchange* exchange) {
  if (exchange != nullptr) (void)exchange->EnterThread();  // what fails fails again with the first job, which tells
  while (true) {
    Queued next;
    {
      MutexLock lock(mutex_);
      while (!stopped_ && queues_[saves].empty()) changed_.Wait(mutex_);
      if (stopped_) return;
      next = std::move(queues_[saves].front());
      queues_[saves].pop_front();
    }
    MoveResult result = Move(next.job, exchange);
    result.ticket = next.ticket;
    MutexLock lock(mutex_);
    results_.push_back(std::move(result));
  }
}

MoveResult PageMover::Run(const MoveJob& job) {
  if (!pages_.make_queue) return Move(job, nullptr);
  MutexLock lock(run_mutex_);
  if (run_exchange_ == nullptr) {
    absl::StatusOr<std::unique_ptr<PageExchange>> exchange = PageExchange::Create(pages_);
    if (!exchange.ok()) {
      MoveResult result;
      result.save = job.save;
      result.status = exchange.status();
      return result;
    }
    run_exchange_ = *std::move(exchange);
  }
  return Move(job, run_exchange_.get());
}

MoveResult PageMover::Move(const MoveJob& job, PageExchange* exchange) {
  MoveResult result;
  result.save = job.save;
  result.status = Check(job);
  const absl::Time deadline = absl::Now() + job.timeout;
  if (result.status.ok() && job.after) result.status = AwaitEngine(job, deadline);
  if (!result.status.ok()) return result;
  const absl::Time start = absl::Now();
  if (job.save) {
    Save(job, exchange, deadline, result);
  } else {
    Load(job, exchange, deadline, result);
  }
  result.took = absl::Now() - start;
  return result;
}

absl::Status PageMover::AwaitEngine(const MoveJob& job, absl::Time deadline) {
  constexpr absl::Duration kGlance = absl::Microseconds(100);  // a step takes milliseconds
  while (true) {
    STEM_ASSIGN(const bool ended, job.after());
    if (ended) return absl::OkStatus();
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(absl::StrCat("the engine's own work on these pages did not end within ", absl::FormatDuration(job.timeout)));
    }
    MutexLock lock(mutex_);
    if (stopped_) return absl::CancelledError("the mover ends");
    changed_.WaitFor(mutex_, std::min(left, kGlance));
  }
}

BlockPages PageMover::PagesOf(const MoveJob& job, size_t block) const {
  return BlockPages(pages_, job.pages, job.keys.size() - job.first_block, block - job.first_block);
}

void PageMover::Load(const MoveJob& job, PageExchange* exchange, absl::Time deadline, MoveResult& result) {
  AcquireOptions options{.parts = part_ids_, .request = job.request, .traceparent = job.traceparent, .probe = job.probe, .conversation = job.conversation};
  absl::StatusOr<Stem> stem = client_.Acquire(job.keys, options, deadline);
  if (!stem.ok()) {
    result.status = stem.status();
    return;
  }
  uint32_t end = std::min(stem->matched_blocks(), static_cast<uint32_t>(job.keys.size()));
  if (end < job.keys.size()) {
    result.status = absl::NotFoundError(
        absl::StrCat("the stem ends after ", end, " of ", job.keys.size(), " blocks; the rest left since it was looked up"));
    if (client_.space().windowed()) return;  // a shorter stem has other windows, for which there are no pages
  }
  const auto load_block = [&](uint32_t block) {
    for (size_t part = 0; part < pages_.parts.size(); ++part) STEM_TRY(LoadPart(*stem, job, block, part, exchange, deadline, result));
    return absl::OkStatus();
  };
  for (uint32_t block = job.first_block; block < end; ++block) {
    if (absl::Status status = load_block(block); !status.ok()) {
      result.status = std::move(status);
      break;
    }
    ++result.blocks_moved;
    ++result.blocks_from[static_cast<size_t>(stem->source(block))];
  }
  if (exchange == nullptr) return;
  if (absl::Status status = exchange->Finish(); !status.ok()) {  // which of them are in their pages nobody knows
    result.status = std::move(status);
    result.blocks_moved = 0;
    result.blocks_from = {};
    result.bytes = 0;
  }
}

absl::Status PageMover::LoadPart(const Stem& stem, const MoveJob& job, uint32_t block, size_t part, PageExchange* exchange,
                                 absl::Time deadline, MoveResult& result) {
  const EnginePart& engine = pages_.parts[part];
  const BlockPages pages = PagesOf(job, block);
  const uint64_t bytes = pages.bytes(engine);
  if (bytes == 0) return absl::OkStatus();
  const auto position = static_cast<uint32_t>(block * pages_.parts.size() + part);
  if (exchange == nullptr) {
    STEM_TRY(Bring(stem, position, RangesOf(engine, pages), deadline));
  } else {
    STEM_ASSIGN(const std::span<std::byte> room, exchange->Room(position, pages_.block_bytes(engine)));
    const PayloadRange whole{.offset = 0, .destination = room};
    STEM_TRY(Bring(stem, position, {&whole, 1}, deadline));
    STEM_TRY(exchange->ToPages(engine, pages, position));
  }
  result.bytes += bytes;
  return absl::OkStatus();
}

absl::Status PageMover::Bring(const Stem& stem, uint32_t position, std::span<const PayloadRange> ranges, absl::Time deadline) {
  if (proof_ == LocalProof::kHeader) {
    const absl::StatusOr<View> view = client_.Read(stem, position, deadline);
    if (view.ok()) {
      for (const PayloadRange& range : ranges) CopyPayload(range.destination, view->payload().subspan(range.offset, range.destination.size()));
      if (view->intact()) return absl::OkStatus();  // else there was no pin, and only the digest can tell
    } else if (view.status().code() != absl::StatusCode::kFailedPrecondition) {
      return view.status();  // another node's memory is not read in place
    }
  }
  return client_.LoadRanges(stem, position, ranges, deadline);
}

void PageMover::Save(const MoveJob& job, PageExchange* exchange, absl::Time deadline, MoveResult& result) {
  for (const EnginePart& part : pages_.parts) {
    const uint64_t block_bytes = pages_.block_bytes(part);
    const auto whole = [&](size_t block) { return PagesOf(job, block).bytes(part) == block_bytes; };
    for (size_t first = job.first_block; first < job.keys.size() && result.status.ok();) {
      size_t end = first;
      while (end < job.keys.size() && whole(end)) ++end;
      if (end > first) SaveRun(job, part, first, end, exchange, deadline, result);
      first = end + 1;
    }
  }
}

absl::Status PageMover::Stage(const MoveJob& job, const EnginePart& part, size_t first, std::span<const WantedPayload> wanted,
                              PageExchange* exchange) {
  if (exchange == nullptr) {
    for (const WantedPayload& payload : wanted) {
      for (const PayloadRange& range : RangesOf(part, PagesOf(job, first + payload.block))) {
        CopyPayload(payload.staging.subspan(range.offset, range.destination.size()), range.destination);
      }
    }
    return absl::OkStatus();
  }
  absl::Status status = absl::OkStatus();
  size_t queued = 0;
  for (size_t done = 0; done < wanted.size() && status.ok(); ++done) {
    for (; queued < wanted.size() && queued - done < exchange->rooms() && status.ok(); ++queued) {
      status = exchange->FromPages(part, PagesOf(job, first + wanted[queued].block), queued);
    }
    if (!status.ok()) break;
    const absl::StatusOr<std::span<std::byte>> room = exchange->Room(done, wanted[done].staging.size());
    status = room.status();
    if (room.ok()) CopyPayload(wanted[done].staging, *room);
  }
  if (!status.ok()) (void)exchange->Finish();  // so that the next job's rooms are free
  return status;
}

void PageMover::SaveRun(const MoveJob& job, const EnginePart& part, size_t first, size_t end, PageExchange* exchange, absl::Time deadline,
                        MoveResult& result) {
  ReserveOptions options{.parent = {}, .parts = {part.id}, .traceparent = job.traceparent, .probe = job.probe, .conversation = job.conversation};
  // As much as staging holds at a time.
  while (first < end) {
    if (first > 0) options.parent = job.keys[first - 1];
    absl::StatusOr<Reservation> reserved = client_.Reserve(std::span(job.keys).subspan(first, end - first), options, deadline);
    if (!reserved.ok()) {
      result.status = reserved.status();
      return;
    }
    const bool all = reserved->staging_bytes_missing() == 0;
    result.blocks_held += all ? reserved->held() + reserved->being_published() : 0;
    const std::string reason = reserved->reason();
    const uint32_t refused = all ? reserved->refused() : 0;
    size_t next = end;
    if (!all) {
      if (reserved->wanted().empty()) {
        result.blocks_refused += static_cast<uint32_t>(end - first);
        result.status = absl::ResourceExhaustedError(absl::StrCat("staging has no room for a block of ", pages_.block_bytes(part), " bytes"));
        return;
      }
      next = first + reserved->wanted().back().block + 1;
    }
    if (absl::Status staged = Stage(job, part, first, reserved->wanted(), exchange); !staged.ok()) {
      result.status = std::move(staged);
      return;
    }
    for (const WantedPayload& wanted : reserved->wanted()) result.bytes += wanted.staging.size();
    const absl::StatusOr<CommitResult> committed = client_.Commit(*std::move(reserved), deadline);
    if (!committed.ok()) {
      result.status = committed.status();
      return;
    }
    result.blocks_moved += committed->committed;
    result.blocks_held += committed->duplicate;
    result.blocks_refused += committed->refused + refused;
    if (committed->refused + refused > 0) {
      result.status = absl::ResourceExhaustedError(committed->refused > 0 ? committed->reason : reason);
      return;
    }
    first = next;
  }
}

}  // namespace stem
