// The seam to CUDA on whatever machine this is: with a GPU bytes go there and back, without one every call says why.
#include "kernels/device.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/block_copy.h"
#include "kernels/checksum.h"
#include "kernels/copy_queue.h"
#include "kernels/device_arena.h"

namespace stem {
namespace {

bool SaysWhy(const absl::Status& status) {
  return (absl::IsUnavailable(status) || absl::IsUnimplemented(status)) && !status.message().empty();
}

TEST(DeviceTest, WithoutAGpuEveryFactorySaysWhy) {
  if (cuda_available()) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_TRUE(SaysWhy(Stream::Create().status())) << Stream::Create().status();
  EXPECT_TRUE(SaysWhy(DeviceBuffer::Allocate(4096).status())) << DeviceBuffer::Allocate(4096).status();
  EXPECT_TRUE(SaysWhy(Event::Create().status())) << Event::Create().status();
  EXPECT_TRUE(SaysWhy(DeviceArena::Create(0, 4096).status())) << DeviceArena::Create(0, 4096).status();
  EXPECT_TRUE(SaysWhy(DeviceArena::Import(0, 0, 4096).status())) << DeviceArena::Import(0, 0, 4096).status();
  EXPECT_TRUE(SaysWhy(PinnedBuffer::Allocate(4096).status())) << PinnedBuffer::Allocate(4096).status();
  EXPECT_TRUE(SaysWhy(UseDevice(0))) << UseDevice(0);
  EXPECT_TRUE(SaysWhy(OnDevice(0).status())) << OnDevice(0).status();
  EXPECT_TRUE(SaysWhy(MakeGpuQueue(0, 4096).status())) << MakeGpuQueue(0, 4096).status();
  EXPECT_TRUE(SaysWhy(EventBehind(0, nullptr).status())) << EventBehind(0, nullptr).status();
}

TEST(DeviceTest, BorrowedStreamIsNotDestroyed) {
  auto* const handle = reinterpret_cast<CUstream_st*>(uintptr_t{0x1000});
  Stream first = Stream::Borrow(handle);
  Stream second = std::move(first);
  EXPECT_EQ(second.handle(), handle);
  EXPECT_EQ(first.handle(), nullptr);  // NOLINT(bugprone-use-after-move): that is the promise
}

TEST(DeviceTest, BytesGoToTheGpuAndBackAndHashThereAsHere) {
  if (!cuda_available()) GTEST_SKIP() << "no GPU or driver here; tests/gpu/run.sh runs the kernels where there is one";
  constexpr size_t kBytes = 100'001;
  const auto stream = Stream::Create();
  ASSERT_TRUE(stream.ok()) << stream.status();
  const auto device = DeviceBuffer::Allocate(kBytes);
  const auto words = PinnedBuffer::Allocate(8 * (DigestMessageWords(kBytes) + 1));
  ASSERT_TRUE(device.ok() && words.ok());
  std::vector<std::byte> payload(kBytes), back(kBytes);
  for (size_t i = 0; i < kBytes; ++i) payload[i] = static_cast<std::byte>(i * 7 + i / 256);
  ASSERT_TRUE(stream->Copy(device->bytes(), payload).ok());
  ASSERT_TRUE(stream->Copy(back, device->bytes()).ok());
  auto* const message = reinterpret_cast<uint64_t*>(words->bytes().data());
  const DigestOutput output = {{message, DigestMessageWords(kBytes)}, message + DigestMessageWords(kBytes)};
  const BlockName name = {{{1, 2}}, {{3, 4}}};
  ASSERT_TRUE(Digest(name, device->bytes(), output, *stream).ok());
  ASSERT_TRUE(stream->Synchronize().ok());
  EXPECT_EQ(back, payload);
  std::vector<uint64_t> hashes(ChunkCount(kBytes));
  EXPECT_EQ(*output.digest, Digest(name, payload, hashes));
  EXPECT_TRUE(std::equal(hashes.begin(), hashes.end(), message + 5));
}

TEST(DeviceTest, ExportedArenaIsTheSameMemoryAndOutlivesItsExporter) {
  if (!cuda_available()) GTEST_SKIP() << "no GPU or driver here";
  const auto stream = Stream::Create();
  auto exporter = DeviceArena::Create(0, 1 << 20);
  ASSERT_TRUE(stream.ok() && exporter.ok()) << exporter.status();
  const auto fd = exporter->Export();
  ASSERT_TRUE(fd.ok()) << fd.status();
  const auto importer = DeviceArena::Import(0, *fd, exporter->bytes().size());
  close(*fd);
  ASSERT_TRUE(importer.ok()) << importer.status();
  const std::vector<std::byte> payload(exporter->bytes().size(), std::byte{0x5A});
  std::vector<std::byte> back(payload.size());
  ASSERT_TRUE(stream->Copy(exporter->bytes(), payload).ok());
  ASSERT_TRUE(stream->Synchronize().ok());
  exporter = absl::UnavailableError("gone");
  ASSERT_TRUE(stream->Copy(back, importer->bytes()).ok());
  ASSERT_TRUE(stream->Synchronize().ok());
  EXPECT_TRUE(back == payload);
}

}  // namespace
}  // namespace stem
