#include "tests/support/in_process_cluster.h"

#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace stem {
namespace {

template <typename T>
T OrEnd(absl::StatusOr<T> value, const char* what) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "%s: %s\n", what, value.status().ToString().c_str());
  std::abort();
}

}  // namespace

InProcessCluster::InProcessCluster(const Options& options)
    : options_(options), log_({.process = "test", .level = LogLevel::kDebug, .out = &log_lines_}) {
  std::ofstream(secret_file()) << std::string(32, 's');
  chmod(secret_file().c_str(), 0600);
  directories_.resize(options.directories);
  for (size_t i = 0; i < options.directories; ++i) StartDirectory(i);
  nodes_.resize(options.nodes);
  for (size_t i = 0; i < options.nodes; ++i) StartNode(i);
  Settle();
}

InProcessCluster::~InProcessCluster() {
  nodes_.clear();
  directories_.clear();
}

void InProcessCluster::StartDirectory(size_t i) {
  directories_[i] = OrEnd(Directory::Start({.listen = "127.0.0.1:0",
                                            .http = "127.0.0.1:0",
                                            .secret_file = secret_file(),
                                            .heartbeat_ms = 1000,  // generous: the tests' machine may be busy
                                            .tracing = options_.tracing,
                                            .console = options_.console,
                                            .admin = options_.admin},
                                           log_),
                          "directory");
}

std::vector<std::string> InProcessCluster::directory_addresses() const {
  std::vector<std::string> addresses;
  for (const auto& directory : directories_) {
    if (directory != nullptr) addresses.push_back(directory->listen_address());
  }
  return addresses;
}

void InProcessCluster::StartNode(size_t i) {
  NodeConfig config;
  config.name = absl::StrCat("node-", i);
  config.socket = socket(i);
  config.listen = "127.0.0.1:0";
  config.http = "127.0.0.1:0";
  config.directories = directory_addresses();
  config.secret_file = secret_file();
  config.dram_bytes = options_.dram_bytes;
  config.ssd_bytes = options_.ssd_bytes;
  config.ssd_dir = ssd_dir(i);
  config.map_host_peers = options_.map_host_peers;
  config.lease = options_.lease;
  config.scrub_period = options_.scrub_period;
  config.tracing = options_.tracing;
  config.admission = options_.admission;
  nodes_[i] = OrEnd(Node::Start(config, log_), "node");
}

void InProcessCluster::Settle() {
  const absl::Time end = absl::Now() + absl::Seconds(30);
  for (const auto& node : nodes_) {
    if (node == nullptr) continue;
    while (true) {
      const v1::NodeStatusReply status = node->Status();
      bool heard = true;
      for (const auto& stream : status.streams()) {
        heard = heard && stream.connected() && stream.sequence_acknowledged() >= status.sequence();
      }
      if (heard) break;
      if (absl::Now() > end) {
        std::fprintf(stderr, "a directory does not hear %s\n", status.address().node().c_str());
        std::abort();
      }
      absl::SleepFor(absl::Milliseconds(2));
    }
  }
}

std::string InProcessCluster::socket(size_t i) const { return absl::StrCat(directory_path_.path(), "/", i, ".sock"); }

std::string InProcessCluster::ssd_dir(size_t i) const { return absl::StrCat(directory_path_.path(), "/ssd-", i); }

std::vector<std::string> InProcessCluster::sockets() const {
  std::vector<std::string> sockets;
  for (size_t i = 0; i < options_.nodes; ++i) sockets.push_back(socket(i));
  return sockets;
}

std::unique_ptr<CacheClient> InProcessCluster::Connect(size_t i, const NamespaceSpec& spec, uint64_t staging_bytes) {
  return OrEnd(CacheClient::Connect({.node = absl::StrCat("unix://", socket(i)),
                                     .space = spec,
                                     .staging_bytes = staging_bytes,
                                     .client_name = "test"},
                                    absl::Now() + absl::Seconds(30)),
               "client");
}

NamespaceSpec TestSpec(uint64_t block_bytes, const std::string& model) {
  return {.model = model,
          .kv_dtype = "bf16",
          .layout = "opaque",
          .block_tokens = 16,
          .parts = {{.id = 0, .block_bytes = block_bytes}}};
}

}  // namespace stem
