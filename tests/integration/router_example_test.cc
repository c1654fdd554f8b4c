// The router's example program over a real cluster: the replica that holds the prompt gets it.
#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/in_process_cluster.h"

namespace stem {
namespace {

std::string OutputOf(const std::string& command) {
  FILE* const pipe = popen(command.c_str(), "r");
  std::string output;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) output.push_back(static_cast<char>(c));
  EXPECT_EQ(pclose(pipe), 0) << command;
  return output;
}

TEST(RouterExampleTest, PromptGoesToTheReplicaThatHoldsIt) {
  InProcessCluster cluster({.nodes = 2, .directories = 2});
  NamespaceSpec spec;  // the example's
  spec.model = "example/model";
  spec.kv_dtype = "bf16";
  spec.layout = "nhd";
  spec.block_tokens = 16;
  spec.parts = {{.id = 0, .block_bytes = 64 << 10}};
  const auto writer = cluster.Connect(1, spec);
  std::vector<uint32_t> tokens(64);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<uint32_t>(100 + i);
  const std::vector<BlockKey> keys = *(*writer->NewHasher()).HashPrompt("", tokens, {});
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  absl::StatusOr<Reservation> reservation = writer->Reserve(keys, {}, deadline);
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  ASSERT_EQ(writer->Commit(*std::move(reservation), deadline)->committed, 4u);
  cluster.Settle();

  const auto ask = [&](uint32_t first) {
    const std::string file = absl::StrCat(cluster.socket(0), ".tokens");
    std::ofstream out(file);
    for (const uint32_t token : tokens) out << token + first << ' ';
    out.close();
    return OutputOf(absl::StrCat(STEM_ROUTER, " unix://", cluster.socket(0), " ", cluster.secret_file(), " ",
                                 cluster.directory_address(0), ",", cluster.directory_address(1), " node-0 node-1 < ", file));
  };
  EXPECT_EQ(ask(0), "node-1\n");
  EXPECT_EQ(ask(5000), "node-0\n") << "nobody holds it: the router's own choice";
}

}  // namespace
}  // namespace stem
