# SPDX-License-Identifier: Apache-2.0
"""Run by test_folders.py: a writer of a folder is killed before each of its steps on the disk, one after the other.

usage: kill_writers.py PLACE [exchange] [link]: what the file system lacks.

In a process of its own, without torch: it is forked for every step.
"""

import errno
import importlib
import json
import os
import signal
import sys
import types
from pathlib import Path


ROOT = Path(__file__).parents[2] / "hf_sidenet"
STEPS = {
    "open",
    "os.rename",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.chmod",
    "ctypes.dlopen",
    "fcntl.flock",
}
FOREIGN = {".git/HEAD": "main", ".git/objects/ab/cd": "blob", "LICENSE": "mine", "figures/mine.png": "drawn"}


def load(name: str, path: Path) -> None:
    """A package of which nothing runs before one of its modules is asked for."""
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(path)]


load("hf_sidenet", ROOT)
load("hf_sidenet.measurement", ROOT / "measurement")
folders = importlib.import_module("hf_sidenet.io.folders")
kinds = importlib.import_module("hf_sidenet.io.folder_kinds")
KIND = kinds.FolderKind("report.json", marks=("kind",), names=("weights.bin",), card="README.md")


def write(path, content):
    with folders.writing_folder(path, KIND, overwrite=True) as folder:
        (folder / "report.json").write_text(json.dumps({"kind": content}))
        (folder / "weights.bin").write_text(content)


def contents(folder):
    found = {name: (folder / name).read_text() for name in kinds.walk_files(folder) if (folder / name).is_file()}
    return {**found, "report.json": json.loads(found["report.json"])["kind"]}


def whole(content):
    return {"report.json": content, "weights.bin": content, **FOREIGN}


def is_killed(work, step):
    """Work in another process, which is killed before it does its n-th step; False if it comes to its end first."""
    child = os.fork()
    if child == 0:
        steps = iter(range(step))

        def hook(event, arguments):
            if event in STEPS and next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def refuse(*args, **kwargs):
    raise OSError(errno.EPERM, "no links here")


place, *lacks = sys.argv[1:]
if "exchange" in lacks:
    folders.exchange = lambda one, other: False
if "link" in lacks:
    os.link = refuse
step, found = 0, []
while True:
    out = Path(place, str(step), "out")
    write(out, "old")
    for name, content in FOREIGN.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(content)
    if not is_killed(lambda out=out: write(out, "new"), step):
        break
    found.append(contents(out)["report.json"] if out.exists() else "nothing")
    if not lacks:
        assert contents(out) == whole(found[-1]), step
    if found[-1] == "nothing":
        # Whoever looks puts it back.
        try:
            folders.check_free(out, KIND)
        except ValueError:
            assert contents(out) == whole("old"), step
    write(out, "newer")
    assert contents(out) == whole("newer"), (step, contents(out))
    left = [path for path in out.parent.iterdir() if path != out]
    # Killed before it could sign: such a folder might be anybody's, and holds nothing.
    assert not [path for each in left for path in each.iterdir() if path.stat().st_size], step
    assert not left or step < 10, step
    step += 1
assert contents(out) == whole("new")
print(json.dumps(found))
