// A fleet on one machine: simulated nodes stream to real stem-directory processes and churn, while directories and
// nodes are killed and come back. Reports whether stems stay available, how long a directory takes to be whole again,
// and what it costs; exits 1 when a match was not answered, or not with all that living nodes hold. The issue asks for:
// fleet --nodes 1000 --blocks 1e8
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/bench/directory/directory_process.h"
#include "tests/bench/directory/fleet_nodes.h"
#include "tests/bench/directory/fleet_probe.h"

namespace stem::bench {
namespace {

using Json = nlohmann::ordered_json;

struct Arguments {
  FleetOptions fleet;
  uint32_t directories = 2;
  uint32_t stale_ms_max = 5000;
  double probes_per_second = 200;
  double phase_seconds = 5;
  double build_seconds_max = 900;
  std::string directory_binary;
  std::string json;
};

class Bench {
 public:
  explicit Bench(const Arguments& arguments)
      : arguments_(arguments),
        folder_(absl::StrCat(std::filesystem::temp_directory_path().string(), "/fleet.", getpid())) {
    std::vector<std::string> addresses;
    for (uint32_t i = 0; i < arguments.directories; ++i) {
      directories_.push_back(std::make_unique<DirectoryProcess>(arguments.directory_binary,
                                                                absl::StrCat(folder_, "/", i),
                                                                arguments.fleet.heartbeat_ms, arguments.stale_ms_max));
      directories_.back()->Start();
      addresses.push_back(directories_.back()->address());
      status_.push_back(v1::Directory::NewStub(OwnChannel(addresses.back())));
    }
    fleet_ = std::make_unique<Fleet>(arguments.fleet, addresses);
    prober_ = std::make_unique<Prober>(*fleet_, addresses, arguments.fleet.chain_blocks, arguments.probes_per_second);
  }
  ~Bench() {
    prober_.reset();
    fleet_.reset();
    directories_.clear();
    std::filesystem::remove_all(folder_);
  }

  Json Run() {
    Phase("build", [&](Json& row) {
      fleet_->Start();
      std::vector<size_t> all(directories_.size());
      for (size_t i = 0; i < all.size(); ++i) all[i] = i;
      WaitUntilWhole(all, row);
    });
    prober_->Start();
    Phase("steady", [&](Json&) { Sleep(arguments_.phase_seconds); });
    Phase("one directory killed", [&](Json&) {
      directories_[0]->Kill();
      Sleep(arguments_.phase_seconds);
    });
    Phase("and restarted", [&](Json& row) {
      const Clock::time_point begin = Clock::now();
      directories_[0]->Start();
      row["listens_ms"] = SecondsSince(begin) * 1e3;
      WaitUntilWhole({0}, row);
    });
    Phase("steady again", [&](Json&) { Sleep(arguments_.phase_seconds); });
    Phase("10 % of nodes killed", [&](Json& row) { KillNodes(row); });
    return rows_;
  }

 private:
  static void Sleep(double seconds) {
    std::this_thread::sleep_for(std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9)));
  }

