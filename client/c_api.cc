#include "client/c_api.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cache_client.h"
#include "client/deadline.h"
#include "proto/mutex.h"

struct stem_client {
  std::unique_ptr<stem::CacheClient> client;
};
struct stem_hasher {
  stem::ChainHasher hasher;
  uint32_t block_tokens;
};
struct stem_stem {
  stem::Stem held;
};
struct stem_reservation {
  stem::Reservation reservation;
};

struct stem_call {
  using Result = std::variant<std::monostate, absl::StatusOr<stem::Stem>, stem::LoadResult, stem::GetResult,
                              absl::StatusOr<stem::Reservation>, absl::StatusOr<stem::CommitResult>>;

  stem_done done = nullptr;
  void* argument = nullptr;
  std::vector<std::span<std::byte>> destinations;  // of a load or get, until it ended

  mutable stem::Mutex mutex;
  mutable stem::CondVar ended;
  Result result ABSL_GUARDED_BY(mutex);  // taken once: monostate again
  bool finished ABSL_GUARDED_BY(mutex) = false;

  void Finish(Result value) {
    {
      stem::MutexLock lock(mutex);
      result = std::move(value);
    }
    if (done != nullptr) done(argument);
    stem::MutexLock lock(mutex);
    finished = true;  // whoever frees the call may do so now
    ended.NotifyAll();
  }
};

