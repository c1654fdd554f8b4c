// How a daemon starts, says that it is ready, and is told to stop.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace stem {

// Called first in main. Memory that was freed stays with the process, up to 64 MiB in each of glibc's arenas: glibc otherwise gives it back and
// asks for it again with nearly every message, page by page (directory: 38,000 matches of 1,000 keys a second, 48,000 so).
void KeepFreedMemory();

// Built before any thread in main, before any thread: blocks SIGTERM and SIGINT in this thread and, by inheritance, in all
// that follow, so that they arrive only at Wait(); ignores SIGPIPE, because a peer that hangs up is an error
// code. Threads: Wait from one.
class StopSignal {
 public:
  StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // Blocks until SIGTERM or SIGINT; returns its name.
  absl::string_view Wait();

  // Returns whether a signal came within `timeout`.
  bool WaitFor(absl::Duration timeout);

 private:
  sigset_t signals_;
};

// Writes `text` under `path` at once or not at all: whoever sees the file sees all of it. Used by --ready-file,
// from which starters learn that the ports are open and which they are. `mode`: who may read it. Errors: Unavailable names path and reason.
absl::Status WriteReadyFile(const std::string& path, absl::string_view text, mode_t mode = 0644);

}  // namespace stem
