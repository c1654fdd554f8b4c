#include "client/cache_client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/attach.h"
#include "client/core.h"
#include "client/get.h"
#include "client/load.h"
#include "client/outcome.h"
#include "client/proof.h"
#include "client/stem_state.h"
#include "proto/validate.h"

namespace stem {
namespace {

constexpr uint64_t kStagingPageBytes = 4096;

// Runs a call to its end in this thread; start(done) returns the call's id.
template <typename T, typename Start>
absl::StatusOr<T> RunCall(Session& session, const Deadline& deadline, Start start) {
  const auto outcome = std::make_shared<Outcome<absl::StatusOr<T>>>();
  const absl::StatusOr<uint64_t> id = start([outcome](absl::StatusOr<T> result) { outcome->Set(std::move(result)); });
  if (!id.ok()) return id.status();
  if (!outcome->WaitUntil(deadline)) session.Expire(*id);  // sets the outcome, unless an answer is about to
  return outcome->Take();
}

}  // namespace

CacheClient::CacheClient(std::unique_ptr<Core> core) : core_(std::move(core)) {}
CacheClient::~CacheClient() = default;

absl::StatusOr<std::unique_ptr<CacheClient>> CacheClient::Connect(Options options, absl::Time deadline) {
  const Deadline limit(deadline);
  Connection::Target target{.path = {}, .request = {}, .spec = options.space};
  STEM_ASSIGN(target.path, SocketPath(options.node));
  options.staging_bytes = (options.staging_bytes + kStagingPageBytes - 1) / kStagingPageBytes * kStagingPageBytes;
  target.request.set_protocol(kAttachProtocol);
  *target.request.mutable_namespace_() = ToMessage(options.space);
  target.request.set_staging_bytes(options.staging_bytes);
  target.request.set_client_name(options.client_name);
  target.request.set_shared_group(options.shared_group);
  STEM_TRY(ValidateAttach(target.request).status());
  if (options.load_threads < 1 || options.load_threads > 16) {
    return absl::InvalidArgumentError(absl::StrCat("load_threads is ", options.load_threads, "; it must be 1 to 16"));
  }
  auto core = std::make_unique<Core>(std::move(options), std::move(target));
  STEM_TRY(core->connection().Get(limit).status());
  return std::unique_ptr<CacheClient>(new CacheClient(std::move(core)));
}

bool CacheClient::connected() const { return core_->connection().Current() != nullptr; }
uint64_t CacheClient::incarnation() const { return core_->connection().Last()->grant().incarnation; }
std::string CacheClient::node() const { return core_->connection().Last()->grant().node; }
NamespaceFingerprint CacheClient::fingerprint() const { return core_->connection().Last()->grant().space; }
std::vector<std::string> CacheClient::warnings() const { return core_->connection().Last()->grant().warnings; }
const NamespaceSpec& CacheClient::space() const { return core_->options().space; }

ClientStats CacheClient::stats() const {
  const Counters& counters = core_->counters();
  ClientStats stats;
  for (size_t source = 0; source < stats.payloads_loaded.size(); ++source) {
    stats.payloads_loaded[source] = counters.payloads_loaded[source];
    stats.bytes_loaded[source] = counters.bytes_loaded[source];
  }
  stats.proofs_failed = counters.proofs_failed;
  stats.payloads_committed = counters.payloads_committed;
  stats.bytes_committed = counters.bytes_committed;
  stats.stems_broken = counters.stems_broken;
  stats.reattaches = counters.reattaches;
  stats.messages_refused = counters.messages_refused;
  return stats;
}

absl::StatusOr<ChainHasher> CacheClient::NewHasher(absl::string_view salt) const {
  const AttachGrant& grant = core_->connection().Last()->grant();
  return ChainHasher::Create(space().hash_scheme, grant.root, salt, space().block_tokens, grant.probe_key);
}

absl::StatusOr<Stem> CacheClient::Acquire(std::span<const BlockKey> keys, const AcquireOptions& options,
                                          absl::Time deadline) {
  const Deadline limit(deadline);
  STEM_ASSIGN(v1::ClientMessage message, core_->AcquireMessage(keys, options));
  STEM_ASSIGN(const std::shared_ptr<Session> session, core_->connection().Get(limit));
  return RunCall<Stem>(*session, limit, [&](OnAcquired done) {
    return core_->StartAcquire(session, std::move(message), {limit, /*timed=*/false}, std::move(done));
  });
}

GetResult CacheClient::Get(std::span<const BlockKey> keys, const AcquireOptions& options,
                           std::span<const std::span<std::byte>> destinations, absl::Time deadline) {
  const Deadline limit(deadline);
  absl::StatusOr<v1::ClientMessage> message = core_->GetMessage(keys, options, destinations);
  if (!message.ok()) return {.blocks_loaded = 0, .misses = {}, .status = message.status()};
  const absl::StatusOr<std::shared_ptr<Session>> session = core_->connection().Get(limit);
  if (!session.ok()) return {.blocks_loaded = 0, .misses = {}, .status = session.status()};
  const std::shared_ptr<GetCall> call = core_->NewGet(*session, *std::move(message), destinations, limit);
  if (const std::shared_ptr<StemState> glanced = call->Glance(); glanced != nullptr) {
    if (call->OnGlanced(core_->LoadNow(glanced, 0, destinations, limit))) return call->Whole();
  }
  const absl::StatusOr<Stem> stem = RunCall<Stem>(**session, limit, [&](OnAcquired done) {
    return core_->StartAcquire(*session, call->TakeMessage(), {limit, /*timed=*/false}, std::move(done));
  });
  if (!stem.ok()) return call->Failed(stem.status());
  return call->Loaded(*stem, core_->LoadNow(stem->state_, 0, call->Rest(*stem), limit));
}

LoadResult CacheClient::Load(const Stem& stem, uint32_t first_block, std::span<const std::span<std::byte>> destinations,
                             absl::Time deadline) {
  if (!stem.valid())
    return {.blocks_loaded = 0, .status = absl::InvalidArgumentError("the stem was released or moved")};
  return core_->LoadNow(stem.state_, first_block, destinations, Deadline(deadline));
}

absl::Status CacheClient::LoadRanges(const Stem& stem, uint32_t position, std::span<const PayloadRange> ranges,
                                     absl::Time deadline) {
  if (!stem.valid()) return absl::InvalidArgumentError("the stem was released or moved");
  return stem::LoadRanges(*stem.state_, position, ranges, Deadline(deadline));
}

absl::StatusOr<View> CacheClient::Read(const Stem& stem, uint32_t position, absl::Time deadline) {
  if (!stem.valid()) return absl::InvalidArgumentError("the stem was released or moved");
  StemState& state = *stem.state_;
  STEM_TRY(state.AwaitDecided(position, Deadline(deadline)));
  STEM_ASSIGN(const std::optional<StemState::Place> place, state.Look(position));
  // Decided, and not lost since: a place never leaves again.
  const Expected expected = state.expected(position, *place);
  if (place->arena->lent()) {
    return absl::FailedPreconditionError(absl::StrCat("position ", position, " lies in the memory of node ", place->arena->lender(),
                                                      ", which leases it for a time: Load it"));
  }
  const SlotView<const std::byte> slot = StemState::slot(*place);
  if (absl::Status proved = CheckHeader(slot.header(), expected); !proved.ok()) {
    state.MarkCorrupt(position);
    return proved;
  }
  state.MarkLoaded(position);
  return View(stem.state_, slot.payload(expected.length));
}

void CacheClient::Release(Stem stem) { stem.state_.reset(); }

void CacheClient::EndConversation(uint64_t conversation) {
  if (const std::shared_ptr<Session> session = core_->connection().Current(); session != nullptr) session->EndConversation(conversation);
}

absl::StatusOr<Reservation> CacheClient::Reserve(std::span<const BlockKey> keys, const ReserveOptions& options,
                                                 absl::Time deadline) {
  const Deadline limit(deadline);
  STEM_ASSIGN(v1::ClientMessage message, core_->ReserveMessage(keys, options));
  STEM_ASSIGN(const std::shared_ptr<Session> session, core_->connection().Get(limit));
  return RunCall<Reservation>(*session, limit, [&](OnReserved done) {
    return core_->StartReserve(session, std::move(message), {limit, /*timed=*/false}, std::move(done));
  });
}

absl::StatusOr<CommitResult> CacheClient::Commit(Reservation reservation, absl::Time deadline) {
  const Deadline limit(deadline);
  STEM_ASSIGN(const std::shared_ptr<Session> session, core_->SessionOf(reservation.state_.get()));
  if (reservation.wanted().empty()) return CommitResult{};
  return RunCall<CommitResult>(*session, limit, [&](OnCommitted done) {
    return core_->StartCommit(session, std::move(reservation.state_), {limit, /*timed=*/false}, std::move(done));
  });
}

void CacheClient::AcquireAsync(std::span<const BlockKey> keys, const AcquireOptions& options, absl::Time deadline,
                               OnAcquired done) {
  const Deadline limit(deadline);
  absl::StatusOr<v1::ClientMessage> message = core_->AcquireMessage(keys, options);
  if (!message.ok()) return done(message.status());
  core_->WithSession(limit, [core = core_.get(), message = *std::move(message), limit,
                             done = std::move(done)](absl::StatusOr<std::shared_ptr<Session>> session) mutable {
    if (!session.ok()) return done(session.status());
    const auto id = core->StartAcquire(*session, std::move(message), {limit, /*timed=*/true}, done);
    if (!id.ok()) done(id.status());
  });
}

void CacheClient::LoadAsync(const Stem& stem, uint32_t first_block, std::span<const std::span<std::byte>> destinations,
                            absl::Time deadline, OnLoaded done) {
  if (!stem.valid()) {
    return done({.blocks_loaded = 0, .status = absl::InvalidArgumentError("the stem was released or moved")});
  }
  core_->StartLoad(Loader(stem.state_, first_block, destinations, core_->options().local_proof), Deadline(deadline),
                   std::move(done));
}

void CacheClient::GetAsync(std::span<const BlockKey> keys, const AcquireOptions& options,
                           std::span<const std::span<std::byte>> destinations, absl::Time deadline, OnGot done) {
  const Deadline limit(deadline);
  absl::StatusOr<v1::ClientMessage> message = core_->GetMessage(keys, options, destinations);
  if (!message.ok()) return done({.blocks_loaded = 0, .misses = {}, .status = message.status()});
  core_->WithSession(limit, [core = core_.get(), message = *std::move(message), destinations, limit,
                             done = std::move(done)](absl::StatusOr<std::shared_ptr<Session>> session) mutable {
    if (!session.ok()) return done({.blocks_loaded = 0, .misses = {}, .status = session.status()});
    core->StartGet(core->NewGet(*session, std::move(message), destinations, limit), limit, std::move(done));
  });
}

void CacheClient::ReserveAsync(std::span<const BlockKey> keys, const ReserveOptions& options, absl::Time deadline,
                               OnReserved done) {
  const Deadline limit(deadline);
  absl::StatusOr<v1::ClientMessage> message = core_->ReserveMessage(keys, options);
  if (!message.ok()) return done(message.status());
  core_->WithSession(limit, [core = core_.get(), message = *std::move(message), limit,
                             done = std::move(done)](absl::StatusOr<std::shared_ptr<Session>> session) mutable {
    if (!session.ok()) return done(session.status());
    const auto id = core->StartReserve(*session, std::move(message), {limit, /*timed=*/true}, done);
    if (!id.ok()) done(id.status());
  });
}

void CacheClient::CommitAsync(Reservation reservation, absl::Time deadline, OnCommitted done) {
  const Deadline limit(deadline);
  const auto session = core_->SessionOf(reservation.state_.get());
  if (!session.ok()) return done(session.status());
  if (reservation.wanted().empty()) return done(CommitResult{});
  const auto id = core_->StartCommit(*session, std::move(reservation.state_), {limit, /*timed=*/true}, done);
  if (!id.ok()) done(id.status());
}

}  // namespace stem
