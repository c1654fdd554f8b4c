#include <fstream>

#include "absl/container/flat_hash_map.h"
#include "proto/check.h"
#include "tests/bench/directory/filled_index.h"
#include "tests/bench/directory/measure.h"
#include "tests/bench/directory/scenarios.h"

namespace stem::bench {
namespace {

void PerBlock(Json& row, uint64_t bytes, uint64_t distinct, uint64_t changes) {
  row["blocks"] = distinct;
  row["holder_blocks"] = changes;
  row["MiB"] = static_cast<double>(bytes) / (1 << 20);
  row["B/block"] = static_cast<double>(bytes) / static_cast<double>(distinct);
  row["B/holder_block"] = static_cast<double>(bytes) / static_cast<double>(changes);
}

// Distinct names: those of part 1 count too.
uint64_t Distinct(const Shape& shape) {
  uint64_t distinct = shape.blocks;
  for (uint64_t chain = 0; shape.holes && chain < shape.chains(); ++chain) {
    for (uint32_t i = 0; i < shape.blocks_of(chain); ++i) distinct += Shape::hole(chain, i) ? 0 : 1;
  }
  return distinct;
}

}  // namespace

Json Memory(const Shape& shape) {
  const uint64_t before = UseOf().resident_bytes;
  FilledIndex filled(shape);
  double seconds = 0;
  const uint64_t changes = filled.Fill(&seconds);
  const ProcessUse after = UseOf();
  STEM_CHECK(filled.index.counts().blocks == Distinct(shape));
  Json row;
  PerBlock(row, after.resident_bytes - before, Distinct(shape), changes);
  row["huge_share"] = static_cast<double>(after.huge_bytes) / static_cast<double>(after.resident_bytes);
  row["changes/s"] = static_cast<double>(changes) / seconds;
  return row;
}

Json WriteEvents(const Shape& shape, const std::string& path) {
  std::ofstream out(path, std::ios::binary);
  uint64_t records = 0;
  for (uint64_t chain = 0; chain < shape.chains(); ++chain) {
    for (uint32_t node = 0; node < shape.nodes(); ++node) {
      const uint32_t count = shape.held(chain, node);
      if (count == 0) continue;
      const uint64_t head[] = {uint64_t{count} << 32 | node, chain, 0};
      out.write(reinterpret_cast<const char*>(head), sizeof(head));
      for (uint32_t i = 0; i < count; ++i) {
        const uint64_t fingerprint = FingerprintAt(chain, i);
        out.write(reinterpret_cast<const char*>(&fingerprint), sizeof(fingerprint));
      }
      ++records;
    }
  }
  STEM_CHECK(out.flush().good());
  return Json{{"records", records}, {"path", path}};
}

namespace {

struct Asis {
  size_t operator()(uint64_t fingerprint) const { return fingerprint; }
};
using PlainMap = absl::flat_hash_map<uint64_t, std::vector<uint32_t>, Asis>;

uint32_t PlainMatch(const PlainMap& map, const MatchCall& call, std::vector<uint32_t>& holders) {
  uint32_t matched = 0;
  for (const BlockKey& key : call.keys) {
    const auto found = map.find(IndexedAs({.space = call.space, .key = key}));
    if (found == map.end()) break;
    if (matched == 0) holders = found->second;
    ++matched;
  }
  return matched;
}

}  // namespace

Json PeerMap(const Shape& shape, const LookupOptions& options) {
  const TickScale scale = TickScale::Measure();
  const uint64_t before = UseOf().resident_bytes;
  PlainMap map;
  uint64_t changes = 0;
  double seconds = 0;
  std::vector<uint64_t> keys;
  for (uint64_t chain = 0; chain < shape.chains(); ++chain) {
    keys.clear();
    for (uint32_t i = 0; i < shape.blocks_of(chain); ++i) keys.push_back(FingerprintAt(chain, i));
    const Clock::time_point begin = Clock::now();
    for (uint32_t node = 0; node < shape.nodes(); ++node) {
      const uint32_t count = shape.held(chain, node);
      for (uint32_t i = 0; i < count; ++i) map[keys[i]].push_back(node);
      changes += count;
    }
    seconds += SecondsSince(begin);
  }
  Json row;
  PerBlock(row, UseOf().resident_bytes - before, map.size(), changes);
  row["changes/s"] = static_cast<double>(changes) / seconds;
  for (const uint32_t depth : options.depths) {
    Samples random;
    MatchCall call{.space = BenchSpace(), .keys = {}, .parts = {}, .requester = ""};
    std::vector<uint32_t> holders;
    for (uint32_t i = 0; i < std::max(1000u, options.blocks_per_round / depth); ++i) {
      const uint64_t chain = Mix(i + 1) % shape.chains();
      call.keys = KeysAt(chain, 0, std::min(depth, shape.blocks_of(chain)));
      const uint64_t from = TicksNow();
      const uint32_t matched = PlainMatch(map, call, holders);
      random.AddTicks(TicksNow() - from, scale);
      STEM_CHECK(matched == call.keys.size());
    }
    row["random_p50_ns_" + std::to_string(depth)] = random.At(0.5);
    row["random_p99_ns_" + std::to_string(depth)] = random.At(0.99);
  }
  return row;
}

}  // namespace stem::bench
