/* A C program that uses all of client/c_api.h against a real node, for c_api_test: prints one line a check, "ok NAME" or
 * "FAILED NAME: what". Usage: c_api_client SOCKET_OF_A_NODE [SOCKET_OF_ANOTHER]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/c_api.h"

enum { BLOCK_TOKENS = 16, BLOCKS = 8, PUBLISHED = BLOCKS / 2 + 2, BLOCK_BYTES = 16384, SECOND_US = 1000000 };

static int failures = 0;

static void Check(int holds, const char* name, const char* detail) {
  if (holds) {
    printf("ok %s\n", name);
    return;
  }
  printf("FAILED %s: %s\n", name, detail);
  ++failures;
}

static void CountDone(void* argument) { __atomic_add_fetch((int*)argument, 1, __ATOMIC_SEQ_CST); }

static stem_client* Connect(const char* node, uint32_t proof, stem_error* error) {
  static const stem_part part = {.group = STEM_GROUP_FULL, .layer_count = 1, .head_count = 1, .block_bytes = BLOCK_BYTES};
  const stem_client_options options = {.struct_bytes = sizeof(options),
                                       .node = node,
                                       .client_name = "c",
                                       .model = "c/model",
                                       .kv_dtype = "fp32",
                                       .layout = "opaque",
                                       .block_tokens = BLOCK_TOKENS,
                                       .parts = &part,
                                       .part_count = 1,
                                       .staging_bytes = BLOCKS * BLOCK_BYTES,
                                       .local_proof = proof};
  stem_client* client = NULL;
  stem_connect(&options, 20 * SECOND_US, &client, error);
  return client;
}

static void Fill(unsigned char* block, uint32_t index) {
  for (uint32_t i = 0; i < BLOCK_BYTES; ++i) block[i] = (unsigned char)(index * 31 + i * 7 + (i >> 8));
}

static void CheckKeys(stem_client* client, stem_key* keys) {
  stem_error error = {0};
  stem_hasher* hasher = NULL;
  uint32_t tokens[BLOCKS * BLOCK_TOKENS + 3];
  stem_key again[BLOCKS];
  size_t count = 0, rest = 0;
  for (uint32_t i = 0; i < BLOCKS * BLOCK_TOKENS + 3; ++i) tokens[i] = 7000 + i;
  Check(stem_hasher_create(client, NULL, 0, &hasher, &error) == STEM_OK, "HasherIsMade", error.message);
  Check(stem_hasher_append_tokens(hasher, tokens, BLOCKS * BLOCK_TOKENS + 3, keys, BLOCKS, &count, &error) == STEM_OK &&
            count == BLOCKS,
        "FullBlocksGetKeys", error.message);
  stem_hasher_restart(hasher, NULL, 0, &error);
  uint8_t probe[16] = {0}, salted[16] = {0};
  Check(stem_hasher_probe(hasher, probe) == 0, "NoTokensHaveNoProbe", "there was one");
  stem_hasher_append_tokens(hasher, tokens, 20, again, BLOCKS, &count, &error);
  Check(stem_hasher_probe(hasher, probe) == 1, "FirstTokensHaveAProbe", "there was none");
  stem_hasher_append_tokens(hasher, tokens + 20, BLOCKS * BLOCK_TOKENS - 20, again + count, BLOCKS - count, &rest, &error);
  Check(count == 1 && rest == BLOCKS - 1 && memcmp(keys, again, sizeof(again)) == 0, "PiecesGiveTheSameKeys", error.message);
  Check(stem_hasher_append_tokens(hasher, tokens, 40, again, 1, &count, &error) == STEM_OUT_OF_RANGE && count == 0,
        "TooSmallAListIsRefused", error.message);
  stem_hasher_restart(hasher, "salt", 4, &error);
  stem_hasher_append_tokens(hasher, tokens, BLOCK_TOKENS, again, BLOCKS, &count, &error);
  Check(memcmp(keys, again, sizeof(stem_key)) != 0, "SaltChangesKeys", "equal");
  Check(stem_hasher_probe(hasher, salted) == 1 && memcmp(probe, salted, sizeof(probe)) != 0, "SaltChangesTheProbe", "equal");
  stem_hasher_restart(hasher, NULL, 0, &error);
  stem_hasher_add_extra(hasher, STEM_EXTRA_LORA, "adapter", 7, 0, &error);
  stem_hasher_append_tokens(hasher, tokens, BLOCK_TOKENS, again, BLOCKS, &count, &error);
  Check(memcmp(keys, again, sizeof(stem_key)) != 0, "ExtraKeyChangesKeys", "equal");
  Check(stem_hasher_add_extra(hasher, 257, "x", 1, 0, &error) == STEM_INVALID_ARGUMENT, "UnknownTagIsRefused", error.message);
  Check(stem_hasher_append_hash(hasher, "h", 1, again, &error) == STEM_FAILED_PRECONDITION, "HashNeedsItsScheme", error.message);
  stem_hasher_free(hasher);
}

static void CheckPublish(stem_client* client, const stem_key* keys) {
  stem_error error = {0};
  stem_reservation* reservation = NULL;
  stem_counts counts = {0};
  stem_wanted wanted;
  Check(stem_reserve(client, keys, BLOCKS / 2, NULL, 20 * SECOND_US, &reservation, &error) == STEM_OK, "ReserveGives",
        error.message);
  Check(stem_wanted_count(reservation) == BLOCKS / 2, "NewBlocksAreWanted", "another number");
  Check(stem_wanted_at(reservation, BLOCKS, &wanted, &error) == STEM_OUT_OF_RANGE, "IndexIsChecked", error.message);
  for (size_t i = 0; i < stem_wanted_count(reservation); ++i) {
    stem_wanted_at(reservation, i, &wanted, &error);
    Fill(wanted.staging.data, wanted.block);
  }
  Check(stem_commit(client, reservation, 20 * SECOND_US, &counts, &error) == STEM_OK && counts.committed == BLOCKS / 2,
        "CommitPublishes", error.message);
  Check(stem_commit(client, reservation, SECOND_US, &counts, &error) == STEM_INVALID_ARGUMENT, "ReservationIsUsedUp",
        error.message);
  stem_reservation_free(reservation);

  /* The other half by calls that do not wait. */
  stem_reserve_options options = {
      .struct_bytes = sizeof(options), .parent = &keys[BLOCKS / 2 - 1], .conversation = 7, .outlook = STEM_OUTLOOK_ENDED + 1};
  stem_call* call = NULL;
  Check(stem_reserve(client, keys + BLOCKS / 2, 1, &options, SECOND_US, &reservation, &error) == STEM_INVALID_ARGUMENT,
        "UnknownOutlookIsRefused", error.message);
  options.outlook = STEM_OUTLOOK_WILL_RESUME;
  int done = 0;
  stem_reserve_start(client, keys + BLOCKS / 2, BLOCKS / 2, &options, 20 * SECOND_US, CountDone, &done, &call, &error);
  Check(stem_call_wait(call, 20 * SECOND_US) == 1 && done == 1, "ReserveCallsBack", "it did not");
  stem_reservation* taken = NULL;
  Check(stem_take_reservation(call, &taken, &error) == STEM_OK, "ReservationIsTaken", error.message);
  Check(stem_take_reservation(call, &reservation, &error) == STEM_FAILED_PRECONDITION && reservation == NULL, "ResultIsTakenOnce",
        error.message);
  stem_call_free(call);
  stem_reservation_free(taken);
  stem_reserve(client, keys + BLOCKS / 2, 2, &options, 20 * SECOND_US, &reservation, &error);
  Check(stem_wanted_count(reservation) == 2, "AbandonedKeysAreWantedAgain", error.message);
  for (size_t i = 0; i < stem_wanted_count(reservation); ++i) {
    stem_wanted_at(reservation, i, &wanted, &error);
    Fill(wanted.staging.data, BLOCKS / 2 + wanted.block);
  }
  stem_commit_start(client, reservation, 20 * SECOND_US, NULL, NULL, &call, &error);
  stem_call_wait(call, 20 * SECOND_US);
  Check(stem_take_committed(call, &counts, &error) == STEM_OK && counts.committed == 2, "CommitIsTaken", error.message);
  stem_call_free(call);
  stem_reservation_free(reservation);
  stem_reserve(client, keys, PUBLISHED, NULL, 20 * SECOND_US, &reservation, &error);
  stem_reservation_counts(reservation, &counts);
  Check(counts.held == PUBLISHED && stem_wanted_count(reservation) == 0, "HeldBlocksAreNotWanted", error.message);
  stem_reservation_free(reservation);
  stem_conversation_ended(client, 7);
}

