// stemctl explain: why a prompt's blocks are missing.
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "services/ctl/commands.h"
#include "services/ctl/explain.h"
#include "services/ctl/prompt_file.h"
#include "services/ctl/targets.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

struct Arguments {
  TargetArguments targets;
  std::string tokens, keys, request;
  SpaceChoice space;
  std::string salt;
  std::string json;
};

absl::StatusOr<Explanation> AskWhy(const Arguments& arguments, const StatusTargets& targets) {
  if (!arguments.request.empty()) return ExplainRequest(targets, arguments.request);
  STEM_ASSIGN(const std::string text, ReadPromptFile(arguments.tokens.empty() ? arguments.keys : arguments.tokens));
  STEM_ASSIGN(const std::vector<KnownSpace> spaces, ReadNamespaces(targets));
  STEM_ASSIGN(const KnownSpace space, ChooseSpace(spaces, arguments.space));
  PromptKeys prompt;
  if (arguments.tokens.empty()) {
    STEM_ASSIGN(prompt.keys, ParseKeys(text));
  } else {
    STEM_ASSIGN(const std::vector<uint32_t> tokens, ParseTokens(text));
    STEM_ASSIGN(const std::optional<ClusterSecret> secret, ReadSecret(targets.secret_file));
    if (!secret.has_value()) return absl::InvalidArgumentError("tokens become keys under the cluster's secret; give --dir or --secret-file");
    STEM_ASSIGN(prompt, KeysOfTokens(tokens, space, arguments.salt, *secret));
  }
  return ExplainPrompt(targets, space, std::move(prompt));
}

absl::StatusOr<int> Run(const Arguments& arguments) {
  const int ways = !arguments.tokens.empty() + !arguments.keys.empty() + !arguments.request.empty();
  if (ways != 1) return absl::InvalidArgumentError("say what to explain: one of --tokens, --keys and --request");
  STEM_ASSIGN(const StatusTargets targets, TargetsOf(arguments.targets));
  STEM_ASSIGN(const Explanation explanation, AskWhy(arguments, targets));
  if (arguments.json != "-") STEM_TRY(PrintText(explanation.ToText()));
  STEM_TRY(WriteJson(arguments.json, explanation.ToJson().dump(2)));
  return kExitOk;
}

}  // namespace

void AddExplainCommand(CLI::App& app, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand("explain", "why a prompt's blocks are missing: who holds what, and of the rest cause, time and place");
  command.add_option("--tokens", arguments->tokens, "file with the prompt's token ids: a JSON list or words; - = standard input. Of prompts with adapters or images use --keys");
  command.add_option("--keys", arguments->keys, "file with the prompt's keys, 32 hex digits each, from its first block on");
  command.add_option("--request", arguments->request, "the engine's id of a request that a node remembers");
  command.add_option("--model", arguments->space.model, "of --tokens and --keys: the model, where the nodes know several");
  command.add_option("--namespace", arguments->space.fingerprint, "its fingerprint in hex, or the beginning of it");
  command.add_option("--tenant", arguments->space.tenant, "trust group that owns it");
  command.add_option("--salt", arguments->salt, "the salt of the prompt's chain");
  AddTargets(command, &arguments->targets);
  command.add_option("--json", arguments->json, "write the explanation as JSON; - = standard output");
  command.callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace stem
