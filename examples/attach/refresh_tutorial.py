# SPDX-License-Identifier: Apache-2.0
"""Run the commands of docs/tutorials/cheaper-classifier.md in order, and write their output below them.

A ```bash block is run if a ```text block follows it. The command's terminal output, without progress bars, becomes the
text block; a nonzero exit code is written in its last line.

usage: refresh_tutorial.py [PAGE] [--folder FOLDER]     (FOLDER replaces outputs/tutorial)
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorials" / "cheaper-classifier.md"
FOLDER = "outputs/tutorial"
WITHIN = r"(?:(?!```).)*"
BLOCK = re.compile(rf"```bash\n(?P<command>{WITHIN})```\n\n```text\n{WITHIN}```", re.DOTALL)


def run(command: str) -> str:
    """Return a command's standard output, errors, and exit code if it is not 0."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "110"}
    done = subprocess.run(command, shell=True, cwd=ROOT, env=env, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    if done.returncode not in (0, 2, 3) or (done.returncode == 2 and not errors):
        raise SystemExit(f"{command}\nended with {done.returncode}:\n{done.stderr[-3000:]}")
    lines = [done.stdout.rstrip(), *errors]
    if done.returncode:
        lines.append(f"(exit code {done.returncode})")
    return "\n".join(line for line in lines if line) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="?", type=Path, default=PAGE)
    parser.add_argument("--folder", default=FOLDER)
    args = parser.parse_args()

    def refreshed(match: re.Match) -> str:
        command = match["command"]
        print(f"$ {command}", flush=True)
        output = run(command.replace(FOLDER, args.folder)).replace(args.folder, FOLDER)
        print(output, flush=True)
        return f"```bash\n{command}```\n\n```text\n{output}```"

    page = BLOCK.sub(refreshed, args.page.read_text(encoding="utf-8"))
    args.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
