#include "storage/pool/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

TEST(ArenaTest, OthersCanReadButNeverMapWritable) {
  absl::StatusOr<Arena> arena = Arena::Create("arena-test", 1 << 20, Arena::Sharing::kReadOnlyForOthers);
  ASSERT_TRUE(arena.ok()) << arena.status();
  arena->bytes()[12345] = std::byte{42};

  absl::StatusOr<Mapping> reader = Mapping::Create(arena->fd(), 1 << 20, Mapping::Access::kReadOnly);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(reader->bytes()[12345], std::byte{42});
  EXPECT_FALSE(Mapping::Create(arena->fd(), 1 << 20, Mapping::Access::kReadWrite).ok());
  EXPECT_LT(pwrite(arena->fd(), "x", 1, 0), 0) << "the descriptor itself must not write either";
}

TEST(ArenaTest, NobodyCanShrinkIt) {
  absl::StatusOr<Arena> arena = Arena::Create("arena-test", 1 << 20, Arena::Sharing::kWritableByOne);
  ASSERT_TRUE(arena.ok()) << arena.status();
  EXPECT_NE(ftruncate(arena->fd(), 4096), 0);
  EXPECT_EQ(errno, EPERM);
  // Staging is written by its client.
  EXPECT_TRUE(Mapping::Create(arena->fd(), 1 << 20, Mapping::Access::kReadWrite).ok());
}

TEST(ArenaTest, MappingOutlivesTheArena) {
  Mapping reader;
  {
    absl::StatusOr<Arena> arena = Arena::Create("arena-test", 1 << 20, Arena::Sharing::kReadOnlyForOthers);
    ASSERT_TRUE(arena.ok()) << arena.status();
    arena->bytes()[7] = std::byte{7};
    reader = *Mapping::Create(arena->fd(), 1 << 20, Mapping::Access::kReadOnly);
  }
  EXPECT_EQ(reader.bytes()[7], std::byte{7});
}

TEST(ArenaTest, MoreThanTheMachineHasIsRefusedWithTheNumbers) {
  const absl::StatusOr<Arena> arena = Arena::Create("arena-test", 1ULL << 50, Arena::Sharing::kReadOnlyForOthers);
  ASSERT_EQ(arena.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(arena.status().message()), HasSubstr("1125899906842624"));
  EXPECT_THAT(std::string(arena.status().message()), HasSubstr("available"));
}

TEST(MappingTest, FileThatCanShrinkOrIsTooShortIsRefused) {
  const UniqueFd unsealed(memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(unsealed.get(), 8192), 0);
  EXPECT_EQ(Mapping::Create(unsealed.get(), 8192, Mapping::Access::kReadOnly).status().code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(fcntl(unsealed.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  EXPECT_TRUE(Mapping::Create(unsealed.get(), 8192, Mapping::Access::kReadOnly).ok());
  EXPECT_EQ(Mapping::Create(unsealed.get(), 8193, Mapping::Access::kReadOnly).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace stem
