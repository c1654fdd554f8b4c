#!/usr/bin/env python3
"""Taste as a test: include order, unregistered tests, dead files, banned words, room cards.

Usage: tidy.py SOURCE_DIR. Prints each finding as one line and exits 1 when there are any; long files and functions are
printed as places to look at and fail nothing.
"""
import pathlib
import re
import sys

ROOMS = ["proto", "kernels", "storage", "client", "services", "tests"]  # dependency order
# Inside a room, who may include which of its folders besides itself; a folder that is not listed may include all.
FOLDERS = {
    "storage/policy": [], "storage/pool": ["storage/policy"], "storage/spill": ["storage/pool"],
    "storage/transport": ["storage/pool"],
    "services/runtime": [], "services/console": ["services/runtime"], "services/directory": ["services/runtime", "services/console"], "services/node": ["services/runtime"],
    "services/ctl": ["services/runtime"],
}
# Rooms inside a folder, in dependency order; what lies beside them stands above them all.
LAYERS = {"services/node": ["spaces", "records", "tiers", "peers", "sessions", "fetch", "announce", "engines", "operators"]}
# The engine process links words, kernels and the pool's mapping, neither UCX nor RocksDB.
ONLY = {"client": ("storage/", ["storage/pool/"]),
        # Kernels know the protobuf-free words only.
        "kernels": ("proto/", ["proto/block_key.h", "proto/check.h", "proto/kv_layout.h", "proto/mutex.h",
                               "proto/namespace_spec.h", "proto/status.h"])}
BANNED = {
    r"\bgetenv\b": "no environment variables of ours: pass a flag",
    r"\binstance\(\)": "no singletons: build it in main and pass it",
    r"\bcudaDeviceSynchronize\b": "order work by stream",
    r"\bstd::hash\b": "differs between builds: absl::Hash in memory, xxHash on a wire",
    r"\babsl::Mutex\b": "use stem::Mutex (proto/mutex.h): Debian's abseil is not built for ThreadSanitizer",
    r"\babsl::Notification\b": "use stem::Mutex and stem::CondVar (proto/mutex.h)",
    r"\bstd::string_view\b": "Debian's abseil has its own absl::string_view",
}
CUDA_INCLUDE = re.compile(r'#include\s*[<"](cuda|cub/|thrust/)')
INCLUDE = re.compile(r'^\s*#include\s*"([^"]+)"', re.M)
CODE = {".h", ".cc", ".cu", ".cuh"}
README_LINES_MAX = 60
FILE_LINES, HEADER_LINES, FUNCTION_LINES = 400, 250, 70


def without_comments(text):
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), text, flags=re.S)
    return re.sub(r"//[^\n]*", "", text)


def within(path, prefix):
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def folder_of(path):
    return "/".join(path.split("/")[:2])


