# SPDX-License-Identifier: Apache-2.0
"""Whoever writes a folder again loses nothing that somebody else put there, whatever happens meanwhile."""

import os
import signal
import threading
from pathlib import Path

import pytest

from hf_sidenet.hub.push import CHECKPOINT, save_checkpoint
from hf_sidenet.io.folders import check_free, writing_folder

from ..attached import Runs


THEIRS = {".git/HEAD": "main", ".git/lfs/objects/ab": "large", "LICENSE": "mine", "notes/today.md": "mine"}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs")).text()


def put(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def has(folder, files):
    return all((folder / name).read_text() == content for name, content in files.items())


def write_again(result, folder, **kwargs):
    save_checkpoint(folder, result.model, result.processor, result.report, overwrite=True, **kwargs)


@pytest.mark.medium
def test_a_clone_in_place(result, tmp_path):
    clone = tmp_path / "clone"
    result.save(clone)
    written = set(contents(clone))
    theirs = {**THEIRS, "README.md": "By hand."}
    put(clone, theirs)
    # Fine-tuned since, and read again.
    os.utime(clone / "config.json")
    with (clone / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=r"where config.json was not written by this package or has changed since"):
        write_again(result, clone)
    write_again(result, clone, source=clone)
    assert has(clone, theirs)
    # Without test rows there are no figures, and the old ones are of another θ.
    assert set(contents(clone)) == {name for name in written if "/" not in name} | set(THEIRS) | {"README.new.md"}
    assert os.listdir(tmp_path) == ["clone"]


@pytest.mark.medium
def test_a_folder_that_is_no_checkpoint(result, tmp_path):
    project = tmp_path / "project"
    put(project, {**THEIRS, "config.json": "{}"})
    before = contents(project)
    for write in (lambda: check_free(project, CHECKPOINT, overwrite=True), lambda: write_again(result, project)):
        with pytest.raises(ValueError, match=r"where config.json was not written by this package"):
            write()
    assert contents(project) == before
    (project / "config.json").unlink()
    write_again(result, project)
    assert has(project, THEIRS)
    assert (project / "model.safetensors").exists()


def test_filled_meanwhile(tmp_path):
    def write():
        with writing_folder(tmp_path / "out", CHECKPOINT) as new:
            put(new, {"report.json": "{}"})
            put(tmp_path / "out", THEIRS)

    with pytest.raises(ValueError, match="The new folder was saved as "):
        write()
    assert has(tmp_path / "out", THEIRS)
    assert len(contents(tmp_path / "out")) == len(THEIRS)


def test_three_at_the_same_time_and_one_that_is_dead(tmp_path):
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        with writing_folder(out, CHECKPOINT):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(os.listdir(tmp_path)) == 1
    begun, done = threading.Barrier(3), []

    def work():
        with writing_folder(out, CHECKPOINT, overwrite=True) as new:
            begun.wait()
            put(new, {"report.json": "{}", "model.safetensors": "x"})
        done.append(True)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [True] * 3
    assert os.listdir(tmp_path) == ["out"]
    assert sorted(contents(Path(out))) == ["model.safetensors", "report.json"]
