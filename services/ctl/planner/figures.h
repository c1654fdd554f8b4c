// Numbers as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace stem::planner {

// 3 digits and a binary unit: "320 KiB", "1.25 GiB".
std::string Size(double bytes);
std::string Size(uint64_t bytes);

// 12345678 -> "12,345,678".
std::string Count(uint64_t number);

// "240 ms", "1.3 s"; "-" for 0 = not known.
std::string Seconds(double seconds);

}  // namespace stem::planner
