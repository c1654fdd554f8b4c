#include "services/ctl/completion.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace stem {
namespace {

struct Flag {
  std::vector<std::string> names;    // "--json", "-h"
  bool takes_value = false;
  std::vector<std::string> choices;  // that the value may be; empty = files are offered
  std::string description;
};

// The app or one of its subcommands, flattened.
struct Level {
  std::string path;  // "stemctl cluster up"
  std::vector<std::pair<std::string, std::string>> subcommands;  // and what they do
  std::vector<Flag> flags;
  bool takes_files = false;
  std::vector<std::string> words;  // that may stand without a flag
};

// A line, without what means something in a shell's quotes.
std::string Plain(std::string text) {
  text = absl::StrReplaceAll(text, {{"\n", " "}, {"'", ""}, {"\"", ""}, {"`", ""}, {"\\", ""}, {"$", ""}, {"[", "("}, {"]", ")"}, {":", " "}});
  return text;
}

// CLI11 shows the words of a choice as "{a,b}" in the type's name.
std::vector<std::string> ChoicesOf(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  const size_t begin = type.find('{'), end = type.find('}');
  if (begin == type.npos || end == type.npos || end < begin) return {};
  return absl::StrSplit(type.substr(begin + 1, end - begin - 1), ',');
}

void Collect(const CLI::App& app, const std::string& path, std::vector<Level>* levels) {
  Level level{.path = path, .subcommands = {}, .flags = {}};
  for (const CLI::Option* const option : app.get_options()) {
    Flag flag{.names = {},
              .takes_value = option->get_items_expected_max() > 0,
              .choices = ChoicesOf(*option),
              .description = Plain(option->get_description())};
    for (const std::string& name : option->get_lnames()) flag.names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) flag.names.push_back("-" + name);
    if (flag.names.empty()) {
      level.takes_files = level.takes_files || flag.choices.empty();
      level.words.insert(level.words.end(), flag.choices.begin(), flag.choices.end());
    } else {
      level.flags.push_back(std::move(flag));
    }
  }
  const std::vector<const CLI::App*> subcommands = app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* const each : subcommands) level.subcommands.emplace_back(each->get_name(), Plain(each->get_description()));
  levels->push_back(std::move(level));
  for (const CLI::App* const each : subcommands) Collect(*each, absl::StrCat(path, " ", each->get_name()), levels);
}

// "a"|"b" of a case, one for each subcommand there is.
std::string PathPattern(const std::vector<Level>& levels) {
  std::vector<std::string> paths;
  for (const Level& level : levels) {
    if (level.path.find(' ') != level.path.npos) paths.push_back(absl::StrCat("\"", level.path, "\""));
  }
  return absl::StrJoin(paths, "|");
}

std::string ValuePattern(const Level& level, const Flag& flag) {
  std::vector<std::string> patterns;
  for (const std::string& name : flag.names) patterns.push_back(absl::StrCat("\"", level.path, ":", name, "\""));
  return absl::StrJoin(patterns, "|");
}

std::string Bash(const std::vector<Level>& levels, const std::string& name) {
  std::string out = fmt::format(
      "# bash completion of {0}: source it, or put it into /etc/bash_completion.d\n"
      "_{0}() {{\n"
      "  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} path={0} word\n"
      "  for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n"
      "    case \"$path $word\" in\n"
      "      {1}) path=\"$path $word\" ;;\n"
      "    esac\n"
      "  done\n"
      "  local words=\n"
      "  case \"$path:$prev\" in\n",
      name, PathPattern(levels));
  for (const Level& level : levels) {
    for (const Flag& flag : level.flags) {
      if (!flag.takes_value) continue;
      out += flag.choices.empty() ? fmt::format("    {}) return ;;\n", ValuePattern(level, flag))  // files, by -o default
                                  : fmt::format("    {}) words=\"{}\" ;;\n", ValuePattern(level, flag), absl::StrJoin(flag.choices, " "));
    }
  }
  out += "    *) case \"$path\" in\n";
  for (const Level& level : levels) {
    std::vector<std::string> words, flags;
    for (const auto& [subcommand, description] : level.subcommands) words.push_back(subcommand);
    words.insert(words.end(), level.words.begin(), level.words.end());
    for (const Flag& flag : level.flags) flags.insert(flags.end(), flag.names.begin(), flag.names.end());
    out += fmt::format("      \"{}\") words=\"{}\"; [[ $cur == -* || -z \"{}\" ]] && words=\"{}\"{} ;;\n", level.path, absl::StrJoin(words, " "),
                       absl::StrJoin(words, " "), absl::StrJoin(flags, " "),
                       level.takes_files ? "; [[ $cur == -* ]] || return" : "");
  }
  out += fmt::format(
      "    esac ;;\n"
      "  esac\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
      "}}\n"
      "complete -o default -F _{0} {0}\n",
      name);
  return out;
}