static void CheckFetch(stem_client* client, const stem_key* keys, uint32_t expected, const char* name) {
  stem_error error = {0};
  stem_stem* stem = NULL;
  stem_miss miss;
  stem_span pages[BLOCKS];
  uint32_t loaded = 0;
  static unsigned char kv[BLOCKS][BLOCK_BYTES], truth[BLOCK_BYTES];
  memset(kv, 0, sizeof(kv));
  Check(stem_acquire(client, keys, BLOCKS, NULL, 20 * SECOND_US, &stem, &error) == STEM_OK, name, error.message);
  if (stem == NULL) return;
  Check(stem_matched_blocks(stem) == expected, "StemIsWhatIsHeld", "another length");
  Check(stem_misses(stem, &miss, 1) == 1 && miss.first == expected && miss.first + miss.count == BLOCKS, "MissesCoverTheRest",
        "other misses");
  for (uint32_t i = 0; i < BLOCKS; ++i) {
    pages[i].data = kv[i];
    pages[i].bytes = BLOCK_BYTES;
  }
  Check(stem_load(client, stem, 0, pages, expected, 20 * SECOND_US, &loaded, &error) == STEM_OK && loaded == expected, "LoadProves",
        error.message);
  for (uint32_t i = 0; i < expected; ++i) {
    Fill(truth, i);
    Check(memcmp(kv[i], truth, BLOCK_BYTES) == 0, "BytesAreWhatWasPublished", "they differ");
  }
  if (expected == 0) {
    stem_stem_free(stem);
    return;
  }
  Check(stem_block_source(stem, 0) != STEM_SOURCE_NONE && stem_block_source(stem, 1000) == STEM_SOURCE_NONE, "SourceIsTold", "");
  pages[0].bytes = 1;
  Check(stem_load(client, stem, 0, pages, 1, SECOND_US, NULL, &error) == STEM_INVALID_ARGUMENT, "WrongSizeIsRefused",
        error.message);
  stem_stem_free(stem);
}

