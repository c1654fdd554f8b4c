// The files of the page, built by build.sh from src/ and part of the binary.
#pragma once

#include <span>

#include "absl/strings/string_view.h"

namespace stem {

struct PageFile {
  absl::string_view path;  // as asked for, e.g. "/console.js"
  absl::string_view content_type;
  absl::string_view bytes;
};

std::span<const PageFile> PageFiles();

}  // namespace stem
