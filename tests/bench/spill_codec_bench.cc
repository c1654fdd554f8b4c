// GB/s of payload bytes through the lossy codes of spilled blocks, one thread: encoding with the digests of payload and record, as the spiller does, and
// decoding with the digest of the payload, as a promotion does. 256 MiB of cold bf16 payloads; `copy_GBps` is memcpy's of the same payloads.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/checksum.h"
#include "services/node/tiers/spill_codec.h"

namespace {

constexpr size_t kBytes = 256 << 20;

stem::SpillCodec CodecOf(stem::SpillEncoding encoding) {
  stem::NamespaceSpec spec;
  spec.kv_dtype = std::string("bf16");
  spec.layout = std::string("nhd");
  spec.block_tokens = 16;
  spec.spill_encoding = encoding;
  spec.parts = {{.layer_count = 32, .head_count = 8, .block_bytes = 2 << 20}};
  return *stem::SpillCodec::Of(spec);
}

struct Payloads {
  Payloads() : bytes(kBytes), out(kBytes) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 1);
    std::vector<uint16_t> values(1 << 20);
    for (uint16_t& value : values) value = stem::quant::ToBf16(normal(random));
    for (size_t at = 0; at < kBytes; at += values.size() * 2) std::memcpy(bytes.data() + at, values.data(), values.size() * 2);
    const auto start = std::chrono::steady_clock::now();
    std::memcpy(out.data(), bytes.data(), kBytes);
    copy_rate = kBytes / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  std::vector<std::byte> bytes, out;
  double copy_rate = 0;
};

void Run(benchmark::State& state, stem::SpillEncoding encoding, bool encode) {
  static Payloads payloads;
  const stem::SpillCodec codec = CodecOf(encoding);
  const auto payload_bytes = static_cast<size_t>(state.range(0));
  const size_t record_bytes = codec.RecordBytes(payload_bytes), blocks = kBytes / payload_bytes;
  std::vector<std::byte> records(blocks * record_bytes);
  std::vector<uint64_t> hashes(stem::ChunkCount(payload_bytes));
  const auto payload = [&](std::vector<std::byte>& of, size_t i) { return std::span(of).subspan(i * payload_bytes, payload_bytes); };
  const auto record = [&](size_t i) { return std::span(records).subspan(i * record_bytes, record_bytes); };
  for (size_t i = 0; i < blocks; ++i) codec.Encode(payload(payloads.bytes, i), record(i));
  size_t turn = 0;
  for (auto _ : state) {
    const size_t i = turn++ % blocks;
    if (encode) {
      benchmark::DoNotOptimize(stem::Digest({}, payload(payloads.bytes, i), hashes));
      if (!codec.Encode(payload(payloads.bytes, i), record(i))) return state.SkipWithError("refused");
      benchmark::DoNotOptimize(stem::Digest({}, record(i), std::span(hashes).first(stem::ChunkCount(record_bytes))));
    } else {
      codec.Decode(record(i), payload(payloads.out, i));
      benchmark::DoNotOptimize(stem::Digest({}, payload(payloads.out, i), hashes));
    }
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * payload_bytes));
  state.counters["copy_GBps"] = payloads.copy_rate / 1e9;
}

}  // namespace

int main(int argc, char** argv) {
  for (const auto encoding : {stem::SpillEncoding::kFp8E4m3, stem::SpillEncoding::kInt8}) {
    for (const bool encode : {true, false}) {
      const std::string name = std::string(encode ? "encode/" : "decode/") + stem::SpillEncodingName(encoding);
      benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { Run(state, encoding, encode); })
          ->Arg(64 << 10)
          ->Arg(2 << 20)
          ->UseRealTime();
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
