#include "services/console/page.h"

#include <array>

// The assembler reads each file into the binary: nothing is found, or missed, at run time.
#define STEM_PAGE_FILE(name, file)                                                                     \
  __asm__(".section .rodata\n.global stem_page_" #name "\nstem_page_" #name ":\n.incbin \"" STEM_PAGE_DIR "/" file "\"\n" \
          ".global stem_page_" #name "_end\nstem_page_" #name "_end:\n.previous\n");                   \
  extern "C" const char stem_page_##name[];                                                            \
  extern "C" const char stem_page_##name##_end[]

STEM_PAGE_FILE(html, "index.html");
STEM_PAGE_FILE(script, "console.js");
STEM_PAGE_FILE(style, "console.css");
STEM_PAGE_FILE(icon, "icon.svg");

namespace stem {
namespace {

absl::string_view Between(const char* begin, const char* end) { return {begin, static_cast<size_t>(end - begin)}; }

}  // namespace

std::span<const PageFile> PageFiles() {
  static const std::array<PageFile, 4> files = {{
      {"/", "text/html; charset=utf-8", Between(stem_page_html, stem_page_html_end)},
      {"/console.js", "text/javascript; charset=utf-8", Between(stem_page_script, stem_page_script_end)},
      {"/console.css", "text/css; charset=utf-8", Between(stem_page_style, stem_page_style_end)},
      {"/icon.svg", "image/svg+xml", Between(stem_page_icon, stem_page_icon_end)},
  }};
  return files;
}

}  // namespace stem
