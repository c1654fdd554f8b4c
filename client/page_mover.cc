#include "client/page_mover.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/checksum.h"

namespace stem {
namespace {

// Walks the pages of one block in the order of its payload: Take(n) gives where the next bytes belong in the engine's
// memory, at most n of them and never beyond a page; null = that page is skipped.
class PageWalk {
 public:
  struct Piece {
    std::byte* at = nullptr;
    size_t bytes = 0;
  };

  PageWalk(const EnginePages& engine, std::span<const int32_t> pages) : engine_(engine), pages_(pages) {}

  Piece Take(size_t bytes_max) {
    const EnginePlane& plane = engine_.planes[plane_];
    const size_t bytes = std::min<size_t>(bytes_max, plane.page_bytes - offset_);
    const int32_t page = pages_[page_];
    std::byte* at =
        page == MoveJob::kSkip ? nullptr : plane.base + static_cast<uint64_t>(page) * plane.stride_bytes + offset_;
    offset_ += bytes;
    if (offset_ == plane.page_bytes) {
      offset_ = 0;
      if (++page_ == pages_.size()) {
        page_ = 0;
        ++plane_;
      }
    }
    return {at, bytes};
  }

 private:
  const EnginePages& engine_;
  const std::span<const int32_t> pages_;
  size_t plane_ = 0;
  size_t page_ = 0;
  uint64_t offset_ = 0;
};

// Page ids of `block` of the job's chain.
std::span<const int32_t> PagesOf(const EnginePages& engine, const MoveJob& job, size_t block) {
  return std::span(job.pages).subspan((block - job.first_block) * engine.pages_per_block, engine.pages_per_block);
}

void CopyPages(std::span<const std::byte> payload, PageWalk walk) {
  for (size_t done = 0; done < payload.size();) {
    const PageWalk::Piece piece = walk.Take(payload.size() - done);
    if (piece.at != nullptr) CopyPayload({piece.at, piece.bytes}, payload.subspan(done, piece.bytes));
    done += piece.bytes;
  }
}

void GatherPages(PageWalk walk, std::span<std::byte> payload) {
  for (size_t done = 0; done < payload.size();) {
    const PageWalk::Piece piece = walk.Take(payload.size() - done);
    CopyPayload(payload.subspan(done, piece.bytes), {piece.at, piece.bytes});
    done += piece.bytes;
  }
}

}  // namespace

uint64_t EnginePages::block_bytes() const {
  uint64_t bytes = 0;
  for (const EnginePlane& plane : planes) bytes += plane.page_bytes * pages_per_block;
  return bytes;
}

absl::StatusOr<std::unique_ptr<PageMover>> PageMover::Create(CacheClient& client, EnginePages pages, uint32_t load_threads,
                                                             LocalProof proof) {
  const Part* part = client.space().part(pages.part);
  if (part == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("part ", pages.part, " is not one of the namespace's"));
  }
  if (pages.pages_per_block == 0 || pages.page_count == 0 || load_threads == 0 || load_threads > 64) {
    return absl::InvalidArgumentError(absl::StrCat("pages_per_block is ", pages.pages_per_block, ", page_count ",
                                                   pages.page_count, ", load_threads ", load_threads,
                                                   "; each must be at least 1, and threads at most 64"));
  }
  for (size_t i = 0; i < pages.planes.size(); ++i) {
    const EnginePlane& plane = pages.planes[i];
    if (plane.base != nullptr && plane.page_bytes > 0 && plane.stride_bytes >= plane.page_bytes) continue;
    return absl::InvalidArgumentError(absl::StrCat("plane ", i, " has pages of ", plane.page_bytes, " bytes at a stride of ",
                                                   plane.stride_bytes, (plane.base == nullptr ? " and no address" : ""),
                                                   "; a page has at least a byte, and fits its stride"));
  }
  if (pages.block_bytes() != part->block_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("the pages of a block hold ", pages.block_bytes(), " bytes; part ",
                                                   pages.part, " of the namespace has ", part->block_bytes));
  }
  std::unique_ptr<PageMover> mover(new PageMover(client, std::move(pages), proof));
  for (uint32_t i = 0; i < load_threads; ++i) mover->threads_.emplace_back([m = mover.get()] { m->Work(false); });
  mover->threads_.emplace_back([m = mover.get()] { m->Work(true); });
  return mover;
}

