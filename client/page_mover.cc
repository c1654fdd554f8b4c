#include "client/page_mover.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "kernels/checksum.h"

namespace stem {
namespace {

// Page ids of one block of a job.
class BlockPages {
 public:
  BlockPages(const EnginePages& engine, const MoveJob& job, size_t block)
      : engine_(engine), job_(job), blocks_(job.keys.size() - job.first_block), at_(block - job.first_block) {}

  std::span<const int32_t> of(uint32_t table) const {
    size_t before = 0;
    for (uint32_t i = 0; i < table; ++i) before += engine_.pages_per_block[i] * blocks_;
    const uint32_t pages = engine_.pages_per_block[table];
    return std::span(job_.pages).subspan(before + at_ * pages, pages);
  }
  // Of the pages of the part's planes: bytes of those that are not skipped.
  uint64_t bytes(const EnginePart& part) const {
    uint64_t bytes = 0;
    for (const EnginePlane& plane : part.planes) {
      const std::span<const int32_t> pages = of(plane.table);
      bytes += plane.page_bytes * (pages.size() - static_cast<size_t>(std::ranges::count(pages, MoveJob::kSkip)));
    }
    return bytes;
  }

 private:
  const EnginePages& engine_;
  const MoveJob& job_;
  const size_t blocks_;
  const size_t at_;
};

// Walks the pages of one block's part in the order of its payload: Take(n) gives where the next bytes belong in the engine's
// memory, at most n of them and never beyond a page; null = that page is skipped.
class PageWalk {
 public:
  struct Piece {
    std::byte* at = nullptr;
    size_t bytes = 0;
  };

  PageWalk(const EnginePart& part, const BlockPages& block) : part_(part), block_(block), pages_(block.of(part.planes.front().table)) {}

  Piece Take(size_t bytes_max) {
    const EnginePlane& plane = part_.planes[plane_];
    const size_t bytes = std::min<size_t>(bytes_max, plane.page_bytes - offset_);
    const int32_t page = pages_[page_];
    std::byte* at =
        page == MoveJob::kSkip ? nullptr : plane.base + static_cast<uint64_t>(page) * plane.stride_bytes + offset_;
    offset_ += bytes;
    if (offset_ == plane.page_bytes) {
      offset_ = 0;
      if (++page_ == pages_.size()) NextPlane();
    }
    return {at, bytes};
  }

 private:
  void NextPlane() {
    page_ = 0;
    if (++plane_ < part_.planes.size()) pages_ = block_.of(part_.planes[plane_].table);
  }

