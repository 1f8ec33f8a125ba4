# SPDX-License-Identifier: Apache-2.0
"""Measure how long the package and the command line take to start, and their memory: median seconds and peak MB.

usage: start_up.py [--runs N]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time


COMMAND = ("-m", "hf_sidenet.cli")
STARTS = {
    "python -c pass": ("-c", "pass"),
    'python -c "import hf_sidenet"': ("-c", "import hf_sidenet"),
    "hf-sidenet --version": (*COMMAND, "--version"),
    "hf-sidenet --help": (*COMMAND, "--help"),
    "hf-sidenet attach --help": (*COMMAND, "attach", "--help"),
    "hf-sidenet attach --nope": (*COMMAND, "attach", "--nope"),
    'python -c "import hf_sidenet; hf_sidenet.SideNetConfig"': ("-c", "import hf_sidenet; hf_sidenet.SideNetConfig"),
}


def measure(arguments: tuple[str, ...]) -> tuple[float, float]:
    """Return seconds and peak memory in MB of one Python process, which may fail."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # The usage of this child alone: the usage of all children is the maximum so far.
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    # In kilobytes; in bytes on macOS.
    return seconds, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure every start, alternating, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each, after a warm-up run (5)")
    runs = parser.parse_args().runs
    found = {name: [] for name in STARTS}
    for turn in range(runs + 1):
        for name, arguments in STARTS.items():
            result = measure(arguments)
            if turn:
                found[name].append(result)
    width = max(map(len, STARTS))
    print(f"{'':{width}}  seconds  peak MB")
    for name, results in found.items():
        seconds, memory = (statistics.median(values) for values in zip(*results, strict=True))
        print(f"{name:{width}}  {seconds:7.2f}  {memory:7.0f}")


if __name__ == "__main__":
    main()
