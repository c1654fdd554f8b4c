/* The whole life of a prompt's KV from C: get what is held of its longest stem, compute and publish the rest.
 *   stem-c-example unix:///run/stemcache/node.sock
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/c_api.h"

enum { TOKENS = 100, BLOCK_TOKENS = 16, BLOCKS = TOKENS / BLOCK_TOKENS, BLOCK_BYTES = 64 << 10, SECOND_US = 1000000 };

static int Failed(const char* what, const stem_error* error) {
  fprintf(stderr, "stem-c-example: %s: %s: %s\n", what, stem_code_name(error->code), error->message);
  return 1;
}

/* Loads what is held of `keys` to `kv`, block by block; returns how many blocks. Whatever fails is a miss. */
static uint32_t Load(stem_client* client, const stem_key* keys, unsigned char* kv) {
  stem_got got = {.struct_bytes = sizeof(got)};
  stem_span pages[BLOCKS];
  for (uint32_t block = 0; block < BLOCKS; ++block) {
    pages[block].data = kv + (size_t)block * BLOCK_BYTES;
    pages[block].bytes = BLOCK_BYTES;
  }
  stem_get(client, keys, BLOCKS, NULL, pages, BLOCKS, SECOND_US / 5, &got, NULL);
  return got.blocks_loaded;
}

/* Publishes blocks `first` and on of the chain; returns how many are now held because of it. */
static uint32_t Publish(stem_client* client, const stem_key* keys, uint32_t first, const unsigned char* kv, stem_error* error) {
  stem_reserve_options options = {.struct_bytes = sizeof(options), .parent = first > 0 ? &keys[first - 1] : NULL};
  stem_reservation* reservation = NULL;
  stem_counts counts = {0};
  if (first == BLOCKS) return 0;
  if (stem_reserve(client, keys + first, BLOCKS - first, &options, SECOND_US, &reservation, error) != STEM_OK) return 0;
  for (size_t i = 0; i < stem_wanted_count(reservation); ++i) {
    stem_wanted wanted;
    if (stem_wanted_at(reservation, i, &wanted, error) != STEM_OK) {
      stem_reservation_free(reservation); /* what is not written is not published */
      return 0;
    }
    memcpy(wanted.staging.data, kv + (size_t)(first + wanted.block) * BLOCK_BYTES, wanted.staging.bytes);
  }
  stem_commit(client, reservation, SECOND_US, &counts, error);
  stem_reservation_free(reservation);
  return counts.committed;
}

static int Run(stem_client* client) {
  stem_error error = {0};
  stem_hasher* hasher = NULL;
  uint32_t prompt[TOKENS]; /* token ids: six full blocks, and a tail that is not cached */
  stem_key keys[BLOCKS];
  size_t key_count = 0;
  unsigned char* kv = calloc(BLOCKS, BLOCK_BYTES); /* the engine's pages */
  if (kv == NULL) return fprintf(stderr, "stem-c-example: no memory\n"), 1;
  for (uint32_t i = 0; i < TOKENS; ++i) prompt[i] = i + 1;
  if (stem_hasher_create(client, NULL, 0, &hasher, &error) != STEM_OK ||
      stem_hasher_append_tokens(hasher, prompt, TOKENS, keys, BLOCKS, &key_count, &error) != STEM_OK) {
    stem_hasher_free(hasher);
    free(kv);
    return Failed("keys", &error);
  }
  const uint32_t loaded = Load(client, keys, kv);
  for (uint32_t block = loaded; block < BLOCKS; ++block) memset(kv + (size_t)block * BLOCK_BYTES, (int)block, BLOCK_BYTES);
  const uint32_t published = Publish(client, keys, loaded, kv, &error);
  stem_hasher_free(hasher);
  free(kv);
  if (error.code != STEM_OK) return Failed("publish", &error);
  printf("%d blocks: %u loaded, %u computed, %u published\n", BLOCKS, loaded, BLOCKS - loaded, published);
  return 0;
}

int main(int argc, char** argv) {
  if (argc != 2) return fprintf(stderr, "usage: stem-c-example unix:///path/node.sock\n"), 2;
  if (stem_abi_version() != STEM_ABI_VERSION) return fprintf(stderr, "stem-c-example: another library\n"), 1;
  const stem_part part = {.group = STEM_GROUP_FULL, .layer_count = 1, .head_count = 1, .block_bytes = BLOCK_BYTES};
  const stem_client_options options = {.struct_bytes = sizeof(options),
                                       .node = argv[1],
                                       .client_name = "stem-c-example",
                                       .model = "example/model",
                                       .kv_dtype = "bf16",
                                       .layout = "nhd",
                                       .block_tokens = BLOCK_TOKENS,
                                       .parts = &part,
                                       .part_count = 1,
                                       .staging_bytes = BLOCKS * BLOCK_BYTES};
  stem_error error;
  stem_client* client = NULL;
  if (stem_connect(&options, 5 * SECOND_US, &client, &error) != STEM_OK) return Failed("connect", &error);
  const int result = Run(client);
  stem_client_free(client);
  return result;
}
