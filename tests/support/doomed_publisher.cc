// A client that reserves ten blocks, writes 'R' to its standard output when it got them all (else 'N'), and waits to be
// killed between Reserve and Commit. Another client's keys come free a moment after its death: it asks until then.
#include <unistd.h>

#include <iostream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cache_client.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  stem::CacheClient::Options options{.node = absl::StrCat("unix://", argv[1]), .staging_bytes = 1 << 20};
  options.space = {.model = "doomed",
                   .kv_dtype = "bf16",
                   .layout = "opaque",
                   .block_tokens = 16,
                   .parts = {{.id = 0, .block_bytes = 4096}}};
  const auto client = stem::CacheClient::Connect(options, deadline);
  if (!client.ok()) {
    std::cerr << client.status() << std::endl;
    return 1;
  }
  auto hasher = (*client)->NewHasher();
  std::vector<stem::BlockKey> keys;
  if (!hasher.ok() || !hasher->AppendTokens(std::vector<uint32_t>(160, 1), keys).ok()) return 1;
  stem::Reservation reservation;
  size_t wanted = 0;
  while (wanted < 10 && absl::Now() < deadline) {
    auto reserved = (*client)->Reserve(keys, {}, deadline);
    if (!reserved.ok()) {
      std::cerr << reserved.status() << std::endl;
      return 1;
    }
    reservation = *std::move(reserved);
    wanted = reservation.wanted().size();
    if (wanted < 10) absl::SleepFor(absl::Milliseconds(1));
  }
  const char word = wanted == 10 ? 'R' : 'N';
  if (write(STDOUT_FILENO, &word, 1) != 1) return 1;
  pause();
}
