// Directories and some nodes in this process: the real thing over real sockets, in a temporary directory.
#pragma once

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "client/cache_client.h"
#include "services/directory/directory.h"
#include "services/node/node.h"
#include "tests/support/temp_directory.h"

namespace stem {

class InProcessCluster {
 public:
  struct Options {
    size_t nodes = 2;
    size_t directories = 1;
    uint64_t dram_bytes = 8 << 20;
    uint64_t ssd_bytes = 0;
    bool map_host_peers = true;  // else nodes read each other through the transport
    absl::Duration lease = absl::Seconds(10);
    absl::Duration scrub_period = absl::Hours(1);
    TracingOptions tracing = TracingOptions();  // of all; by default none
    std::string admission = "always";  // who is worth a write to SSD
    bool console = true;
    bool admin = false;  // the directories' consoles take orders
  };
  // Returns once every directory has heard of every node. A failed start ends the test process.
  explicit InProcessCluster(const Options& options);
  ~InProcessCluster();

  Node& node(size_t i) { return *nodes_[i]; }
  void StopNode(size_t i) { nodes_[i].reset(); }
  void StartNode(size_t i);
  void StopDirectory(size_t i) { directories_[i].reset(); }
  // On a port of its own: the nodes hear of it by SetDirectories.
  void StartDirectory(size_t i);
  // Waits until every directory that a node announces to knows as many changes as the node has made.
  void Settle();

  std::string socket(size_t i) const;
  std::string ssd_dir(size_t i) const;
  std::vector<std::string> sockets() const;
  std::string directory_address(size_t i = 0) const { return directories_[i]->listen_address(); }
  std::string console_address(size_t i = 0) const { return directories_[i]->http_address(); }
  std::string admin_token(size_t i = 0) const { return directories_[i]->admin_token(); }
  // Of the directories that run.
  std::vector<std::string> directory_addresses() const;
  std::string secret_file() const { return directory_path_.path() + "/secret"; }

  // A client of node `i`, attached.
  std::unique_ptr<CacheClient> Connect(size_t i, const NamespaceSpec& spec, uint64_t staging_bytes = 4 << 20);

 private:
  const Options options_;
  TempDirectory directory_path_;
  std::ostringstream log_lines_;
  Logger log_;
  std::vector<std::unique_ptr<Directory>> directories_;  // null = stopped
  std::vector<std::unique_ptr<Node>> nodes_;
};

// One part of `block_bytes`, 16 tokens a block.
NamespaceSpec TestSpec(uint64_t block_bytes, const std::string& model = "test-model");

}  // namespace stem
