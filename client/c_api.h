/* Stemcache for C, and for whatever can call C: Rust, Go, Python's ctypes. What client/cache_client.h offers, by opaque handles,
 * but for payloads read in place or in ranges. example/example.c is the whole life of a prompt in one page.
 *
 * Versions: STEM_ABI_VERSION counts incompatible changes, and is in the name of the shared library. Options and counts begin
 * with `struct_bytes`: set it to sizeof, then fields that are added later at the end stay unset for old callers.
 * Errors: calls return a code (0 = ok) and fill `error` (may be NULL) when it is not. Every code means: recompute. A miss is no
 * error. Deadlines are given as microseconds from now, at most an hour; no call takes longer. Waiting for one is only stem_call_free.
 * Handles: made by a call, ended by the stem_*_free of their kind (NULL is fine). One handle is for one thread at a time,
 * except stem_client, which is for any until it is freed. Strings and lists are borrowed for the call unless said otherwise.
 */
#ifndef STEM_CLIENT_C_API_H_
#define STEM_CLIENT_C_API_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STEM_ABI_VERSION 1

uint32_t stem_abi_version(void);    /* of the library that was loaded: compare with STEM_ABI_VERSION */
const char* stem_version(void);     /* "0.1.0"; lives for ever */

/* gRPC's numbers; others mean the same. */
enum {
  STEM_OK = 0,
  STEM_UNKNOWN = 2,
  STEM_INVALID_ARGUMENT = 3,
  STEM_DEADLINE_EXCEEDED = 4,
  STEM_NOT_FOUND = 5,
  STEM_RESOURCE_EXHAUSTED = 8,
  STEM_FAILED_PRECONDITION = 9,
  STEM_ABORTED = 10,
  STEM_OUT_OF_RANGE = 11,
  STEM_UNIMPLEMENTED = 12,
  STEM_INTERNAL = 13,
  STEM_UNAVAILABLE = 14,
  STEM_DATA_LOSS = 15
};
const char* stem_code_name(int32_t code); /* "DATA_LOSS"; lives for ever */

typedef struct stem_error {
  int32_t code;
  char message[508]; /* zero-terminated, cut when longer */
} stem_error;

typedef struct stem_key { uint8_t bytes[16]; } stem_key;
typedef struct stem_span { void* data; size_t bytes; } stem_span;

enum { STEM_HASH_XXH3 = 1, STEM_HASH_SHA256 = 2, STEM_HASH_EXTERNAL = 3 };
enum { STEM_GROUP_FULL = 1, STEM_GROUP_WINDOW = 2, STEM_GROUP_STATE = 3 };
enum { STEM_PROOF_FULL = 0, STEM_PROOF_HEADER = 1 };
enum { STEM_SPILL_EXACT = 0, STEM_SPILL_FP8_E4M3 = 1, STEM_SPILL_INT8 = 2 };
enum { STEM_EXTRA_LORA = 1, STEM_EXTRA_MULTIMODAL = 2, STEM_EXTRA_PROMPT_EMBEDDING = 3, STEM_EXTRA_GENERIC = 4 };
/* Where a block came from; indexes of stem_stats. */
enum { STEM_SOURCE_NONE = 0, STEM_LOCAL_DRAM = 1, STEM_REMOTE_DRAM = 2, STEM_LOCAL_SSD = 3, STEM_REMOTE_SSD = 4, STEM_SOURCES = 5 };

/* One piece of a block that is published and read apart; proto/stemcache/v1/types.proto has meanings and limits. */
typedef struct stem_part {
  uint32_t id;
  uint32_t group;
  uint32_t window_tokens;
  uint32_t layer_first, layer_count;
  uint32_t head_first, head_count;
  uint64_t block_bytes;
} stem_part;

/* Who the client is and what it keeps. Texts may be NULL = empty, except node, model, kv_dtype and layout. */
typedef struct stem_client_options {
  size_t struct_bytes;
  const char* node; /* "unix:///run/stemcache/node.sock" */
  const char* model;
  const char* revision;
  const char* weights_digest;
  const char* kv_dtype;
  const char* scale_scheme;
  const char* layout;
  const char* instruction_set;
  const char* tokenizer_digest;
  const char* chat_template_digest;
  uint32_t block_tokens;
  uint32_t hash_scheme; /* 0 = STEM_HASH_XXH3 */
  const stem_part* parts; /* NULL = none: refused */
  size_t part_count;
  uint64_t staging_bytes; /* 0 = reads only */
  const char* client_name;
  const char* shared_group;
  uint32_t local_proof; /* STEM_PROOF_... */
  uint32_t load_threads; /* that copy for one load, 1 to 16; 0 = 1 */
  uint32_t spill_encoding; /* STEM_SPILL_...: how the namespace's blocks lie on an SSD; all but exact are lossy */
} stem_client_options;

typedef struct stem_stats {
  size_t struct_bytes;
  uint64_t payloads_loaded[STEM_SOURCES];
  uint64_t bytes_loaded[STEM_SOURCES];
  uint64_t proofs_failed, payloads_committed, bytes_committed, stems_broken, reattaches, messages_refused;
} stem_stats;

