// Requests that are done, on disk while a profile runs, so that one that was interrupted goes on where it was.
#pragma once

#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "proto/status.h"
#include "services/ctl/profile/record.h"

namespace stem::profile {

// JSON lines: what is measured, then a request each. A last line that is not whole is forgotten.
class Journal {
 public:
  // `seed`: of the prompts; an earlier run's takes its place. Errors: DataLoss (a file of another endpoint or other options),
  // Unavailable (cannot be written).
  static absl::StatusOr<Journal> Open(const std::string& path, const std::string& what, uint64_t* seed);

  size_t known() const { return known_.size(); }

  // The request as it was measured before; absent = it is still to be sent.
  std::optional<Request> Take(const std::string& phase, bool warm, uint32_t number);
  void Add(const Request& request);
  void Remove();

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  std::map<std::tuple<std::string, bool, uint32_t>, Request> known_;
};

}  // namespace stem::profile
