"""Packages of PyPI that one test needs and that must not pull what they ask for (CUDA, other versions): installed apart, kept outside the tree."""

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile


def cache_folder() -> pathlib.Path:
    """Where tests/engines/venv.sh keeps all of it."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "stemcache"


def install(packages: list[str]) -> str:
    """The folder of `packages`, installed once without what they depend on. Raises RuntimeError saying why pip could not."""
    folder = cache_folder() / f"side-{hashlib.sha256(' '.join([sys.version, *packages]).encode()).hexdigest()[:12]}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(prefix="side.", dir=cache_folder()) as work:
            install_to(f"{work}/packages", packages)
            try:
                os.rename(f"{work}/packages", folder)
            except OSError:
                pass  # another was quicker
    return str(folder)


def install_to(folder: str, packages: list[str]) -> None:
    """As install, but there."""
    # The environment that runs tests has no pip of its own: packages.pth names the one that has.
    site = pathlib.Path(sys.prefix, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages", "packages.pth")
    python = pathlib.Path(site.read_text().strip()).parents[2] / "bin/python"
    done = subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-deps", "--target", folder, *packages],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"pip cannot install {packages[0]}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
