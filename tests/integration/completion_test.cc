// What bash itself completes with the script of `stemctl completion bash`, and that the other shells' scripts know every word too.
#include <array>
#include <cstdio>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kStemctl[] = STEM_BINARIES "/stemctl";

std::string OutputOf(const std::string& command) {
  std::string out;
  std::FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return out;
  std::array<char, 4096> buffer;
  while (const size_t read = std::fread(buffer.data(), 1, buffer.size(), pipe)) out.append(buffer.data(), read);
  EXPECT_EQ(pclose(pipe), 0) << command;
  return out;
}

// What is offered for the last word of `line`; "@default" when that is left to bash, which offers files.
std::set<std::string> Complete(const std::string& line) {
  const std::string script = absl::StrCat(
      "source <(", kStemctl, " completion bash); COMP_WORDS=(", line, "); [[ \"", line, "\" == *\" \" ]] && COMP_WORDS+=(\"\"); ",
      "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=(@default); _stemctl; for word in \"${COMPREPLY[@]}\"; do echo \"$word\"; done");
  std::set<std::string> words;
  for (const absl::string_view word : absl::StrSplit(OutputOf(absl::StrCat("bash -c '", script, "'")), '\n', absl::SkipEmpty())) {
    words.insert(std::string(word));
  }
  return words;
}

TEST(Completion, BashKnowsCommandsFlagsAndChoices) {
  EXPECT_THAT(Complete("stemctl "), AllOf(Contains("status"), Contains("top"), Contains("diagnose"), Contains("cluster"), Not(Contains("--help"))));
  EXPECT_THAT(Complete("stemctl sta"), testing::ElementsAre("status"));
  EXPECT_THAT(Complete("stemctl cluster "), testing::UnorderedElementsAre("up", "down", "status"));
  EXPECT_THAT(Complete("stemctl cluster up --no"), testing::ElementsAre("--nodes"));
  EXPECT_THAT(Complete("stemctl status --"), AllOf(Contains("--dir"), Contains("--json"), Contains("--help"), Not(Contains("--nodes-of-no-one"))));
  EXPECT_THAT(Complete("stemctl replay --format "), AllOf(Contains("mooncake"), Contains("stem")));
  EXPECT_THAT(Complete("stemctl replay --format moon"), testing::ElementsAre("mooncake"));
  EXPECT_THAT(Complete("stemctl completion "), testing::UnorderedElementsAre("bash", "zsh", "fish"));
}

TEST(Completion, FilesAreLeftToBash) {
  EXPECT_THAT(Complete("stemctl status --json "), testing::ElementsAre("@default"));
  EXPECT_THAT(Complete("stemctl replay "), testing::ElementsAre("@default"));
}

TEST(Completion, OtherShellsKnowTheSameWords) {
  for (const char* const shell : {"zsh", "fish"}) {
    const std::string script = OutputOf(absl::StrCat(kStemctl, " completion ", shell));
    EXPECT_THAT(script, AllOf(HasSubstr("diagnose"), HasSubstr("cluster up"), HasSubstr("mooncake"))) << shell;
    if (std::system(absl::StrCat("command -v ", shell, " >/dev/null").c_str()) != 0) continue;  // its own syntax check, where it is installed
    EXPECT_EQ(std::system(absl::StrCat(kStemctl, " completion ", shell, " | ", shell, " -n /dev/stdin").c_str()), 0) << shell;
  }
}

TEST(Completion, OtherShellsAreRefused) {
  EXPECT_NE(std::system(absl::StrCat(kStemctl, " completion csh >/dev/null 2>&1").c_str()), 0);
}

}  // namespace
}  // namespace stem
