// stemctl workload: writes the project's own chat workload as a trace.
#include <cstdint>
#include <memory>

#include <nlohmann/json.hpp>

#include "services/ctl/commands.h"
#include "services/ctl/workload.h"
#include "services/runtime/config.h"

namespace stem {

void AddWorkloadCommand(CLI::App& app, Command* run) {
  struct Arguments {
    WorkloadOptions options;
    std::string out;
    std::string json;
  };
  const auto arguments = std::make_shared<Arguments>();
  WorkloadOptions& options = arguments->options;
  CLI::App& command = *app.add_subcommand("workload", "write a deterministic multi-turn chat workload as a stem trace");
  command.add_option("--out", arguments->out, "file to write; - = standard output")->required();
  command.add_option("--requests", options.requests, "requests")->capture_default_str();
  command.add_option("--seed", options.seed, "equal seeds make equal workloads")->capture_default_str();
  command.add_option("--block-tokens", options.block_tokens, "tokens a block")->capture_default_str();
  command.add_option("--sessions", options.sessions, "conversations at a time")->capture_default_str();
  command.add_option("--system-prompts", options.system_prompts, "shared by all conversations")->capture_default_str();
  command.add_option("--turns-mean", options.turns_mean, "prompts in a conversation")->capture_default_str();
  command.add_option("--think-ms-mean", options.think_ms_mean, "between answer and next prompt")->capture_default_str();
  command.add_option("--json", arguments->json, "write what was done as JSON; - = standard output");
  command.callback([arguments, run] {
    *run = [arguments]() -> absl::StatusOr<int> {
      STEM_TRY(WriteWorkload(arguments->options, arguments->out));
      const nlohmann::json done = {{"requests", arguments->options.requests},
                                   {"seed", arguments->options.seed},
                                   {"block_tokens", arguments->options.block_tokens},
                                   {"out", arguments->out}};
      STEM_TRY(WriteJson(arguments->json, done.dump(2)));
      return kExitOk;
    };
  });
}

}  // namespace stem