  std::optional<v1::DirectoryStatusReply> Status(size_t directory) const {
    grpc::ClientContext context;
    secret_.AddToken(context);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(2));
    v1::DirectoryStatusReply reply;
    if (!status_[directory]->DirectoryStatus(&context, {}, &reply).ok()) return std::nullopt;
    return reply;
  }

  // Until those directories have every living node's state, whole and up to date.
  void WaitUntilWhole(const std::vector<size_t>& which, Json& row) {
    const Clock::time_point begin = Clock::now();
    uint64_t blocks = 0, index_bytes = 0;
    for (const size_t directory : which) {
      for (;;) {
        const auto status = Status(directory);
        uint32_t live = 0;
        for (int i = 0; status && i < status->nodes_size(); ++i) live += status->nodes(i).state() == "live" ? 1 : 0;
        if (status) {
          blocks = status->blocks();
          index_bytes = status->index_bytes();
        }
        if (live >= fleet_->alive()) break;
        if (SecondsSince(begin) > arguments_.build_seconds_max) {
          row["gave_up_with_live_nodes"] = live;
          return;
        }
        Sleep(0.05);
      }
    }
    row["whole_after_s"] = SecondsSince(begin);
    row["blocks"] = blocks;
    row["index_MiB"] = static_cast<double>(index_bytes) / (1 << 20);
  }

  // A dead node's chain must go out of sight everywhere; the living ones' stay.
  void KillNodes(Json& row) {
    const uint32_t dead = std::max(1u, arguments_.fleet.nodes / 10);
    const uint64_t chain = fleet_->node(fleet_->alive() - 1).ChainAt(0);
    fleet_->KillNodes(dead);
    const Clock::time_point begin = Clock::now();
    for (size_t i = 0; i < directories_.size(); ++i) {
      while (SecondsSince(begin) < 60) {
        const auto reply = prober_->Ask(i, chain, 1000);
        if (reply && reply->matched_blocks() == 0) break;
        Sleep(0.02);
      }
    }
    row["out_of_sight_after_s"] = SecondsSince(begin);
    Sleep(arguments_.phase_seconds);
  }

  struct Use {
    std::vector<ProcessUse> directories;
    ProcessUse load;
  };
  Use Uses() const {
    Use use{.directories = {}, .load = UseOf()};
    for (const auto& each : directories_)
      use.directories.push_back(each->running() ? UseOf(each->pid()) : ProcessUse());
    return use;
  }

  void Phase(const std::string& name, const std::function<void(Json&)>& body) {
    const Use before = Uses();
    const Clock::time_point begin = Clock::now();
    Json row = {{"phase", name}};
    Json more = Json::object();
    body(more);
    const double seconds = SecondsSince(begin);
    const Use after = Uses();
    row["seconds"] = seconds;
    row.update(prober_->Take());
    row.update(more);
    row["resyncs"] = fleet_->resyncs();
    for (size_t i = 0; i < directories_.size(); ++i) {
      // A restarted process begins at zero.
      const double spent = after.directories[i].cpu_seconds - before.directories[i].cpu_seconds;
      row[absl::StrCat("directory_", i, "_MiB")] = static_cast<double>(after.directories[i].resident_bytes) / (1 << 20);
      row[absl::StrCat("directory_", i, "_cores")] =
          std::max(0.0, spent >= 0 ? spent : after.directories[i].cpu_seconds) / seconds;
    }
    row["nodes_MiB"] = static_cast<double>(after.load.resident_bytes) / (1 << 20);
    row["nodes_cores"] = (after.load.cpu_seconds - before.load.cpu_seconds) / seconds;
    for (const auto& [key, value] : row.items()) {
      std::cout << key << " "
                << (value.is_number_float() ? absl::StrFormat("%.4g", value.get<double>())
                    : value.is_string()     ? value.get<std::string>()
                                            : value.dump())
                << "  ";
    }
    std::cout << std::endl;
    rows_.push_back(std::move(row));
  }

  const Arguments& arguments_;
  const std::string folder_;
  const ClusterSecret secret_ = BenchSecret();
  std::vector<std::unique_ptr<DirectoryProcess>> directories_;
  std::vector<std::unique_ptr<v1::Directory::Stub>> status_;
  std::unique_ptr<Fleet> fleet_;
  std::unique_ptr<Prober> prober_;
  Json rows_ = Json::array();
};

int Main(int argc, char** argv) {
  Arguments arguments;
  arguments.directory_binary = std::filesystem::read_symlink("/proc/self/exe").replace_filename("stem-directory");
  double blocks = 1e6;
  CLI::App app("Simulated nodes, real directories, and faults.");
  app.add_option("--nodes", arguments.fleet.nodes, "simulated nodes")
      ->capture_default_str()
      ->check(CLI::Range(2u, 1000u));
  app.add_option("--blocks", blocks, "distinct blocks over all nodes")->capture_default_str();
  app.add_option("--chain", arguments.fleet.chain_blocks, "blocks in a chain")->capture_default_str();
  app.add_option("--copies", arguments.fleet.copies, "nodes that hold each chain")->capture_default_str();
  app.add_option("--churn", arguments.fleet.churn_per_second, "changes/s over all nodes")->capture_default_str();
  app.add_option("--heartbeat-ms", arguments.fleet.heartbeat_ms, "of the directories")->capture_default_str();
  app.add_option("--stale-ms-max", arguments.stale_ms_max, "of the directories")->capture_default_str();
  app.add_option("--directories", arguments.directories, "real processes")
      ->capture_default_str()
      ->check(CLI::Range(1u, 8u));
  app.add_option("--probes", arguments.probes_per_second, "matches asked per second")->capture_default_str();
  app.add_option("--phase-seconds", arguments.phase_seconds, "of each steady phase")->capture_default_str();
  app.add_option("--directory-binary", arguments.directory_binary, "stem-directory")->capture_default_str();
  app.add_option("--json", arguments.json, "write all phases there");
  CLI11_PARSE(app, argc, argv);
  arguments.fleet.blocks = static_cast<uint64_t>(blocks);
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const Json rows = Bench(arguments).Run();
  const bool available = std::all_of(rows.begin(), rows.end(), [](const Json& row) {
    return row["matches"] == 0 || (row["answered_%"] == 100.0 && row["whole_%"] == 100.0);
  });
  if (!arguments.json.empty()) std::ofstream(arguments.json) << rows.dump(1) << "\n";
  return available ? 0 : 1;
}

}  // namespace
}  // namespace stem::bench

int main(int argc, char** argv) { return stem::bench::Main(argc, argv); }
