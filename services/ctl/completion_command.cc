// stemctl completion: what a shell needs to complete stemctl's words.
#include <cstdio>
#include <memory>
#include <string>

#include "services/ctl/commands.h"
#include "services/ctl/completion.h"
#include "services/runtime/config.h"

namespace stem {

void AddCompletionCommand(CLI::App& app, Command* run) {
  const auto shell = std::make_shared<std::string>();
  CLI::App& command = *app.add_subcommand("completion", "prints a completion script, e.g. source <(stemctl completion bash)");
  command.add_option("shell", *shell, "whose")->required()->type_name("{bash,zsh,fish}");
  command.callback([&app, shell, run] {
    *run = [&app, shell]() -> absl::StatusOr<int> {
      STEM_ASSIGN(const std::string script, CompletionScript(app, *shell));
      std::fputs(script.c_str(), stdout);
      return kExitOk;
    };
  });
}

}  // namespace stem
