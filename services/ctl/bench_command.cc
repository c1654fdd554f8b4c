// stemctl bench: what this machine's cluster does, beside this machine's own limits.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "services/ctl/bench_block.h"
#include "services/ctl/commands.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

struct Arguments {
  BenchBlockOptions options;
  std::vector<std::string> paths = {"local", "local-get", "remote-shm", "remote-tcp", "ssd"};
  std::vector<std::string> sizes = {"64KiB", "2MiB"};
  std::string json;
};

absl::StatusOr<int> Run(Arguments& arguments) {
  BenchBlockOptions& options = arguments.options;
  options.paths.clear();
  for (const std::string& name : arguments.paths) {
    bool known = false;
    for (const BenchPath path : kBenchPaths) {
      if (name != NameOf(path)) continue;
      options.paths.push_back(path);
      known = true;
    }
    if (!known) return absl::InvalidArgumentError(absl::StrCat("--path: '", name, "' is unknown; use local, local-get, remote-shm, remote-tcp, ssd"));
  }
  options.block_bytes.clear();
  for (const std::string& text : arguments.sizes) {
    const absl::StatusOr<uint64_t> bytes = ParseBytes(text);
    if (!bytes.ok()) return absl::InvalidArgumentError(absl::StrCat("--sizes: ", bytes.status().message()));
    options.block_bytes.push_back(*bytes);
  }
  STEM_ASSIGN(const std::vector<BenchBlockRow> rows, RunBenchBlock(options));
  if (arguments.json != "-") std::fputs(ToTable(rows).c_str(), stdout);
  STEM_TRY(WriteJson(arguments.json, ToJson(rows).dump(2)));
  return kExitOk;
}

}  // namespace

void AddBenchCommand(CLI::App& app, const std::string& binaries, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  BenchBlockOptions& options = arguments->options;
  options.binaries = binaries;
  CLI::App& bench = *app.add_subcommand("bench", "measure a temporary cluster on this machine, beside the machine's own limits");
  bench.require_subcommand(1);
  CLI::App& block = *bench.add_subcommand("block", "how fast blocks come to an engine; every byte is proved, and compared afterwards");
  block.add_option("--path", arguments->paths, "local, local-get (without a call), remote-shm (a peer on this host, mapped), remote-tcp (UCX over loopback), ssd")
      ->delimiter(',')
      ->capture_default_str();
  block.add_option("--sizes", arguments->sizes, "of a block, e.g. 64KiB,2MiB")->delimiter(',')->capture_default_str();
  block.add_option("--stem-blocks", options.stem_blocks, "blocks acquired at a time")->delimiter(',')->capture_default_str();
  block.add_option("--load-threads", options.load_threads, "that copy for one stem")->check(CLI::Range(1, 16))->capture_default_str();
  block.add_option("--threads", options.threads, "that fetch at a time, each its own stems")
      ->delimiter(',')
      ->check(CLI::Range(1, 16))
      ->capture_default_str();
  AddBytesOption(block, "--working-set", options.working_set_bytes, {16 << 20, 16ULL << 30}, "bytes of one round");
  block.add_option("--rounds", options.rounds, "figures are their medians")->check(CLI::Range(1, 100))->capture_default_str();
  AddChoice<LocalProof>(block, "--proof", options.proof, {{"full", LocalProof::kFull}, {"header", LocalProof::kHeader}},
                        "of the client's copy out of its own node");
  block.add_option("--json", arguments->json, "write the rows as JSON; - = standard output, instead of the table");
  block.callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace stem
