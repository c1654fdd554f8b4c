// The process behind a port of this machine, and the memory of it and all that it started.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace stem::profile {

// Who listens on the TCP port; absent when nobody does, or it is not ours to see.
std::optional<pid_t> ListenerOf(int port);

// Resident bytes of the process and its descendants; 0 when it has ended.
uint64_t ResidentBytes(pid_t pid);

// Its command line, words apart by blanks.
std::string CommandLine(pid_t pid);

// "AMD EPYC, 2 processors, 24 GiB", and the NVIDIA driver when there is one.
std::string Hardware();

}  // namespace stem::profile
