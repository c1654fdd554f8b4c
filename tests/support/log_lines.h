// What a Logger of a test wrote.
#pragma once

#include <cstdio>
#include <ostream>
#include <streambuf>
#include <string>

#include "proto/mutex.h"

namespace stem {

// Log lines that may be read while threads write on.
class LogLines : private std::streambuf {
 public:
  std::ostream& stream() { return stream_; }
  std::string text() const {
    MutexLock lock(mutex_);
    return text_;
  }
  size_t Count(const std::string& words) const {
    const std::string all = text();
    size_t count = 0;
    for (size_t at = all.find(words); at != all.npos; at = all.find(words, at + 1)) ++count;
    return count;
  }

 private:
  std::streamsize xsputn(const char* bytes, std::streamsize count) override {
    MutexLock lock(mutex_);
    text_.append(bytes, static_cast<size_t>(count));
    return count;
  }
  int overflow(int c) override {
    const char byte = static_cast<char>(c);
    return c == EOF ? 0 : static_cast<int>(xsputn(&byte, 1));
  }

  mutable Mutex mutex_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
  std::ostream stream_{this};
};

}  // namespace stem
