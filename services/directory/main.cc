// stem-directory: the index of which node holds which blocks.
#include <iostream>

#include "absl/strings/str_cat.h"
#include "services/directory/directory.h"
#include "services/runtime/config.h"
#include "services/runtime/lifecycle.h"
#include "services/runtime/log.h"

namespace {

constexpr char kName[] = "stem-directory";

// So that only who may read the file, or the log, can order.
absl::Status TellToken(const std::string& token, const std::string& ready_file, stem::Logger& log) {
  if (token.empty()) return absl::OkStatus();
  if (ready_file.empty()) {
    log.Warn("admin_token", {{"token", token}});  // with --log-level warn too
    return absl::OkStatus();
  }
  const std::string path = ready_file + ".token";
  log.Info("admin_token", {{"file", path}});
  return stem::WriteReadyFile(path, token + "\n", 0600);
}

int Run(const stem::DirectoryConfig& config, const std::string& ready_file, bool check_only, stem::Logger& log,
        stem::StopSignal& stop) {
  if (check_only) {
    const int code = stem::ReportFailure(kName, stem::CheckConfig(config, log), std::cerr);
    if (code == stem::kExitOk) std::cout << "ok" << std::endl;
    return code;
  }
  auto directory = stem::Directory::Start(config, log);
  if (!directory.ok()) return stem::ReportFailure(kName, directory.status(), std::cerr);
  const std::string listen = (*directory)->listen_address(), http = (*directory)->http_address();
  log.Info("ready", {{"listen", listen}, {"http", http}});
  if (const absl::Status told = TellToken((*directory)->admin_token(), ready_file, log); !told.ok()) {
    return stem::ReportFailure(kName, told, std::cerr);
  }
  const std::string ready = absl::StrCat(R"({"listen":")", listen, R"(","http":")", http, "\"}\n");
  const absl::Status written = ready_file.empty() ? absl::OkStatus() : stem::WriteReadyFile(ready_file, ready);
  if (!written.ok()) return stem::ReportFailure(kName, written, std::cerr);
  log.Info("stopping", {{"signal", stop.Wait()}});
  (*directory)->Stop(absl::Seconds(5));
  return stem::kExitOk;
}

}  // namespace

int main(int argc, char** argv) {
  stem::KeepFreedMemory();
  stem::StopSignal stop;
  stem::DirectoryConfig config;
  std::string format = "text", level = "info", ready_file;
  CLI::App app("Answers which node of a cluster holds the longest stem of a prompt.", kName);
  app.add_option("--listen", config.listen, "gRPC address, host:port; port 0 = any")->capture_default_str();
  app.add_option("--http", config.http, "address of the console, /metrics and /healthz")->capture_default_str();
  app.add_option("--secret-file", config.secret_file, "the cluster's secret: a file of 32 bytes or more; empty: etcd's");
  stem::AddOptions(app, config.fleet);
  app.add_option("--heartbeat-ms", config.heartbeat_ms, "a stream silent for longer is stale")->capture_default_str();
  app.add_option("--stale-ms-max", config.stale_ms_max, "a node silent for longer is lost")->capture_default_str();
  stem::AddBytesOption(app, "--index-bytes-max", config.index_bytes_max, {.min = 64ULL << 20, .max = 64ULL << 30},
                       "memory of the index; what does not fit is forgotten");
  app.add_option("--ghosts-max", config.ghosts_max, "departed blocks to remember")->capture_default_str();
  stem::AddOptions(app, config.tracing);
  app.add_option("--console", config.console, "true or false: serve the console on --http; who reaches it reads what all tenants ask for")
      ->capture_default_str();
  app.add_flag("--admin", config.admin,
               "the console takes orders from who shows its token (in READY-FILE.token, or else in the log); --http must be loopback");
  app.add_flag("--insecure-allow-remote", config.insecure_allow_remote, "listen beyond loopback, unprotected");
  stem::AddCheckedOption(app, "--log-format", format, [](auto text) { return stem::ParseLogFormat(text).status(); }, "text or json");
  stem::AddCheckedOption(app, "--log-level", level, [](auto text) { return stem::ParseLogLevel(text).status(); }, "debug, info, warn or error");
  app.add_option("--ready-file", ready_file, "written once ports are open: JSON that names them")->configurable(false);
  const stem::CommandLine line = stem::ParseCommandLine(app, argc, argv, std::cout, std::cerr);
  if (line.exit_code) return *line.exit_code;
  stem::Logger log({.process = kName, .format = *stem::ParseLogFormat(format), .level = *stem::ParseLogLevel(level)});
  return Run(config, ready_file, line.check_config, log, stop);
}