std::string Zsh(const std::vector<Level>& levels, const std::string& name) {
  std::string out = fmt::format(
      "#compdef {0}\n"
      "# zsh completion of {0}: put it as _{0} into a folder of $fpath\n"
      "_{0}() {{\n"
      "  local path_={0} word\n"
      "  for word in ${{words[2,CURRENT-1]}}; do\n"
      "    case \"$path_ $word\" in\n"
      "      ({1}) path_=\"$path_ $word\" ;;\n"
      "    esac\n"
      "  done\n"
      "  local -a found\n"
      "  case \"$path_:${{words[CURRENT-1]}}\" in\n",
      name, PathPattern(levels));
  for (const Level& level : levels) {
    for (const Flag& flag : level.flags) {
      if (!flag.takes_value) continue;
      out += fmt::format("    ({}) {}; return ;;\n", ValuePattern(level, flag),
                         flag.choices.empty() ? "_files" : "compadd -- " + absl::StrJoin(flag.choices, " "));
    }
  }
  out += "  esac\n  case \"$path_\" in\n";
  for (const Level& level : levels) {
    out += fmt::format("    (\"{}\")\n      found=(", level.path);
    for (const auto& [subcommand, description] : level.subcommands) out += fmt::format(" '{}:{}'", subcommand, description);
    for (const std::string& word : level.words) out += fmt::format(" '{}'", word);
    out += " )\n      _describe command found\n      found=(";
    for (const Flag& flag : level.flags) {
      for (const std::string& each : flag.names) out += fmt::format(" '{}:{}'", each, flag.description);
    }
    out += " )\n      [[ $PREFIX == -* ]] && _describe flag found\n";
    if (level.takes_files) out += "      [[ $PREFIX == -* ]] || _files\n";
    out += "      ;;\n";
  }
  return out + fmt::format("  esac\n}}\ncompdef _{0} {0}\n", name);
}

std::string Fish(const std::vector<Level>& levels, const std::string& name) {
  std::string out = fmt::format(
      "# fish completion of {0}: put it as {0}.fish into ~/.config/fish/completions\n"
      "function __{0}_at\n"
      "  set -l path {0}\n"
      "  for word in (commandline -opc)[2..-1]\n"
      "    if contains -- \"$path $word\" {1}\n"
      "      set path \"$path $word\"\n"
      "    end\n"
      "  end\n"
      "  test \"$path\" = \"$argv\"\n"
      "end\n"
      "complete -c {0} -f\n",
      name, absl::StrReplaceAll(PathPattern(levels), {{"|", " "}}));
  for (const Level& level : levels) {
    const std::string at = fmt::format("complete -c {} -n '__{}_at {}'", name, name, level.path);
    if (level.takes_files) out += at + " -F\n";
    for (const auto& [subcommand, description] : level.subcommands) out += fmt::format("{} -a {} -d '{}'\n", at, subcommand, description);
    for (const std::string& word : level.words) out += fmt::format("{} -a {}\n", at, word);
    for (const Flag& flag : level.flags) {
      out += at;
      for (const std::string& each : flag.names) out += each[1] == '-' ? " -l " + each.substr(2) : " -s " + each.substr(1);
      if (flag.takes_value) out += flag.choices.empty() ? " -r -F" : fmt::format(" -x -a '{}'", absl::StrJoin(flag.choices, " "));
      out += fmt::format(" -d '{}'\n", flag.description);
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<std::string> CompletionScript(const CLI::App& app, const std::string& shell) {
  std::vector<Level> levels;
  Collect(app, app.get_name(), &levels);
  if (shell == "bash") return Bash(levels, app.get_name());
  if (shell == "zsh") return Zsh(levels, app.get_name());
  if (shell == "fish") return Fish(levels, app.get_name());
  return absl::InvalidArgumentError(absl::StrCat("shell is '", shell, "'; it must be bash, zsh or fish"));
}

}  // namespace stem