PageMover::PageMover(CacheClient& client, EnginePages pages, LocalProof proof)
    : client_(client), pages_(std::move(pages)), block_bytes_(pages_.block_bytes()), proof_(proof) {}

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
  const size_t pages = (job.keys.size() - job.first_block) * pages_.pages_per_block;
  if (job.pages.size() != pages) {
    return absl::InvalidArgumentError(absl::StrCat("the job has ", job.pages.size(), " pages; its ",
                                                   job.keys.size() - job.first_block, " blocks need ", pages));
  }
  for (const int32_t page : job.pages) {
    if (page >= 0 && static_cast<uint32_t>(page) < pages_.page_count) continue;
    if (page == MoveJob::kSkip && !job.save) continue;
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

void PageMover::Work(bool saves) {
  while (true) {
    Queued next;
    {
      MutexLock lock(mutex_);
      while (!stopped_ && queues_[saves].empty()) changed_.Wait(mutex_);
      if (stopped_) return;
      next = std::move(queues_[saves].front());
      queues_[saves].pop_front();
    }
    MoveResult result = Run(next.job);
    result.ticket = next.ticket;
    MutexLock lock(mutex_);
    results_.push_back(std::move(result));
  }
}

MoveResult PageMover::Run(const MoveJob& job) {
  MoveResult result;
  result.save = job.save;
  result.status = Check(job);
  if (!result.status.ok()) return result;
  const absl::Time start = absl::Now();
  if (job.save) {
    Save(job, start + job.timeout, result);
  } else {
    Load(job, start + job.timeout, result);
  }
  result.took = absl::Now() - start;
  return result;
}

void PageMover::Load(const MoveJob& job, absl::Time deadline, MoveResult& result) {
  AcquireOptions options{.parts = {pages_.part}, .request = job.request, .traceparent = job.traceparent, .probe = job.probe, .conversation = job.conversation};
  absl::StatusOr<Stem> stem = client_.Acquire(job.keys, options, deadline);
  if (!stem.ok()) {
    result.status = stem.status();
    return;
  }
  const uint32_t end = std::min(stem->matched_blocks(), static_cast<uint32_t>(job.keys.size()));
  for (uint32_t block = job.first_block; block < end; ++block) {
    result.status = LoadBlock(*stem, job, block, deadline);
    if (!result.status.ok()) return;
    ++result.blocks_moved;
    ++result.blocks_from[static_cast<size_t>(stem->source(block))];
    const auto pages = PagesOf(pages_, job, block);
    const auto skipped = static_cast<uint64_t>(std::ranges::count(pages, MoveJob::kSkip));
    result.bytes += block_bytes_ / pages_.pages_per_block * (pages_.pages_per_block - skipped);
  }
  if (end < job.keys.size()) {
    result.status = absl::NotFoundError(
        absl::StrCat("the stem ends after ", end, " of ", job.keys.size(), " blocks; the rest left since it was looked up"));
  }
}

absl::Status PageMover::LoadBlock(const Stem& stem, const MoveJob& job, uint32_t block, absl::Time deadline) {
  const std::span<const int32_t> pages = PagesOf(pages_, job, block);
  if (std::ranges::all_of(pages, [](int32_t page) { return page == MoveJob::kSkip; })) return absl::OkStatus();
  if (proof_ == LocalProof::kHeader) {
    const absl::StatusOr<View> view = client_.Read(stem, block, deadline);
    if (view.ok()) {
      CopyPages(view->payload(), PageWalk(pages_, pages));
      if (view->intact()) return absl::OkStatus();  // else there was no pin, and only the digest can tell
    } else if (view.status().code() != absl::StatusCode::kFailedPrecondition) {
      return view.status();  // another node's memory is not read in place
    }
  }
  std::vector<PayloadRange> ranges;
  PageWalk walk(pages_, pages);
  for (uint64_t at = 0; at < block_bytes_;) {
    const PageWalk::Piece piece = walk.Take(block_bytes_ - at);
    if (piece.at != nullptr) ranges.push_back({.offset = at, .destination = {piece.at, piece.bytes}});
    at += piece.bytes;
  }
  return client_.LoadRanges(stem, block, ranges, deadline);
}

void PageMover::Save(const MoveJob& job, absl::Time deadline, MoveResult& result) {
  ReserveOptions options{.parent = {}, .parts = {pages_.part}, .traceparent = job.traceparent, .probe = job.probe, .conversation = job.conversation};
  // As much as staging holds at a time.
  for (size_t first = job.first_block; first < job.keys.size();) {
    if (first > 0) options.parent = job.keys[first - 1];
    absl::StatusOr<Reservation> reserved = client_.Reserve(std::span(job.keys).subspan(first), options, deadline);
    if (!reserved.ok()) {
      result.status = reserved.status();
      return;
    }
    const bool all = reserved->staging_bytes_missing() == 0;
    result.blocks_held += all ? reserved->held() + reserved->being_published() : 0;
    const std::string reason = reserved->reason();
    const uint32_t refused = all ? reserved->refused() : 0;
    size_t next = job.keys.size();
    if (!all) {
      if (reserved->wanted().empty()) {
        result.blocks_refused += static_cast<uint32_t>(job.keys.size() - first);
        result.status = absl::ResourceExhaustedError(absl::StrCat("staging has no room for a block of ", block_bytes_, " bytes"));
        return;
      }
      next = first + reserved->wanted().back().block + 1;
    }
    for (const WantedPayload& wanted : reserved->wanted()) {
      GatherPages(PageWalk(pages_, PagesOf(pages_, job, first + wanted.block)), wanted.staging);
      result.bytes += wanted.staging.size();
    }
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
