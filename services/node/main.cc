// stem-node: the sidecar of one serving host.
#include <iostream>

#include "services/node/config.h"
#include "services/node/node.h"
#include "services/runtime/config.h"
#include "services/runtime/lifecycle.h"
#include "services/runtime/log.h"

int main(int argc, char** argv) {
  stem::KeepFreedMemory();
  stem::StopSignal stop;
  CLI::App app("Keeps the KV cache of this host's engines, and reads that of other hosts", "stem-node");
  stem::NodeConfig config;
  stem::AddOptions(app, config);
  const stem::CommandLine line = stem::ParseCommandLine(app, argc, argv, std::cout, std::cerr);
  if (line.exit_code.has_value()) return *line.exit_code;
  if (const absl::Status status = stem::CheckConfig(config); !status.ok()) {
    return stem::ReportFailure("stem-node", status, std::cerr);
  }
  if (line.check_config) {
    std::cout << "ok\n";
    return stem::kExitOk;
  }
  stem::Logger log({.process = "stem-node",
                    .format = *stem::ParseLogFormat(config.log_format),
                    .level = *stem::ParseLogLevel(config.log_level)});
  absl::StatusOr<std::unique_ptr<stem::Node>> node = stem::Node::Start(config, log);
  if (!node.ok()) return stem::ReportFailure("stem-node", node.status(), std::cerr);
  if (!config.ready_file.empty()) {
    const absl::Status written = stem::WriteReadyFile(config.ready_file, (*node)->ReadyJson());
    if (!written.ok()) return stem::ReportFailure("stem-node", written, std::cerr);
  }
  const absl::string_view signal = stop.Wait();
  log.Info("stopping", {{"signal", signal}});
  node->reset();
  log.Info("stopped");
  return stem::kExitOk;
}