typedef struct stem_client stem_client;
int32_t stem_connect(const stem_client_options* options, uint64_t timeout_us, stem_client** client, stem_error* error);
/* Ends every stem_call that runs with STEM_UNAVAILABLE, and returns once their `done` ran. No other thread may be in a call of the
 * client, nor may `done` free it. Stems, reservations, hashers and stem_calls may be freed later. */
void stem_client_free(stem_client* client);
int32_t stem_client_connected(const stem_client* client); /* 0 once the node is gone; the next call finds its successor */
uint64_t stem_client_incarnation(const stem_client* client);
void stem_client_fingerprint(const stem_client* client, uint8_t fingerprint[16]);
/* Copies the node's name, or its warning number `index`, to `text`, cut and zero-terminated; returns its length without the
 * zero. A warning that is not there has length 0. */
size_t stem_client_node(const stem_client* client, char* text, size_t text_bytes);
size_t stem_client_warning(const stem_client* client, size_t index, char* text, size_t text_bytes);
void stem_client_stats(const stem_client* client, stem_stats* stats);

/* ---- Tokens to keys */
typedef struct stem_hasher stem_hasher;
int32_t stem_hasher_create(const stem_client* client, const void* salt, size_t salt_bytes, stem_hasher** hasher, stem_error* error);
void stem_hasher_free(stem_hasher* hasher);
int32_t stem_hasher_restart(stem_hasher* hasher, const void* salt, size_t salt_bytes, stem_error* error);
/* Of the block that the next token belongs to. `offset_tokens`: STEM_EXTRA_MULTIMODAL only. */
int32_t stem_hasher_add_extra(stem_hasher* hasher, uint32_t tag, const void* bytes, size_t byte_count, uint32_t offset_tokens,
                              stem_error* error);
/* Writes the keys of the blocks that became full, at most key_capacity (else STEM_OUT_OF_RANGE, and nothing was added);
 * (tokens in the block that is not full yet + token_count) / block_tokens is enough. */
int32_t stem_hasher_append_tokens(stem_hasher* hasher, const uint32_t* tokens, size_t token_count, stem_key* keys,
                                  size_t key_capacity, size_t* key_count, stem_error* error);
int32_t stem_hasher_append_hash(stem_hasher* hasher, const void* hash, size_t hash_bytes, stem_key* key, stem_error* error);

/* Of the present chain, for stem_acquire_options and stem_reserve_options: with it a miss says whether the prompt is known under another
 * namespace. Returns 1, or 0 where there is none: before 16 tokens, and with STEM_HASH_EXTERNAL. */
int32_t stem_hasher_probe(const stem_hasher* hasher, uint8_t probe[16]);

/* ---- Fetch */
typedef struct stem_stem stem_stem; /* the pinned, leading run of a chain that is held */
enum { STEM_OUTLOOK_UNKNOWN = 0, STEM_OUTLOOK_WILL_RESUME = 1, STEM_OUTLOOK_ENDED = 2 };
typedef struct stem_acquire_options {
  size_t struct_bytes;
  const uint32_t* parts; /* ids, ascending; NULL = all */
  size_t part_count;
  const char* request;     /* for logs; NULL = none */
  const char* traceparent; /* W3C; NULL = none */
  uint64_t compute_us;     /* AcquireOptions::compute */
  uint64_t block_compute_us; /* AcquireOptions::block_compute */
  const uint8_t* probe;    /* 16 bytes of stem_hasher_probe; NULL = none */
  uint64_t conversation;   /* Conversation::id; 0 = not told */
  uint32_t outlook;        /* what comes after this request */
} stem_acquire_options;

typedef struct stem_miss {
  uint32_t first, count; /* blocks */
  uint32_t cause;        /* MissCause of proto/stemcache/v1/types.proto */
  uint32_t estimate_ms;
} stem_miss;

int32_t stem_acquire(stem_client* client, const stem_key* keys, size_t key_count, const stem_acquire_options* options /* or NULL */,
                     uint64_t timeout_us, stem_stem** stem, stem_error* error);
void stem_stem_free(stem_stem* stem); /* gives it back; never waits */
void stem_conversation_ended(stem_client* client, uint64_t conversation); /* after its last request; never waits */
uint32_t stem_matched_blocks(const stem_stem* stem);
uint32_t stem_landed_blocks(const stem_stem* stem);
uint32_t stem_block_source(const stem_stem* stem, uint32_t block); /* STEM_SOURCE_NONE until it landed */
int32_t stem_is_exact(const stem_stem* stem);                      /* 0 = the match was made with stale knowledge */
/* Writes at most `capacity` runs; returns how many there are. They cover matched_blocks to the chain's end. */
size_t stem_misses(const stem_stem* stem, stem_miss* misses, size_t capacity);
/* One destination per position (block * parts asked + part) from first_block on, of the part's block_bytes; bytes 0 = skip.
 * Proves each block; stops at the first that fails. `blocks_loaded` (may be NULL): how many are whole and proved. */
