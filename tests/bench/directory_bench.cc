// What the directory costs, beside what the machine allows: memory per block, lookups, changes, forgetting a node, the
// way over gRPC. Every configuration runs in a forked process of its own. Shapes are the product of what is given, for
// example: directory_bench memory --blocks 1e6,1.3e6,1.7e6 --chain 64,1000 --shared-by 1,8 --json out.json
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/check.h"
#include "tests/bench/directory/scenarios.h"

namespace stem::bench {
namespace {

// Runs `scenario` in a fork and returns its JSON; an object with "failed" when it ended otherwise.
Json InFork(const std::function<Json()>& scenario) {
  int ends[2];
  STEM_CHECK(pipe(ends) == 0);
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(ends[0]);
    const std::string text = scenario().dump();
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t count = write(ends[1], text.data() + sent, text.size() - sent);
      if (count <= 0) _exit(1);
      sent += static_cast<size_t>(count);
    }
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char buffer[65536];
  for (ssize_t count; (count = read(ends[0], buffer, sizeof(buffer))) > 0;)
    text.append(buffer, static_cast<size_t>(count));
  close(ends[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  Json result = Json::parse(text, nullptr, false);
  if (status != 0 || result.is_discarded()) return {{"failed", status}};
  return result;
}

Json ToJson(const Shape& shape) {
  Json json = {{"of", shape.blocks}, {"chain", shape.chain_blocks}, {"shared_by", shape.shared_by}};
  if (shape.prefixes) json["prefixes"] = true;
  if (shape.holes) json["holes"] = true;
  if (shape.piece_blocks > 0) json["piece"] = shape.piece_blocks;
  return json;
}

void PrintCell(const Json& value) {
  if (value.is_number_float()) {
    const double number = value.get<double>();
    std::cout << (number >= 100 ? absl::StrFormat("%.0f", number) : absl::StrFormat("%.4g", number));
  } else {
    std::cout << (value.is_string() ? value.get<std::string>() : value.dump());
  }
}

// A table of the rows that follow each other with the same columns.
class Table {
 public:
  void Print(const Json& row) {
    std::string columns;
    for (const auto& [name, value] : row.items()) absl::StrAppend(&columns, "| ", name, " ");
    if (columns != columns_) {
      std::cout << "\n" << columns << "|\n";
      for (size_t i = 0; i < row.size(); ++i) std::cout << "| --- ";
      std::cout << "|\n";
      columns_ = columns;
    }
    for (const auto& [name, value] : row.items()) {
      std::cout << "| ";
      PrintCell(value);
      std::cout << " ";
    }
    std::cout << "|" << std::endl;
  }

 private:
  std::string columns_;
};

struct Arguments {
  std::vector<double> blocks = {1e6};
  std::vector<uint32_t> chain = {1000};
  std::vector<uint32_t> shared_by = {1};
  std::vector<uint32_t> pieces = {0};
  bool prefixes = false;
  bool holes = false;
  std::vector<uint32_t> depths = {64, 1000, 8192};
  LookupOptions lookup;
  GrpcOptions grpc;
  uint32_t repeats = 2000;
  std::string events = "events.bin";
  std::string json;
};

std::vector<Shape> Shapes(const Arguments& arguments) {
  std::vector<Shape> shapes;
  for (const uint32_t chain : arguments.chain) {
    for (const uint32_t shared_by : arguments.shared_by) {
      for (const uint32_t piece : arguments.pieces) {
        for (const double blocks : arguments.blocks) {
          shapes.push_back({.blocks = static_cast<uint64_t>(blocks),
                            .chain_blocks = chain,
                            .shared_by = shared_by,
                            .prefixes = arguments.prefixes,
                            .holes = arguments.holes,
                            .piece_blocks = piece});
        }
      }
    }
  }
  return shapes;
}

using Scenario = std::function<Json(const Shape&)>;

void AddOptions(CLI::App& app, Arguments& arguments) {
  app.add_option("--blocks", arguments.blocks, "distinct blocks, e.g. 1e6,1.3e6")
      ->delimiter(',')
      ->check(CLI::Range(1.0, 1e9));
  app.add_option("--chain", arguments.chain, "blocks in a chain")
      ->delimiter(',')
      ->check(CLI::Range(1u, kChainBlocksMax));
  app.add_option("--shared-by", arguments.shared_by, "nodes that hold each chain")
      ->delimiter(',')
      ->check(CLI::Range(1u, 1000u));
  app.add_option("--piece", arguments.pieces, "chains come in pieces of so many blocks; 0 = whole")->delimiter(',');
  app.add_flag("--prefixes", arguments.prefixes, "all but one of a chain's nodes hold a random prefix of it");
  app.add_flag("--holes", arguments.holes, "a second part, of which every 50th block is missing");
  app.add_option("--depth", arguments.depths, "blocks looked up (lookup, peer-map)")->delimiter(',');
  app.add_option("--beside", arguments.lookup.churn_per_second, "changes/s of another thread; -1 = half of what it can")
      ->delimiter(',');
  app.add_option("--rounds", arguments.lookup.rounds, "figures are the median of so many (lookup, grpc)");
  app.add_option("--seconds", arguments.grpc.seconds, "of each round under load (grpc)");
  app.add_option("--repeats", arguments.repeats, "announcements (visible)");
  app.add_option("--directory-binary", arguments.grpc.directory_binary, "stem-directory (grpc)");
  app.add_option("--events", arguments.events, "file to write (events)");
  app.add_option("--json", arguments.json, "write all rows there; - = standard output");
}

int Main(int argc, char** argv) {
  Arguments arguments;
  arguments.grpc.directory_binary = std::filesystem::read_symlink("/proc/self/exe").replace_filename("stem-directory");
  const std::vector<std::pair<std::string, Scenario>> scenarios = {
      {"memory", [](const Shape& shape) { return Memory(shape); }},
      {"lookup", [&](const Shape& shape) { return Lookup(shape, arguments.lookup); }},
      {"changes", [](const Shape& shape) { return Changes(shape); }},
      {"forget", [](const Shape& shape) { return Forget(shape); }},
      {"visible", [&](const Shape& shape) { return Visible(shape, arguments.repeats); }},
      {"peer-map", [&](const Shape& shape) { return PeerMap(shape, arguments.lookup); }},
      {"events", [&](const Shape& shape) { return WriteEvents(shape, arguments.events); }},
      {"grpc", [&](const Shape& shape) { return Grpc(shape, arguments.grpc); }},
  };
  CLI::App app("Measures the directory: memory, lookup, changes, forget, visible, peer-map, events, grpc.");
  std::vector<std::string> wanted;
  app.add_option("scenario", wanted, "which, in this order")->required();
  AddOptions(app, arguments);
  CLI11_PARSE(app, argc, argv);
  arguments.lookup.depths = arguments.depths;
  arguments.grpc.rounds = arguments.lookup.rounds;
  Json all = Json::array();
  Table table;
  bool failed = false;
  for (const std::string& name : wanted) {
    const auto scenario =
        std::find_if(scenarios.begin(), scenarios.end(), [&](auto& each) { return each.first == name; });
    if (scenario == scenarios.end()) {
      std::cerr << "scenario " << name << " is not known; see --help\n";
      return 2;
    }
    for (const Shape& shape : Shapes(arguments)) {
      const Json result = InFork([&] { return scenario->second(shape); });
      for (const Json& part : result.is_array() ? result : Json::array({result})) {
        Json row = {{"scenario", name}};
        row.update(ToJson(shape));
        row.update(part);
        failed = failed || row.contains("failed");
        if (arguments.json != "-") table.Print(row);
        all.push_back(std::move(row));
      }
    }
  }
  if (arguments.json == "-") std::cout << all.dump(1) << std::endl;
  if (!arguments.json.empty() && arguments.json != "-") std::ofstream(arguments.json) << all.dump(1) << "\n";
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace stem::bench

int main(int argc, char** argv) { return stem::bench::Main(argc, argv); }
