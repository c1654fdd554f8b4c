// STEM_CHECK: a broken invariant of ours ends the process with the place and the condition. Never for input.
#pragma once

#include <cstdio>
#include <cstdlib>

#define STEM_CHECK(condition)                                                                    \
  do {                                                                                           \
    if (!(condition)) {                                                                          \
      std::fprintf(stderr, "%s:%d: broken invariant: %s\n", __FILE__, __LINE__, #condition);     \
      std::abort();                                                                              \
    }                                                                                            \
  } while (false)