class House:
    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.files = {}
        for room in ROOMS + ["deploy", ".ci"]:
            for path in sorted((self.root / room).rglob("*")):
                name = path.relative_to(self.root).as_posix()
                if path.is_file() and path.suffix in CODE | {".txt", ".cmake", ".md", ".py", ".sh", ".proto", ""}:
                    if not {"corpus", "__pycache__", "node_modules"} & set(path.parts):
                        self.files[name] = path.read_text(errors="replace")
        for name in ["CMakeLists.txt", "CMakePresets.json", "README.md"]:
            if (self.root / name).exists():
                self.files[name] = (self.root / name).read_text()
        self.code = {name: without_comments(text) for name, text in self.files.items()
                     if pathlib.PurePath(name).suffix in CODE}
        self.findings = []

    def find(self, place, what):
        self.findings.append(f"{place}: {what}")

    def include_order(self):
        for name, text in self.code.items():
            room = name.split("/")[0]
            for included in INCLUDE.findall(text):
                target = included.split("/")[0]
                if target in ROOMS and (self.root / included).exists():
                    self.check_include(name, room, included, target)
            if room not in ("kernels", "tests") and CUDA_INCLUDE.search(text):
                self.find(name, "includes CUDA; only kernels/ may")

    def check_include(self, name, room, included, target):
        if ROOMS.index(target) > ROOMS.index(room):
            self.find(name, f'includes "{included}": {room} comes before {target}')
        if room in ONLY and included.startswith(ONLY[room][0]):
            if not any(included.startswith(allowed) for allowed in ONLY[room][1]):
                self.find(name, f'includes "{included}": {room} may use only {", ".join(ONLY[room][1])} of it')
        folder, other = folder_of(name), folder_of(included)
        in_a_folder = included.count("/") > 1  # a header of the room itself is for all its folders
        if room == target and folder in FOLDERS and in_a_folder and other != folder and other not in FOLDERS[folder]:
            self.find(name, f'includes "{included}": {folder} may use {FOLDERS[folder] or "no other folder"} of its room')
        if folder == other and folder in LAYERS:
            self.check_layer(name, included, LAYERS[folder])

    def check_layer(self, name, included, layers):
        mine, theirs = (path.split("/")[2] for path in (name, included))
        if mine in layers and (theirs not in layers or layers.index(theirs) > layers.index(mine)):
            self.find(name, f'includes "{included}": the order is {", ".join(layers)}, and then what lies beside them')

    def registered_tests(self):
        register = self.files.get("tests/CMakeLists.txt", "")
        for name in self.code:
            if not re.search(r"_(test|bench|fuzz)\.cc$", name):
                continue
            if not name.startswith("tests/"):
                self.find(name, "tests live under tests/")
            elif not self.in_register(register, name[len("tests/"):]):
                self.find(name, "not registered in tests/CMakeLists.txt (stem_test, stem_bench or stem_fuzz)")

    @staticmethod
    def in_register(register, path):
        if path in register:
            return True
        # foreach(name IN ITEMS a b) stem_test(unit/x/${name}_test.cc ...)
        for items, body in re.findall(r"foreach\(name IN ITEMS ([^)]*)\)(.*?)endforeach", register, flags=re.S):
            for item in items.split():
                if path in body.replace("${name}", item):
                    return True
        return False

    def dead_files(self):
        build = {name: text for name, text in self.files.items() if name.endswith(("CMakeLists.txt", ".cmake"))}
        included = {target for text in self.code.values() for target in INCLUDE.findall(text)}
        everything = "\n".join(self.files.values())
        for name in self.files:
            path = pathlib.PurePath(name)
            if re.search(r"_(test|bench|fuzz)\.cc$", name):
                continue  # registered_tests
            if path.suffix in {".cc", ".cu"}:
                in_build = any(path.name in text or re.search(rf"\b{path.stem}\b", text) for text in build.values())
                if not in_build and not any(name in text for other, text in self.files.items() if other != name):
                    self.find(name, "in no CMakeLists.txt, and no script builds it")
            elif path.suffix in {".h", ".cuh"}:
                if name not in included and path.name not in "\n".join(build.values()):
                    self.find(name, "included by nobody")
            elif path.suffix in {".py", ".sh", ".cmake", ".proto"}:
                if not re.search(rf"\b{re.escape(path.stem)}\b", everything.replace(self.files[name], "")):
                    self.find(name, "mentioned by nobody")

    def banned_words(self):
        for name, text in self.code.items():
            for number, line in enumerate(text.split("\n"), 1):
                for pattern, why in BANNED.items():
                    if re.search(pattern, line):
                        self.find(f"{name}:{number}", f"{re.search(pattern, line).group()}: {why}")

    def room_cards(self):
        for room in ROOMS + ["deploy"]:
            if f"{room}/README.md" not in self.files:
                self.find(room, "has no README.md")
        for name, text in self.files.items():
            lines = text.count("\n")
            if name.endswith("/README.md") and lines > README_LINES_MAX:
                self.find(name, f"{lines} lines; a room's card has at most {README_LINES_MAX}")

    def outliers(self):
        for name, text in self.files.items():
            suffix, lines = pathlib.PurePath(name).suffix, text.count("\n")
            most = HEADER_LINES if suffix == ".h" else FILE_LINES
            if suffix in CODE and lines > most:
                print(f"look: {name}: {lines} lines (over {most})")
        for name, text in self.code.items():
            start = None
            for number, line in enumerate(text.split("\n"), 1):
                if start is None and re.match(r"[A-Za-z].*\)[^;]*\{$", line) and not line.startswith("namespace"):
                    start = number
                elif start is not None and line.startswith("}"):
                    if number - start > FUNCTION_LINES:
                        print(f"look: {name}:{start}: a function of {number - start} lines (over {FUNCTION_LINES})")
                    start = None


def main():
    if len(sys.argv) != 2:
        print("usage: tidy.py SOURCE_DIR", file=sys.stderr)
        return 2
    house = House(sys.argv[1])
    if len(house.code) < 10:
        print(f"{sys.argv[1]} does not look like the project: {len(house.code)} source files", file=sys.stderr)
        return 2
    house.include_order()
    house.registered_tests()
    house.dead_files()
    house.banned_words()
    house.room_cards()
    house.outliers()
    for finding in house.findings:
        print(f"tidy: {finding}")
    print(f"tidy: {len(house.files)} files, {len(house.findings)} findings")
    return 1 if house.findings else 0


if __name__ == "__main__":
    sys.exit(main())
