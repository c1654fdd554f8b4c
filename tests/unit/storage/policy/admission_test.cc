#include "storage/policy/admission.h"

#include <initializer_list>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

class Requests {
 public:
  explicit Requests(AdmissionKind kind) : admission_(kind, 1000) {}

  void Request(std::initializer_list<uint64_t> chain) {
    ++request_;
    uint32_t depth = 0;
    for (const uint64_t key : chain) admission_.Use({.key = key, .depth = depth++, .request = request_});
  }
  bool Admits(uint64_t key) { return admission_.Admits(key); }

 private:
  Admission admission_;
  uint64_t request_ = 0;
};

TEST(AdmissionTest, AlwaysTakesEveryBlock) {
  Requests requests(AdmissionKind::kAlways);
  EXPECT_TRUE(requests.Admits(1));
}

TEST(AdmissionTest, SecondTouchTakesWhatWasUsedTwice) {
  Requests requests(AdmissionKind::kSecondTouch);
  requests.Request({1, 2, 3});
  requests.Request({1, 2, 4});
  EXPECT_TRUE(requests.Admits(2));
  EXPECT_FALSE(requests.Admits(3));
  EXPECT_FALSE(requests.Admits(9)) << "never seen";
}

TEST(AdmissionTest, SharedTakesWhatSeveralConversationsUsed) {
  Requests requests(AdmissionKind::kShared);
  requests.Request({1, 2, 3, 4});
  requests.Request({1, 2, 3, 4, 5, 6});  // goes on with it
  requests.Request({1, 2, 8, 9});        // another, with the same beginning
  EXPECT_TRUE(requests.Admits(1));
  EXPECT_TRUE(requests.Admits(2));
  EXPECT_FALSE(requests.Admits(4)) << "used twice, by one conversation";
  EXPECT_FALSE(requests.Admits(9));
}

TEST(AdmissionTest, StemLearnsWhichClassComesBack) {
  Requests requests(AdmissionKind::kStem);
  // Conversations of a long prompt never go on; those of a short one always do.
  for (uint64_t i = 0; i < 4000; ++i) {
    const uint64_t base = 1000 * (i + 1);
    requests.Request({base, base + 1, base + 2});
    if (i > 50) requests.Request({base - 50'000, base - 50'000 + 1, base - 50'000 + 2, base - 50'000 + 3});
    requests.Request({base + 100, base + 101, base + 102, base + 103, base + 104, base + 105, base + 106, base + 107});
  }
  const uint64_t last = 1000 * 4000;
  EXPECT_TRUE(requests.Admits(last + 1));
  EXPECT_FALSE(requests.Admits(last + 103));
}

TEST(AdmissionTest, NamesAreReadAndWritten) {
  for (const AdmissionKind kind : AllAdmissions()) EXPECT_EQ(*ParseAdmission(NameOf(kind)), kind);
  EXPECT_THAT(std::string(ParseAdmission("never").status().message()),
              testing::AllOf(testing::HasSubstr("'never'"), testing::HasSubstr("second-touch")));
}

}  // namespace
}  // namespace stem