int32_t stem_load(stem_client* client, const stem_stem* stem, uint32_t first_block, const stem_span* destinations,
                  size_t destination_count, uint64_t timeout_us, uint32_t* blocks_loaded, stem_error* error);

/* Acquire, load and free in one: one destination per position of the whole chain, bytes 0 = skip. What lies whole in the node's memory is copied
 * without a call to it, which is the fastest way to a block; all else as by the three. Nothing stays pinned. */
typedef struct stem_got {
  size_t struct_bytes;
  uint32_t blocks_loaded; /* leading run that is whole and proved */
  stem_miss miss;         /* the first behind it; count 0 = none */
} stem_got;
int32_t stem_get(stem_client* client, const stem_key* keys, size_t key_count, const stem_acquire_options* options /* or NULL */,
                 const stem_span* destinations, size_t destination_count, uint64_t timeout_us, stem_got* got, stem_error* error);

/* ---- Publish */
typedef struct stem_reservation stem_reservation;
typedef struct stem_reserve_options {
  size_t struct_bytes;
  const stem_key* parent; /* of the first key; NULL = the keys begin their chain */
  const uint32_t* parts;
  size_t part_count;
  const char* traceparent;
  const uint8_t* probe;   /* as in stem_acquire_options */
  uint64_t conversation; /* as in stem_acquire_options */
  uint32_t outlook;
} stem_reserve_options;
typedef struct stem_wanted {
  uint32_t position, block, part;
  stem_span staging; /* write all of it before the commit */
} stem_wanted;
typedef struct stem_counts {
  uint32_t held, being_published, refused; /* of a Reserve; a Commit: duplicate, 0, refused */
  uint32_t committed;
} stem_counts;

int32_t stem_reserve(stem_client* client, const stem_key* keys, size_t key_count, const stem_reserve_options* options /* or NULL */,
                     uint64_t timeout_us, stem_reservation** reservation, stem_error* error);
void stem_reservation_free(stem_reservation* reservation); /* without a commit: abandons it */
size_t stem_wanted_count(const stem_reservation* reservation);
int32_t stem_wanted_at(const stem_reservation* reservation, size_t index, stem_wanted* wanted, stem_error* error);
void stem_reservation_counts(const stem_reservation* reservation, stem_counts* counts);
/* Uses the reservation up, whatever comes of it; it must still be freed. */
int32_t stem_commit(stem_client* client, stem_reservation* reservation, uint64_t timeout_us, stem_counts* counts /* or NULL */,
                    stem_error* error);

/* ---- The same without waiting. Each stem_*_start returns at once with a call, which ends by itself within its time.
 * `done` (may be NULL) runs once on a thread of the client, or before the start returns where it is refused at once; it must not wait
 * or free anything. Or ask with stem_call_done, or wait. Then take the result, and free the call. Freeing a call that runs waits
 * for it. Memory that a load or get writes to must live until it is done. */
typedef struct stem_call stem_call;
typedef void (*stem_done)(void* argument);
int32_t stem_acquire_start(stem_client* client, const stem_key* keys, size_t key_count, const stem_acquire_options* options,
                           uint64_t timeout_us, stem_done done, void* argument, stem_call** call, stem_error* error);
int32_t stem_load_start(stem_client* client, const stem_stem* stem, uint32_t first_block, const stem_span* destinations,
                        size_t destination_count, uint64_t timeout_us, stem_done done, void* argument, stem_call** call,
                        stem_error* error);
int32_t stem_get_start(stem_client* client, const stem_key* keys, size_t key_count, const stem_acquire_options* options,
                       const stem_span* destinations, size_t destination_count, uint64_t timeout_us, stem_done done, void* argument,
                       stem_call** call, stem_error* error);
int32_t stem_reserve_start(stem_client* client, const stem_key* keys, size_t key_count, const stem_reserve_options* options,
                           uint64_t timeout_us, stem_done done, void* argument, stem_call** call, stem_error* error);
int32_t stem_commit_start(stem_client* client, stem_reservation* reservation, uint64_t timeout_us, stem_done done, void* argument,
                          stem_call** call, stem_error* error);
int32_t stem_call_done(const stem_call* call);
int32_t stem_call_wait(stem_call* call, uint64_t timeout_us); /* 1 = done */
/* Of a call that is done, once, by its kind: else STEM_FAILED_PRECONDITION. */
int32_t stem_take_stem(stem_call* call, stem_stem** stem, stem_error* error);
int32_t stem_take_loaded(stem_call* call, uint32_t* blocks_loaded, stem_error* error);
int32_t stem_take_got(stem_call* call, stem_got* got, stem_error* error);
int32_t stem_take_reservation(stem_call* call, stem_reservation** reservation, stem_error* error);
int32_t stem_take_committed(stem_call* call, stem_counts* counts, stem_error* error);
void stem_call_free(stem_call* call);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* STEM_CLIENT_C_API_H_ */