  const EnginePart& part_;
  const BlockPages block_;
  std::span<const int32_t> pages_;
  size_t plane_ = 0;
  size_t page_ = 0;
  uint64_t offset_ = 0;
};

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

uint64_t EnginePages::block_bytes(const EnginePart& part) const {
  uint64_t bytes = 0;
  for (const EnginePlane& plane : part.planes) bytes += plane.page_bytes * pages_per_block[plane.table];
  return bytes;
}

uint32_t EnginePages::pages_of_all_tables() const { return std::reduce(pages_per_block.begin(), pages_per_block.end()); }

namespace {

absl::Status CheckPart(const EnginePages& pages, const EnginePart& engine, const NamespaceSpec& space) {
  const Part* part = space.part(engine.id);
  if (part == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("part ", engine.id, " is not one of the namespace's"));
  }
  for (size_t i = 0; i < engine.planes.size(); ++i) {
    const EnginePlane& plane = engine.planes[i];
    if (plane.table >= pages.pages_per_block.size()) {
      return absl::InvalidArgumentError(absl::StrCat("plane ", i, " is of block table ", plane.table, "; there are ", pages.pages_per_block.size()));
    }
    if (plane.base != nullptr && plane.page_bytes > 0 && plane.stride_bytes >= plane.page_bytes) continue;
    return absl::InvalidArgumentError(absl::StrCat("plane ", i, " has pages of ", plane.page_bytes, " bytes at a stride of ",
                                                   plane.stride_bytes, (plane.base == nullptr ? " and no address" : ""),
                                                   "; a page has at least a byte, and fits its stride"));
  }
  if (pages.block_bytes(engine) != part->block_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("the pages of a block hold ", pages.block_bytes(engine), " bytes; part ",
                                                   engine.id, " of the namespace has ", part->block_bytes));
  }
  return absl::OkStatus();
}

absl::Status CheckPages(const EnginePages& pages, const NamespaceSpec& space, uint32_t load_threads) {
  if (pages.page_count == 0 || load_threads == 0 || load_threads > 64 || pages.pages_per_block.empty() ||
      std::ranges::count(pages.pages_per_block, 0u) > 0) {
    return absl::InvalidArgumentError(absl::StrCat("pages_per_block is ", absl::StrJoin(pages.pages_per_block, "+"), ", page_count ",
                                                   pages.page_count, ", load_threads ", load_threads,
                                                   "; each must be at least 1, and threads at most 64"));
  }
  if (pages.parts.empty()) return absl::InvalidArgumentError("there are no parts");
  for (size_t i = 0; i < pages.parts.size(); ++i) {
    if (i > 0 && pages.parts[i].id <= pages.parts[i - 1].id) return absl::InvalidArgumentError("part ids must ascend");
    STEM_TRY(CheckPart(pages, pages.parts[i], space));
  }
  return absl::OkStatus();
}

std::vector<uint32_t> IdsOf(const EnginePages& pages) {
  std::vector<uint32_t> ids;
  for (const EnginePart& part : pages.parts) ids.push_back(part.id);
  return ids;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PageMover>> PageMover::Create(CacheClient& client, EnginePages pages, uint32_t load_threads,
                                                             LocalProof proof) {
  STEM_TRY(CheckPages(pages, client.space(), load_threads));
  std::unique_ptr<PageMover> mover(new PageMover(client, std::move(pages), proof));
  for (uint32_t i = 0; i < load_threads; ++i) mover->threads_.emplace_back([m = mover.get()] { m->Work(false); });
  mover->threads_.emplace_back([m = mover.get()] { m->Work(true); });
  return mover;
}

PageMover::PageMover(CacheClient& client, EnginePages pages, LocalProof proof)
    : client_(client), pages_(std::move(pages)), part_ids_(IdsOf(pages_)), proof_(proof) {}

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
    if (page == MoveJob::kSkip) continue;
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
  for (uint32_t block = job.first_block; block < end; ++block) {
    for (size_t part = 0; part < pages_.parts.size(); ++part) {
      if (absl::Status status = LoadPart(*stem, job, block, part, deadline, result); !status.ok()) {
        result.status = std::move(status);
        return;
      }
    }
    ++result.blocks_moved;
    ++result.blocks_from[static_cast<size_t>(stem->source(block))];
  }
}

absl::Status PageMover::LoadPart(const Stem& stem, const MoveJob& job, uint32_t block, size_t part, absl::Time deadline,
                                 MoveResult& result) {
  const EnginePart& engine = pages_.parts[part];
  const BlockPages pages(pages_, job, block);
  const uint64_t bytes = pages.bytes(engine);
  if (bytes == 0) return absl::OkStatus();
  const auto position = static_cast<uint32_t>(block * pages_.parts.size() + part);
  if (proof_ == LocalProof::kHeader) {
    const absl::StatusOr<View> view = client_.Read(stem, position, deadline);
    if (view.ok()) {
      CopyPages(view->payload(), PageWalk(engine, pages));
      if (view->intact()) {
        result.bytes += bytes;
        return absl::OkStatus();  // else there was no pin, and only the digest can tell
      }
    } else if (view.status().code() != absl::StatusCode::kFailedPrecondition) {
      return view.status();  // another node's memory is not read in place
    }
  }
  const uint64_t block_bytes = pages_.block_bytes(engine);
  std::vector<PayloadRange> ranges;
  PageWalk walk(engine, pages);
  for (uint64_t at = 0; at < block_bytes;) {
    const PageWalk::Piece piece = walk.Take(block_bytes - at);
    if (piece.at != nullptr) ranges.push_back({.offset = at, .destination = {piece.at, piece.bytes}});
    at += piece.bytes;
  }
  STEM_TRY(client_.LoadRanges(stem, position, ranges, deadline));
  result.bytes += bytes;
  return absl::OkStatus();
}

void PageMover::Save(const MoveJob& job, absl::Time deadline, MoveResult& result) {
  for (const EnginePart& part : pages_.parts) {
    const uint64_t block_bytes = pages_.block_bytes(part);
    const auto whole = [&](size_t block) { return BlockPages(pages_, job, block).bytes(part) == block_bytes; };
    for (size_t first = job.first_block; first < job.keys.size() && result.status.ok();) {
      size_t end = first;
      while (end < job.keys.size() && whole(end)) ++end;
      if (end > first) SaveRun(job, part, first, end, deadline, result);
      first = end + 1;
    }
  }
}

void PageMover::SaveRun(const MoveJob& job, const EnginePart& part, size_t first, size_t end, absl::Time deadline, MoveResult& result) {
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
    for (const WantedPayload& wanted : reserved->wanted()) {
      GatherPages(PageWalk(part, BlockPages(pages_, job, first + wanted.block)), wanted.staging);
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