namespace stem {
namespace {

static_assert(sizeof(stem_key) == sizeof(BlockKey));
static_assert(STEM_INVALID_ARGUMENT == static_cast<int>(absl::StatusCode::kInvalidArgument));
static_assert(STEM_UNIMPLEMENTED == static_cast<int>(absl::StatusCode::kUnimplemented));
static_assert(STEM_DATA_LOSS == static_cast<int>(absl::StatusCode::kDataLoss));
static_assert(STEM_REMOTE_SSD == static_cast<int>(stemcache::v1::SOURCE_REMOTE_SSD));
static_assert(STEM_SOURCES == std::tuple_size_v<decltype(ClientStats::bytes_loaded)>);

int32_t Fail(const absl::Status& status, stem_error* error) {
  const auto code = static_cast<int32_t>(status.code());
  if (error == nullptr) return code;
  error->code = code;
  const size_t bytes = std::min(status.message().size(), sizeof(error->message) - 1);
  std::memcpy(error->message, status.message().data(), bytes);
  error->message[bytes] = 0;
  return code;
}

// What a caller of an older header knows of a struct; the rest is unset. A newer one may mean what this library cannot do.
template <typename T>
absl::StatusOr<T> Known(const T* from) {
  T known = {};
  if (from == nullptr) return known;
  if (from->struct_bytes < sizeof(size_t) || from->struct_bytes > sizeof(T)) {
    return absl::InvalidArgumentError(absl::StrCat("struct_bytes is ", from->struct_bytes, "; set it to the struct's size, at most ",
                                                   sizeof(T), " in this library"));
  }
  std::memcpy(&known, from, from->struct_bytes);
  return known;
}

std::string Text(const char* text) { return text == nullptr ? std::string() : std::string(text); }

absl::string_view Bytes(const void* bytes, size_t count) { return {static_cast<const char*>(bytes), count}; }

absl::Time After(uint64_t timeout_us) {
  return absl::Now() + absl::Microseconds(static_cast<int64_t>(std::min<uint64_t>(timeout_us, 3'600'000'000ULL)));
}

std::vector<BlockKey> Keys(const stem_key* keys, size_t count) {
  std::vector<BlockKey> out(keys == nullptr ? 0 : count);
  if (!out.empty()) std::memcpy(static_cast<void*>(out.data()), keys, count * sizeof(stem_key));
  return out;
}

std::vector<uint32_t> Ids(const uint32_t* ids, size_t count) {
  return ids == nullptr ? std::vector<uint32_t>() : std::vector<uint32_t>(ids, ids + count);
}

absl::StatusOr<CacheClient::Options> OptionsOf(const stem_client_options* from) {
  STEM_ASSIGN(const stem_client_options known, Known(from));
  CacheClient::Options options;
  options.node = Text(known.node);
  options.staging_bytes = known.staging_bytes;
  options.client_name = Text(known.client_name);
  options.shared_group = Text(known.shared_group);
  options.local_proof = known.local_proof == STEM_PROOF_HEADER ? LocalProof::kHeader : LocalProof::kFull;
  if (known.load_threads != 0) options.load_threads = known.load_threads;
  NamespaceSpec& space = options.space;
  space.model = Text(known.model);
  space.revision = Text(known.revision);
  space.weights_digest = Text(known.weights_digest);
  space.kv_dtype = Text(known.kv_dtype);
  space.scale_scheme = Text(known.scale_scheme);
  space.layout = Text(known.layout);
  space.instruction_set = Text(known.instruction_set);
  space.tokenizer_digest = Text(known.tokenizer_digest);
  space.chat_template_digest = Text(known.chat_template_digest);
  space.block_tokens = known.block_tokens;
  if (known.spill_encoding >= kSpillEncodings) {
    return absl::InvalidArgumentError(absl::StrCat("spill_encoding is ", known.spill_encoding, "; use STEM_SPILL_EXACT (0), FP8_E4M3 (1) or INT8 (2)"));
  }
  space.spill_encoding = static_cast<SpillEncoding>(known.spill_encoding);
  if (known.hash_scheme != 0) space.hash_scheme = static_cast<HashScheme>(known.hash_scheme);
  for (size_t i = 0; known.parts != nullptr && i < known.part_count; ++i) {
    const stem_part& part = known.parts[i];
    space.parts.push_back({.id = part.id,
                           .group = static_cast<GroupKind>(part.group),
                           .window_tokens = part.window_tokens,
                           .layer_first = part.layer_first,
                           .layer_count = part.layer_count,
                           .head_first = part.head_first,
                           .head_count = part.head_count,
                           .block_bytes = part.block_bytes});
  }
  return options;
}

std::optional<Probe> ProbeFrom(const uint8_t* bytes) {
  if (bytes == nullptr) return std::nullopt;
  Probe probe;
  std::memcpy(static_cast<void*>(&probe), bytes, sizeof(probe));
  return probe;
}

absl::StatusOr<Conversation> ConversationOf(uint64_t id, uint32_t outlook) {
  if (outlook > static_cast<uint32_t>(Outlook::kEnded)) {
    return absl::InvalidArgumentError(absl::StrCat("outlook is ", outlook, "; it must be 0 (unknown), 1 (will resume) or 2 (ended)"));
  }
  return Conversation{.id = id, .outlook = static_cast<Outlook>(outlook)};
}

absl::StatusOr<AcquireOptions> OptionsOf(const stem_acquire_options* from) {
  STEM_ASSIGN(const stem_acquire_options known, Known(from));
  STEM_ASSIGN(const Conversation conversation, ConversationOf(known.conversation, known.outlook));
  return AcquireOptions{.parts = Ids(known.parts, known.part_count),
                        .request = Text(known.request),
                        .traceparent = Text(known.traceparent),
                        .compute = absl::Microseconds(static_cast<int64_t>(known.compute_us)),
                        .block_compute = absl::Microseconds(static_cast<int64_t>(known.block_compute_us)),
                        .probe = ProbeFrom(known.probe),
                        .conversation = conversation};
}

absl::StatusOr<ReserveOptions> OptionsOf(const stem_reserve_options* from) {
  STEM_ASSIGN(const stem_reserve_options known, Known(from));
  ReserveOptions options{.parent = {},
                         .parts = Ids(known.parts, known.part_count),
                         .traceparent = Text(known.traceparent),
                         .probe = ProbeFrom(known.probe),
                         .conversation = {}};
  STEM_ASSIGN(options.conversation, ConversationOf(known.conversation, known.outlook));
  if (known.parent != nullptr) options.parent = Keys(known.parent, 1).front();
  return options;
}

std::vector<std::span<std::byte>> Spans(const stem_span* spans, size_t count) {
  std::vector<std::span<std::byte>> out;
  for (size_t i = 0; spans != nullptr && i < count; ++i) {
    out.push_back({static_cast<std::byte*>(spans[i].data), spans[i].data == nullptr ? 0 : spans[i].bytes});
  }
  return out;
}

stem_counts CountsOf(const CommitResult& result) {
  return {.held = result.duplicate, .being_published = 0, .refused = result.refused, .committed = result.committed};
}

size_t CopyText(absl::string_view from, char* text, size_t text_bytes) {
  if (text == nullptr || text_bytes == 0) return from.size();
  const size_t bytes = std::min(from.size(), text_bytes - 1);
  std::memcpy(text, from.data(), bytes);
  text[bytes] = 0;
  return from.size();
}

// A call whose result has type T, or why it has none: it runs, it is of another kind, or it was taken.
template <typename T>
absl::StatusOr<T> Take(stem_call* call) {
  MutexLock lock(call->mutex);
  T* result = std::get_if<T>(&call->result);
  if (result == nullptr) {
    return absl::FailedPreconditionError("the call has no such result: it runs still, is of another kind, or was taken");
  }
  T taken = std::move(*result);
  call->result = std::monostate();
  return taken;
}

std::unique_ptr<stem_call> NewCall(stem_done done, void* argument) {
  auto call = std::make_unique<stem_call>();
  call->done = done;
  call->argument = argument;
  return call;
}

template <typename Handle, typename Value>
int32_t Give(absl::StatusOr<Value> value, Handle** out, stem_error* error) {
  *out = nullptr;
  if (!value.ok()) return Fail(value.status(), error);
  *out = new Handle{*std::move(value)};
  return STEM_OK;
}

int32_t Loaded(const LoadResult& result, uint32_t* blocks_loaded, stem_error* error) {
  if (blocks_loaded != nullptr) *blocks_loaded = result.blocks_loaded;
  return result.status.ok() ? STEM_OK : Fail(result.status, error);
}

stem_miss MissOf(const MissRun& run) { return {run.first, run.count, static_cast<uint32_t>(run.cause), run.estimate_ms}; }

int32_t Got(const GetResult& result, stem_got* got, stem_error* error) {
  stem_got all = {};
  all.blocks_loaded = result.blocks_loaded;
  if (!result.misses.empty()) all.miss = MissOf(result.misses.front());
  all.struct_bytes = std::min(got->struct_bytes, sizeof(all));
  std::memcpy(got, &all, all.struct_bytes);
  return result.status.ok() ? STEM_OK : Fail(result.status, error);
}

int32_t Committed(const absl::StatusOr<CommitResult>& result, stem_counts* counts, stem_error* error) {
  if (!result.ok()) return Fail(result.status(), error);
  if (counts != nullptr) *counts = CountsOf(*result);
  return STEM_OK;
}

}  // namespace
}  // namespace stem

using namespace stem;  // the functions below are C's, and only here

uint32_t stem_abi_version(void) { return STEM_ABI_VERSION; }
const char* stem_version(void) { return STEM_VERSION; }

const char* stem_code_name(int32_t code) {
  switch (code) {
    case STEM_OK: return "OK";
    case STEM_INVALID_ARGUMENT: return "INVALID_ARGUMENT";
    case STEM_DEADLINE_EXCEEDED: return "DEADLINE_EXCEEDED";
    case STEM_NOT_FOUND: return "NOT_FOUND";
    case STEM_RESOURCE_EXHAUSTED: return "RESOURCE_EXHAUSTED";
    case STEM_FAILED_PRECONDITION: return "FAILED_PRECONDITION";
    case STEM_ABORTED: return "ABORTED";
    case STEM_OUT_OF_RANGE: return "OUT_OF_RANGE";
    case STEM_UNIMPLEMENTED: return "UNIMPLEMENTED";
    case STEM_INTERNAL: return "INTERNAL";
    case STEM_UNAVAILABLE: return "UNAVAILABLE";
    case STEM_DATA_LOSS: return "DATA_LOSS";
    default: return "UNKNOWN";
  }
}

int32_t stem_connect(const stem_client_options* options, uint64_t timeout_us, stem_client** client, stem_error* error) {
  *client = nullptr;
  absl::StatusOr<CacheClient::Options> known = OptionsOf(options);
  if (!known.ok()) return Fail(known.status(), error);
  return Give(CacheClient::Connect(*std::move(known), After(timeout_us)), client, error);
}

void stem_client_free(stem_client* client) { delete client; }
int32_t stem_client_connected(const stem_client* client) { return client->client->connected() ? 1 : 0; }
uint64_t stem_client_incarnation(const stem_client* client) { return client->client->incarnation(); }

void stem_client_fingerprint(const stem_client* client, uint8_t fingerprint[16]) {
  const NamespaceFingerprint value = client->client->fingerprint();
  std::memcpy(fingerprint, &value, sizeof(value));
}

size_t stem_client_node(const stem_client* client, char* text, size_t text_bytes) {
  return CopyText(client->client->node(), text, text_bytes);
}

size_t stem_client_warning(const stem_client* client, size_t index, char* text, size_t text_bytes) {
  const std::vector<std::string> warnings = client->client->warnings();
  return CopyText(index < warnings.size() ? warnings[index] : "", text, text_bytes);
}

void stem_client_stats(const stem_client* client, stem_stats* stats) {
  const ClientStats from = client->client->stats();
  stem_stats all = {};
  std::ranges::copy(from.payloads_loaded, all.payloads_loaded);
  std::ranges::copy(from.bytes_loaded, all.bytes_loaded);
  all.proofs_failed = from.proofs_failed;
  all.payloads_committed = from.payloads_committed;
  all.bytes_committed = from.bytes_committed;
  all.stems_broken = from.stems_broken;
  all.reattaches = from.reattaches;
  all.messages_refused = from.messages_refused;
  all.struct_bytes = std::min(stats->struct_bytes, sizeof(all));
  std::memcpy(stats, &all, all.struct_bytes);
}

int32_t stem_hasher_create(const stem_client* client, const void* salt, size_t salt_bytes, stem_hasher** hasher,
                           stem_error* error) {
  *hasher = nullptr;
  absl::StatusOr<ChainHasher> made = client->client->NewHasher(Bytes(salt, salt_bytes));
  if (!made.ok()) return Fail(made.status(), error);
  *hasher = new stem_hasher{*std::move(made), client->client->space().block_tokens};
  return STEM_OK;
}

void stem_hasher_free(stem_hasher* hasher) { delete hasher; }

int32_t stem_hasher_restart(stem_hasher* hasher, const void* salt, size_t salt_bytes, stem_error* error) {
  const absl::Status status = hasher->hasher.Restart(Bytes(salt, salt_bytes));
  return status.ok() ? STEM_OK : Fail(status, error);
}

int32_t stem_hasher_add_extra(stem_hasher* hasher, uint32_t tag, const void* bytes, size_t byte_count, uint32_t offset_tokens,
                              stem_error* error) {
  // Out of the tag's range before it is cut to a byte.
  const auto known = static_cast<ExtraTag>(tag > STEM_EXTRA_GENERIC ? 0 : tag);
  const absl::Status status =
      hasher->hasher.AddExtra({.tag = known, .bytes = Bytes(bytes, byte_count), .offset_tokens = offset_tokens});
  return status.ok() ? STEM_OK : Fail(status, error);
}

int32_t stem_hasher_append_tokens(stem_hasher* hasher, const uint32_t* tokens, size_t token_count, stem_key* keys,
                                  size_t key_capacity, size_t* key_count, stem_error* error) {
  *key_count = 0;
  const size_t full = (hasher->hasher.tail_tokens() + token_count) / hasher->block_tokens;
  if (full > key_capacity) {
    return Fail(absl::OutOfRangeError(absl::StrCat("key_capacity is ", key_capacity, "; these tokens fill ", full, " blocks")), error);
  }
  std::vector<BlockKey> made;
  made.reserve(full);
  const absl::Status status = hasher->hasher.AppendTokens({tokens, token_count}, made);
  if (!status.ok()) return Fail(status, error);
  if (!made.empty()) std::memcpy(keys, made.data(), made.size() * sizeof(stem_key));
  *key_count = made.size();
  return STEM_OK;
}

int32_t stem_hasher_probe(const stem_hasher* hasher, uint8_t probe[16]) {
  const std::optional<Probe> found = hasher->hasher.probe();
  if (found.has_value()) std::memcpy(probe, &*found, sizeof(Probe));
  return found.has_value() ? 1 : 0;
}

int32_t stem_hasher_append_hash(stem_hasher* hasher, const void* hash, size_t hash_bytes, stem_key* key, stem_error* error) {
  std::vector<BlockKey> made;
  const absl::Status status = hasher->hasher.AppendHash(Bytes(hash, hash_bytes), made);
  if (!status.ok()) return Fail(status, error);
  std::memcpy(key, made.data(), sizeof(stem_key));
  return STEM_OK;
}

int32_t stem_acquire(stem_client* client, const stem_key* keys, size_t key_count, const stem_acquire_options* options,
                     uint64_t timeout_us, stem_stem** stem, stem_error* error) {
  *stem = nullptr;
  const absl::StatusOr<AcquireOptions> known = OptionsOf(options);
  if (!known.ok()) return Fail(known.status(), error);
  return Give(client->client->Acquire(Keys(keys, key_count), *known, After(timeout_us)), stem, error);
}

void stem_stem_free(stem_stem* stem) { delete stem; }
void stem_conversation_ended(stem_client* client, uint64_t conversation) { client->client->EndConversation(conversation); }
uint32_t stem_matched_blocks(const stem_stem* stem) { return stem->held.matched_blocks(); }
uint32_t stem_landed_blocks(const stem_stem* stem) { return stem->held.landed_blocks(); }

uint32_t stem_block_source(const stem_stem* stem, uint32_t block) {
  return block < stem->held.chain_blocks() ? static_cast<uint32_t>(stem->held.source(block)) : uint32_t{STEM_SOURCE_NONE};
}

int32_t stem_is_exact(const stem_stem* stem) { return stem->held.truth().exact() ? 1 : 0; }

size_t stem_misses(const stem_stem* stem, stem_miss* misses, size_t capacity) {
  const std::vector<MissRun> runs = stem->held.misses();
  for (size_t i = 0; i < std::min(runs.size(), capacity); ++i) {
    misses[i] = MissOf(runs[i]);
  }
  return runs.size();
}

int32_t stem_load(stem_client* client, const stem_stem* stem, uint32_t first_block, const stem_span* destinations,
                  size_t destination_count, uint64_t timeout_us, uint32_t* blocks_loaded, stem_error* error) {
  return Loaded(client->client->Load(stem->held, first_block, Spans(destinations, destination_count), After(timeout_us)),
                blocks_loaded, error);
}

int32_t stem_get(stem_client* client, const stem_key* keys, size_t key_count, const stem_acquire_options* options,
                 const stem_span* destinations, size_t destination_count, uint64_t timeout_us, stem_got* got, stem_error* error) {
  const absl::StatusOr<AcquireOptions> known = OptionsOf(options);
  if (!known.ok()) return Got({.status = known.status()}, got, error);
  return Got(client->client->Get(Keys(keys, key_count), *known, Spans(destinations, destination_count), After(timeout_us)), got, error);
}

int32_t stem_reserve(stem_client* client, const stem_key* keys, size_t key_count, const stem_reserve_options* options,
                     uint64_t timeout_us, stem_reservation** reservation, stem_error* error) {
  *reservation = nullptr;
  const absl::StatusOr<ReserveOptions> known = OptionsOf(options);
  if (!known.ok()) return Fail(known.status(), error);
  return Give(client->client->Reserve(Keys(keys, key_count), *known, After(timeout_us)), reservation, error);
}

void stem_reservation_free(stem_reservation* reservation) { delete reservation; }

size_t stem_wanted_count(const stem_reservation* reservation) {
  return reservation->reservation.valid() ? reservation->reservation.wanted().size() : 0;
}

int32_t stem_wanted_at(const stem_reservation* reservation, size_t index, stem_wanted* wanted, stem_error* error) {
  if (index >= stem_wanted_count(reservation)) {
    return Fail(absl::OutOfRangeError(absl::StrCat("index is ", index, "; ", stem_wanted_count(reservation), " are wanted")), error);
  }
  const WantedPayload& from = reservation->reservation.wanted()[index];
  *wanted = {from.position, from.block, from.part, {from.staging.data(), from.staging.size()}};
  return STEM_OK;
}

void stem_reservation_counts(const stem_reservation* reservation, stem_counts* counts) {
  *counts = {};
  const Reservation& from = reservation->reservation;
  if (!from.valid()) return;
  *counts = {.held = from.held(), .being_published = from.being_published(), .refused = from.refused(), .committed = 0};
}

int32_t stem_commit(stem_client* client, stem_reservation* reservation, uint64_t timeout_us, stem_counts* counts,
                    stem_error* error) {
  return Committed(client->client->Commit(std::move(reservation->reservation), After(timeout_us)), counts, error);
}

int32_t stem_acquire_start(stem_client* client, const stem_key* keys, size_t key_count, const stem_acquire_options* options,
                           uint64_t timeout_us, stem_done done, void* argument, stem_call** call, stem_error* error) {
  *call = nullptr;
  const absl::StatusOr<AcquireOptions> known = OptionsOf(options);
  if (!known.ok()) return Fail(known.status(), error);
  *call = NewCall(done, argument).release();
  client->client->AcquireAsync(Keys(keys, key_count), *known, After(timeout_us),
                               [call = *call](absl::StatusOr<Stem> stem) { call->Finish(std::move(stem)); });
  return STEM_OK;
}

int32_t stem_load_start(stem_client* client, const stem_stem* stem, uint32_t first_block, const stem_span* destinations,
                        size_t destination_count, uint64_t timeout_us, stem_done done, void* argument, stem_call** call,
                        stem_error*) {
  *call = NewCall(done, argument).release();
  (*call)->destinations = Spans(destinations, destination_count);
  client->client->LoadAsync(stem->held, first_block, (*call)->destinations, After(timeout_us),
                            [call = *call](LoadResult result) { call->Finish(std::move(result)); });
  return STEM_OK;
}

int32_t stem_get_start(stem_client* client, const stem_key* keys, size_t key_count, const stem_acquire_options* options,
                       const stem_span* destinations, size_t destination_count, uint64_t timeout_us, stem_done done, void* argument,
                       stem_call** call, stem_error* error) {
  *call = nullptr;
  const absl::StatusOr<AcquireOptions> known = OptionsOf(options);
  if (!known.ok()) return Fail(known.status(), error);
  *call = NewCall(done, argument).release();
  (*call)->destinations = Spans(destinations, destination_count);
  client->client->GetAsync(Keys(keys, key_count), *known, (*call)->destinations, After(timeout_us),
                           [call = *call](GetResult result) { call->Finish(std::move(result)); });
  return STEM_OK;
}

int32_t stem_reserve_start(stem_client* client, const stem_key* keys, size_t key_count, const stem_reserve_options* options,
                           uint64_t timeout_us, stem_done done, void* argument, stem_call** call, stem_error* error) {
  *call = nullptr;
  const absl::StatusOr<ReserveOptions> known = OptionsOf(options);
  if (!known.ok()) return Fail(known.status(), error);
  *call = NewCall(done, argument).release();
  client->client->ReserveAsync(Keys(keys, key_count), *known, After(timeout_us),
                               [call = *call](absl::StatusOr<Reservation> result) { call->Finish(std::move(result)); });
  return STEM_OK;
}

int32_t stem_commit_start(stem_client* client, stem_reservation* reservation, uint64_t timeout_us, stem_done done, void* argument,
                          stem_call** call, stem_error*) {
  *call = NewCall(done, argument).release();
  client->client->CommitAsync(std::move(reservation->reservation), After(timeout_us),
                              [call = *call](absl::StatusOr<CommitResult> result) { call->Finish(std::move(result)); });
  return STEM_OK;
}

int32_t stem_call_done(const stem_call* call) {
  MutexLock lock(call->mutex);
  return call->finished ? 1 : 0;
}

int32_t stem_call_wait(stem_call* call, uint64_t timeout_us) {
  const Deadline deadline(After(timeout_us));
  MutexLock lock(call->mutex);
  while (!call->finished) {
    const absl::Duration left = deadline.left();
    if (left <= absl::ZeroDuration()) return 0;
    call->ended.WaitFor(call->mutex, left);
  }
  return 1;
}

int32_t stem_take_stem(stem_call* call, stem_stem** stem, stem_error* error) {
  *stem = nullptr;
  absl::StatusOr<absl::StatusOr<Stem>> taken = Take<absl::StatusOr<Stem>>(call);
  return taken.ok() ? Give(*std::move(taken), stem, error) : Fail(taken.status(), error);
}

int32_t stem_take_loaded(stem_call* call, uint32_t* blocks_loaded, stem_error* error) {
  const absl::StatusOr<LoadResult> taken = Take<LoadResult>(call);
  return taken.ok() ? Loaded(*taken, blocks_loaded, error) : Fail(taken.status(), error);
}

int32_t stem_take_got(stem_call* call, stem_got* got, stem_error* error) {
  const absl::StatusOr<GetResult> taken = Take<GetResult>(call);
  return taken.ok() ? Got(*taken, got, error) : Fail(taken.status(), error);
}

int32_t stem_take_reservation(stem_call* call, stem_reservation** reservation, stem_error* error) {
  *reservation = nullptr;
  absl::StatusOr<absl::StatusOr<Reservation>> taken = Take<absl::StatusOr<Reservation>>(call);
  return taken.ok() ? Give(*std::move(taken), reservation, error) : Fail(taken.status(), error);
}

int32_t stem_take_committed(stem_call* call, stem_counts* counts, stem_error* error) {
  const absl::StatusOr<absl::StatusOr<CommitResult>> taken = Take<absl::StatusOr<CommitResult>>(call);
  return taken.ok() ? Committed(*taken, counts, error) : Fail(taken.status(), error);
}

void stem_call_free(stem_call* call) {
  if (call == nullptr) return;
  {
    MutexLock lock(call->mutex);
    while (!call->finished) call->ended.Wait(call->mutex);
  }
  delete call;
}
