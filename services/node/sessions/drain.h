// Whether this node is to be ended soon: then it begins nothing that would have to be waited for. Threads: any.
#pragma once

#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/status.h"

namespace stem {

class Drain {
 public:
  bool on() const { return on_.load(std::memory_order_relaxed); }
  void Set(bool on) { on_.store(on, std::memory_order_relaxed); }

  // Errors: Unavailable while draining; `what` is what is not begun, e.g. "sessions".
  absl::Status MayBegin(absl::string_view what) const {
    if (!on()) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("this node is draining: it takes no new ", what, "; use another node"));
  }

 private:
  std::atomic<bool> on_{false};
};

}  // namespace stem
