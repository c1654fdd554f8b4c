#!/usr/bin/env python3
"""Builds a small house with one fault of each kind and checks that tidy.py names it; and that a house without is clean."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

TIDY = pathlib.Path(__file__).with_name("tidy.py")
ROOMS = ["proto", "kernels", "storage", "client", "services", "tests", "deploy"]


class TidyTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.folder.name)
        self.addCleanup(self.folder.cleanup)
        for room in ROOMS:
            self.write(f"{room}/README.md", "# card\n")
        self.write("proto/CMakeLists.txt", "a.cc\n" + "".join(f"f{i}.cc\n" for i in range(10)))
        self.write("proto/a.h", "")
        self.write("proto/a.cc", '#include "proto/a.h"\n')
        for i in range(10):
            self.write(f"proto/f{i}.cc", "")
        self.write("tests/CMakeLists.txt", "stem_test(unit/proto/a_test.cc)\n")
        self.write("tests/unit/proto/a_test.cc", "")

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def tidy(self):
        done = subprocess.run([sys.executable, TIDY, self.root], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    def expect(self, *words):
        code, out = self.tidy()
        self.assertEqual(code, 1, out)
        self.assertIn("1 findings", out)
        for word in words:
            self.assertIn(word, out)

    def test_clean_house(self):
        self.assertEqual(self.tidy()[0], 0, self.tidy()[1])

    def test_include_of_a_later_room(self):
        self.write("storage/b.h", "")
        self.write("proto/a.cc", '#include "proto/a.h"\n#include "storage/b.h"\n')
        self.expect("proto/a.cc", "proto comes before storage")

    def test_include_of_a_closed_folder(self):
        self.write("storage/spill/b.h", "")
        self.write("client/c.h", '#include "storage/spill/b.h"\n')
        self.write("services/d.cc", '#include "client/c.h"\n')
        self.write("services/CMakeLists.txt", "d.cc\n")
        self.expect("client/c.h", "client may use only storage/pool/")

    def test_include_of_a_higher_layer(self):
        self.write("services/node/fetch/b.h", "")
        self.write("services/node/peers/c.cc", '#include "services/node/fetch/b.h"\n')
        self.write("services/CMakeLists.txt", "c.cc\n")
        self.expect("services/node/peers/c.cc", "the order is spaces")

    def test_include_of_what_stands_above_the_layers(self):
        self.write("services/node/b.h", "")
        self.write("services/node/peers/c.cc", '#include "services/node/b.h"\n')
        self.write("services/CMakeLists.txt", "c.cc\n")
        self.expect("services/node/peers/c.cc", "what lies beside them")

    def test_unregistered_test(self):
        self.write("tests/unit/proto/b_test.cc", "")
        self.expect("b_test.cc", "not registered")

    def test_registration_by_a_loop(self):
        self.write("tests/CMakeLists.txt", "stem_test(unit/proto/a_test.cc)\nforeach(name IN ITEMS b c)\n"
                   "  stem_test(unit/proto/${name}_test.cc)\nendforeach()\n")
        self.write("tests/unit/proto/b_test.cc", "")
        self.assertEqual(self.tidy()[0], 0, self.tidy()[1])

    def test_dead_source(self):
        self.write("proto/dead.cc", "")
        self.expect("proto/dead.cc", "in no CMakeLists.txt")

    def test_dead_header(self):
        self.write("proto/dead.h", "")
        self.expect("proto/dead.h", "included by nobody")

    def test_dead_script(self):
        self.write("deploy/dead.sh", "")
        self.expect("deploy/dead.sh", "mentioned by nobody")

    def test_banned_word(self):
        self.write("proto/a.cc", '#include "proto/a.h"\nauto x = getenv("X");\n')
        self.expect("proto/a.cc:2", "getenv")

    def test_banned_word_in_a_comment_is_fine(self):
        self.write("proto/a.cc", '#include "proto/a.h"\n// no getenv here /* absl::Mutex */\n')
        self.assertEqual(self.tidy()[0], 0, self.tidy()[1])

    def test_long_card(self):
        self.write("client/README.md", "x\n" * 61)
        self.expect("client/README.md", "61 lines")

    def test_missing_card(self):
        (self.root / "kernels/README.md").unlink()
        self.expect("kernels", "no README.md")

    def test_folder_that_is_no_project(self):
        with tempfile.TemporaryDirectory() as empty:
            done = subprocess.run([sys.executable, TIDY, empty], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)


if __name__ == "__main__":
    unittest.main()