static void CheckGet(stem_client* client, const stem_key* keys, uint32_t expected) {
  stem_error error = {0};
  stem_got got = {.struct_bytes = sizeof(got)};
  stem_span pages[BLOCKS];
  stem_call* call = NULL;
  static unsigned char kv[BLOCKS][BLOCK_BYTES], truth[BLOCK_BYTES];
  for (uint32_t i = 0; i < BLOCKS; ++i) {
    pages[i].data = kv[i];
    pages[i].bytes = BLOCK_BYTES;
  }
  for (int waiting = 1; waiting >= 0; --waiting) {
    int32_t code = STEM_OK;
    memset(kv, 0, sizeof(kv));
    if (waiting) {
      code = stem_get(client, keys, BLOCKS, NULL, pages, BLOCKS, 20 * SECOND_US, &got, &error);
    } else {
      stem_get_start(client, keys, BLOCKS, NULL, pages, BLOCKS, 20 * SECOND_US, NULL, NULL, &call, &error);
      stem_call_wait(call, 20 * SECOND_US);
      code = stem_take_got(call, &got, &error);
      stem_call_free(call);
    }
    Check(code == STEM_OK && got.blocks_loaded == expected, "GetBringsWhatIsHeld", error.message);
    Check(got.miss.first == expected && got.miss.first + got.miss.count == BLOCKS, "GetSaysWhatIsMissed", "another miss");
    for (uint32_t i = 0; i < expected; ++i) {
      Fill(truth, i);
      Check(memcmp(kv[i], truth, BLOCK_BYTES) == 0, "GetsWhatWasPublished", "they differ");
    }
  }
  Check(stem_get(client, keys, expected, NULL, pages, expected, 20 * SECOND_US, &got, &error) == STEM_OK && got.miss.count == 0,
        "WholeChainHasNoMiss", error.message);
  Check(stem_get(client, keys, BLOCKS, NULL, pages, 1, SECOND_US, &got, &error) == STEM_INVALID_ARGUMENT && got.blocks_loaded == 0,
        "OneDestinationAPosition", error.message);
}

