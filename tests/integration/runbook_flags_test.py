#!/usr/bin/env python3
"""What alerts tell somebody to do at night can be done: every flag that a runbook names is in the --help of a program of ours, every `stemctl`
command that it names is there. Usage: runbook_flags_test.py BINARIES."""

import pathlib
import re
import subprocess
import sys

RULES = pathlib.Path(__file__).resolve().parents[2] / "deploy/prometheus/alerts.rules.yml"


def help_of(*command):
    return subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout


def main(binaries):
    text = " ".join(RULES.read_text().split())
    flags = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", text))
    commands = set(re.findall(r"\bstemctl ([a-z]+)\b", text))
    assert flags and commands, "the alerts name neither a flag nor a command: is this still the right file?"
    offered = help_of(f"{binaries}/stem-node") + help_of(f"{binaries}/stem-directory")
    wrong = []
    for command in sorted(commands):
        try:
            offered += help_of(f"{binaries}/stemctl", command)
        except subprocess.CalledProcessError:
            wrong.append(f"stemctl {command}: there is no such command")
    known = set(re.findall(r"--[a-z][a-z-]*", offered))
    wrong += [f"{flag}: no program of ours takes it" for flag in sorted(flags - known)]
    for line in wrong:
        print(f"FAILED: {line}")
    print(f"{len(flags)} flags and {len(commands)} commands of runbooks, {len(wrong)} of them wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
