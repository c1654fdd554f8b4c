#include "services/ctl/profile/journal.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace stem::profile {

absl::StatusOr<Journal> Journal::Open(const std::string& path, const std::string& what, uint64_t* seed) {
  Journal journal;
  journal.path_ = path;
  std::ifstream before(path);
  std::string line;
  std::string kept;
  if (std::getline(before, line)) {
    const nlohmann::json head = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!head.is_object() || head.value("profile", nlohmann::json()) != what) {
      return absl::DataLossError(absl::StrCat(path, " is of another profile (endpoint, model or options differ): remove it, or give --out another name"));
    }
    *seed = head.value("seed", *seed);
    while (std::getline(before, line)) {
      const absl::StatusOr<Request> request = RequestOf(nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false));
      if (!request.ok()) break;
      absl::StrAppend(&kept, line, "\n");
      journal.known_.insert_or_assign({request->phase, request->warm, request->number}, *request);
    }
  }
  journal.file_.reset(std::fopen(path.c_str(), "we"));
  if (journal.file_ == nullptr) return absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
  const std::string text = absl::StrCat(nlohmann::json{{"profile", what}, {"seed", *seed}}.dump(), "\n", kept);
  std::fwrite(text.data(), 1, text.size(), journal.file_.get());
  std::fflush(journal.file_.get());
  return journal;
}

std::optional<Request> Journal::Take(const std::string& phase, bool warm, uint32_t number) {
  const auto found = known_.find({phase, warm, number});
  if (found == known_.end()) return std::nullopt;
  return found->second;
}

void Journal::Add(const Request& request) {
  const std::string line = absl::StrCat(ToJson(request).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), "\n");
  std::fwrite(line.data(), 1, line.size(), file_.get());
  std::fflush(file_.get());
}

void Journal::Remove() {
  file_.reset();
  std::remove(path_.c_str());
}

}  // namespace stem::profile