static void CheckCalls(stem_client* client, const stem_key* keys) {
  stem_error error = {0};
  stem_call* call = NULL;
  stem_stem* stem = NULL;
  stem_span page;
  uint32_t loaded = 0;
  static unsigned char kv[BLOCK_BYTES], truth[BLOCK_BYTES];
  stem_acquire_start(client, keys, BLOCKS, NULL, 20 * SECOND_US, NULL, NULL, &call, &error);
  while (!stem_call_done(call)) continue; /* the polling form */
  Check(stem_take_loaded(call, &loaded, &error) == STEM_FAILED_PRECONDITION, "OtherKindIsRefused", error.message);
  Check(stem_take_stem(call, &stem, &error) == STEM_OK, "StemIsTaken", error.message);
  stem_call_free(call);
  page.data = kv;
  page.bytes = BLOCK_BYTES;
  stem_load_start(client, stem, 1, &page, 1, 20 * SECOND_US, NULL, NULL, &call, &error);
  stem_call_wait(call, 20 * SECOND_US);
  Fill(truth, 1);
  Check(stem_take_loaded(call, &loaded, &error) == STEM_OK && loaded == 1 && memcmp(kv, truth, BLOCK_BYTES) == 0, "LoadIsTaken",
        error.message);
  stem_call_free(call);
  stem_stem_free(stem);
}

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  stem_error error = {0};
  char text[256];
  stem_key keys[BLOCKS];
  Check(stem_abi_version() == STEM_ABI_VERSION, "AbiIsThis", "another");
  stem_client_options wrong = {.struct_bytes = 4096, .node = argv[1]};
  stem_client* client = NULL;
  Check(stem_connect(&wrong, SECOND_US, &client, &error) == STEM_INVALID_ARGUMENT && client == NULL, "NewerStructIsRefused",
        error.message);
  wrong.struct_bytes = sizeof(wrong);
  Check(stem_connect(&wrong, SECOND_US, &client, &error) == STEM_INVALID_ARGUMENT, "EmptyNamespaceIsRefused", error.message);
  wrong.spill_encoding = STEM_SPILL_INT8 + 1;
  Check(stem_connect(&wrong, SECOND_US, &client, &error) == STEM_INVALID_ARGUMENT && strstr(error.message, "spill_encoding is 3") != NULL,
        "UnknownSpillEncodingIsRefused", error.message);
  Check(Connect("unix:///nowhere/node.sock", STEM_PROOF_FULL, &error) == NULL && error.code == STEM_UNAVAILABLE,
        "NoNodeIsUnavailable", error.message);
  error.message[0] = 0;
  client = Connect(argv[1], STEM_PROOF_FULL, &error);
  Check(client != NULL, "Connects", error.message);
  if (client == NULL) return 1;
  Check(stem_client_connected(client) && stem_client_incarnation(client) != 0, "IsConnected", "it is not");
  Check(stem_client_node(client, text, 3) == strlen("node-0") && strcmp(text, "no") == 0, "TextIsCut", text);
  Check(stem_client_warning(client, 0, text, sizeof(text)) == 0, "NoWarning", text);
  CheckKeys(client, keys);
  CheckFetch(client, keys, 0, "NothingIsHeldAtFirst");
  CheckPublish(client, keys);
  CheckFetch(client, keys, PUBLISHED, "FetchesWhatWasPublished");
  CheckCalls(client, keys);
  stem_stats stats = {.struct_bytes = sizeof(stats)};
  stem_client_stats(client, &stats);
  Check(stats.payloads_committed == PUBLISHED && stats.payloads_loaded[STEM_LOCAL_DRAM] == PUBLISHED + 1, "StatsCount", "wrong");
  CheckGet(client, keys, PUBLISHED);
  if (argc > 2) {
    stem_client* other = Connect(argv[2], STEM_PROOF_HEADER, &error);
    Check(other != NULL, "ConnectsToAnotherNode", error.message);
    if (other != NULL) CheckFetch(other, keys, PUBLISHED, "FetchesFromAnotherNode");
    stem_client_free(other);
  }
  stem_client_free(client);
  printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
