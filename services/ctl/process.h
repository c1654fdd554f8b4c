// Processes that outlive this one: started detached, and found again by number and start time, so that no signal ever
// reaches a process that merely got the number.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/status.h"

namespace stem {

struct ProcessIdentity {
  pid_t pid = 0;             // 0 = none
  uint64_t start_ticks = 0;  // when it started, as in /proc/PID/stat

  friend bool operator==(const ProcessIdentity&, const ProcessIdentity&) = default;
};

// Starts `command` (its first word is the binary's path) in a session of its own, without standard input, with both
// outputs appended to `log_path`. Errors: Unavailable names the binary or the log and why.
absl::StatusOr<ProcessIdentity> StartDetached(const std::vector<std::string>& command, const std::string& log_path);

// False for a zombie, and for another process under the same number.
bool IsRunning(const ProcessIdentity& process);

// Waits until the process has ended; false when `timeout` passed first.
bool WaitForEnd(const ProcessIdentity& process, absl::Duration timeout);

// Sends a signal. Errors: NotFound (it has ended), PermissionDenied.
absl::Status Signal(const ProcessIdentity& process, int signal);

// SIGTERM, then after `patience` SIGKILL. OK when it has ended, also when it had before; `killed` (may be null) says
// whether it took the second. Errors: DeadlineExceeded (still there 10 s after SIGKILL), PermissionDenied.
absl::Status Stop(const ProcessIdentity& process, absl::Duration patience, bool* killed = nullptr);

// User and system time of all its threads so far; 0 when it has ended.
double CpuSeconds(const ProcessIdentity& process);

// Of the memory files named `prefix`... that a process has mapped, the bytes whose pages it has not entered into its page table; 0 when it has ended.
uint64_t UnenteredBytes(pid_t pid, const std::string& prefix);

// The last line of a file with something on it; empty when there is none.
std::string LastLine(const std::string& path);

}  // namespace stem
