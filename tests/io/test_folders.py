# SPDX-License-Identifier: Apache-2.0
"""A folder is the old one or the new one at any moment, and what somebody else put there stays."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_sidenet.io.folder_kinds import FILES, FolderKind, matches, walk_files
from hf_sidenet.io.folders import check_free, writing_folder


KIND = FolderKind("report.json", marks=("kind",), names=("weights*.bin", "figures/a.png"), card="README.md")
FOREIGN = {".git/HEAD": "main", ".git/objects/ab/cd": "blob", "LICENSE": "mine", "figures/mine.png": "drawn"}


def write(path, content="new", *, files=("weights.bin", "README.md"), overwrite=True, **kwargs):
    with writing_folder(path, KIND, overwrite=overwrite, **kwargs) as folder:
        (folder / "report.json").write_text(json.dumps({"kind": content}))
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)


def put(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def contents(folder):
    found = {name: "" if (folder / name).is_dir() else (folder / name).read_text() for name in walk_files(folder)}
    if "report.json" in found:
        found["report.json"] = json.loads(found["report.json"])["kind"]
    return found


def whole(content, foreign=FOREIGN):
    return {"report.json": content, "weights.bin": content, "README.md": content, **foreign}


@pytest.fixture
def out(tmp_path):
    """A folder that this package wrote, in which somebody has put something."""
    write(tmp_path / "out", "old")
    put(tmp_path / "out", FOREIGN)
    (tmp_path / "out" / ".git" / "refs").mkdir()
    return tmp_path / "out"


KEPT = {**FOREIGN, ".git/refs": ""}


def test_what_was_written_is_listed(out):
    listed = json.loads((out / "report.json").read_text())[FILES]
    assert sorted(listed) == ["README.md", "report.json", "weights.bin"]
    assert {len(digest) for digest in listed.values()} == {64}


def test_only_what_was_written_is_replaced(out):
    before = (out / ".git" / "objects" / "ab" / "cd").stat()
    os.symlink("nowhere", out / "link")
    (out / "LICENSE").chmod(0o400)
    out.chmod(0o700)
    write(out, files=["weights-1.bin", "README.md"])
    assert (out / "link").is_symlink()
    os.unlink(out / "link")
    expected = whole("new", KEPT)
    expected["weights-1.bin"] = expected.pop("weights.bin")
    assert contents(out) == expected
    # The same file, not a copy.
    after = (out / ".git" / "objects" / "ab" / "cd").stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_nlink) == (before.st_ino, before.st_mtime_ns, 1)
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert os.listdir(out.parent) == ["out"]


def test_a_card_in_which_somebody_wrote_stays(out, caplog):
    (out / "README.md").write_text("by hand")
    write(out)
    expected = {**whole("new", KEPT), "README.md": "by hand", "README.new.md": "new"}
    assert contents(out) == expected
    assert "README.md in" in caplog.text
    assert "keeping it" in caplog.text
    # Somebody takes the new one.
    (out / "README.md").write_text("new")
    write(out, "new")
    assert contents(out) == whole("new", KEPT)
    (out / "README.md").write_text("by hand")
    write(out)
    # Until somebody writes in the new one too.
    write(out, "newer")
    assert contents(out)["README.new.md"] == "newer"
    (out / "README.new.md").write_text("mine")
    with pytest.raises(
        ValueError,
        match=r"where README.new.md was not written by .* since.* The new folder was saved as",
    ):
        write(out)
    assert contents(out) == {**expected, "report.json": "newer", "weights.bin": "newer", "README.new.md": "mine"}


@pytest.mark.parametrize("files", [{"weights.bin": "trained"}, {"weights-2.bin": "x"}, {"figures/a.png": "x"}])
def test_what_was_changed_or_is_in_the_way_is_refused_before_the_work(files, out):
    put(out, files)
    before = contents(out)
    with pytest.raises(
        ValueError, match=f"where {next(iter(files))} was not written by this package or has changed since"
    ):
        check_free(out, KIND, overwrite=True)
    with pytest.raises(ValueError, match="`output_dir` must not have other files of the names"):
        write(out)
    assert contents(out) == before
    # What was read is in the new folder.
    write(out, read=("weights*.bin", "report.json", "figures/*"))
    assert contents(out) == whole("new", KEPT)


def test_a_document_that_was_changed(out):
    document = json.loads((out / "report.json").read_text())
    # Another layout is no change.
    (out / "report.json").write_text(json.dumps(document, sort_keys=True))
    check_free(out, KIND, overwrite=True)
    (out / "report.json").write_text(json.dumps({**document, "notes": "mine"}))
    with pytest.raises(ValueError, match=r"where report.json was not written by this package or has changed since"):
        check_free(out, KIND, overwrite=True)
    write(out, read=("report.json",))


@pytest.mark.parametrize("name", ["notes.txt", "figures", "figures/mine.png"])
def test_what_turns_out_to_be_in_the_way_costs_nothing(name, out):
    """No pattern tells beforehand that the writer writes it."""
    if name == "figures":
        (out / "figures" / "mine.png").unlink()
        (out / "figures").rmdir()
    put(out, {name: "by hand"})
    before = contents(out)
    written = {"notes.txt": "notes.txt", "figures": "figures/b.png", "figures/mine.png": "figures"}[name]
    with pytest.raises(ValueError, match="The new folder was saved as ") as error:
        write(out, files=[written])
    assert contents(out) == before
    (kept,) = [path for path in out.parent.iterdir() if path != out]
    assert str(kept) in str(error.value)
    assert contents(kept) == {"report.json": "new", written: "new"}


def test_equal_content_is_not_in_the_way(out):
    put(out, {"code.py": "new"})
    write(out, files=["code.py"])
    assert contents(out) == {"report.json": "new", "code.py": "new", **KEPT}


@pytest.mark.parametrize("marked", [True, False])
def test_a_folder_without_a_list(marked, tmp_path):
    """Of an earlier version, or none of ours."""
    out = tmp_path / "out"
    put(out, {"report.json": '{"kind": "old"}' if marked else "{}", "weights.bin": "old", "README.md": "?", **FOREIGN})
    if not marked:
        with pytest.raises(
            ValueError,
            match=r"where (report.json|weights.bin) was not written by this package.* \(the first of 2 files",
        ):
            write(out)
        return
    write(out)
    # Nobody knows who wrote the card.
    assert contents(out) == {**whole("new"), "README.md": "?", "README.new.md": "new"}


def test_a_folder_that_is_none_of_ours_is_added_to(tmp_path):
    put(tmp_path / "project", {"src/main.py": "mine", "README.md": "mine"})
    write(tmp_path / "project")
    assert contents(tmp_path / "project") == {
        "src/main.py": "mine", "README.md": "mine", "README.new.md": "new", "report.json": "new", "weights.bin": "new"
    }  # fmt: skip


def test_foreign_files_in_what_is_written_stay_foreign(tmp_path):
    write(tmp_path / "out", files=["weights.bin", "LICENSE"], foreign=["LICENSE"])
    write(tmp_path / "out", "newer")
    assert contents(tmp_path / "out") == {**whole("newer", {}), "LICENSE": "new"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_filled_meanwhile(overwrite, tmp_path):
    out = tmp_path / "out"

    def late():
        with writing_folder(out, KIND, overwrite=overwrite) as folder:
            (folder / "report.json").write_text('{"kind": "new"}')
            put(out, {"notes.txt": "mine"})

    if overwrite:
        late()
        assert contents(out) == {"report.json": "new", "notes.txt": "mine"}
        return
    with pytest.raises(ValueError, match=r"must be new or empty unless `overwrite`.* The new folder was saved as "):
        late()
    assert contents(out) == {"notes.txt": "mine"}
    (kept,) = [path for path in tmp_path.iterdir() if path != out]
    assert contents(kept) == {"report.json": "new"}


def test_an_error_leaves_the_old_folder(out):
    with pytest.raises(FileNotFoundError), writing_folder(out, KIND, overwrite=True) as folder:
        (folder / "new" / "deep").touch()
    assert contents(out) == whole("old", KEPT)
    assert os.listdir(out.parent) == ["out"]
    with pytest.raises(ValueError, match="`output_dir` must be new or empty unless `overwrite` is given"):
        check_free(out, KIND)


def test_a_link_to_the_folder_stays_a_link(out):
    link = out.parent / "link"
    link.symlink_to("out")
    write(link)
    assert link.is_symlink()
    assert contents(out) == whole("new", KEPT)


def test_where_a_disk_is_mounted(tmp_path):
    (mounted,) = [place for place in ("/proc", "/System/Volumes/Data") if os.path.ismount(place)][:1] or [None]
    if mounted is None:
        pytest.skip("nothing is mounted")
    with pytest.raises(ValueError, match="got the mount point"):
        check_free(mounted, KIND, overwrite=True)


def test_only_leftovers_of_dead_writers_go(tmp_path):
    kept = [".out.abcdef01.tmp", ".out.v2.12345678.tmp", ".out.12345678.tmp", ".out.json.12345678.tmp"]
    (tmp_path / kept[0]).touch()
    (tmp_path / kept[1]).mkdir()
    # Signed by nobody.
    put(tmp_path / kept[2], {"file": "x"})
    (tmp_path / kept[3]).mkdir()
    (tmp_path / ".out.87654321.tmp").mkdir()
    killed_writer(tmp_path / "out")
    assert len(os.listdir(tmp_path)) == 6
    write(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "out"])


def test_what_another_machine_left_stays(tmp_path, monkeypatch):
    killed_writer(tmp_path / "out")
    monkeypatch.setattr("platform.node", lambda: "another")
    write(tmp_path / "out")
    assert len(os.listdir(tmp_path)) == 2


def test_writers_at_the_same_time(out):
    """None takes the folder of another away, and in the end the folder is that of one."""
    start, errors = threading.Barrier(8), []

    def work(number):
        try:
            with writing_folder(out, KIND, overwrite=True) as folder:
                start.wait()
                put(folder, {"report.json": json.dumps({"kind": str(number)}), "weights.bin": str(number)})
                start.wait()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    found = contents(out)
    assert found == {"report.json": found["report.json"], "weights.bin": found["report.json"], **KEPT}
    assert os.listdir(out.parent) == ["out"]


def killed_writer(out):
    """What a writer leaves that is killed while it writes."""
    child = os.fork()
    if child == 0:
        with writing_folder(out, KIND):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.medium
@pytest.mark.parametrize("lacks", [[], ["exchange"], ["link"]], ids="-".join)
def test_killed_at_each_step(lacks, tmp_path):
    """Where places can be changed in one step and files can have two names, the folder is whole at any moment; else
    after the next call."""
    command = [sys.executable, str(Path(__file__).with_name("kill_writers.py")), str(tmp_path), *lacks]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) > 30
    assert set(found) == {"old", "new"} | ({"nothing"} if "exchange" in lacks else set())


names = st.sampled_from(["a", "b", "d/a", "d/e/b", "f/a"])


@settings(max_examples=30)
@given(old=st.sets(names), changed=st.sets(names), foreign=st.sets(names), new=st.sets(names))
def test_nothing_of_others_is_ever_lost(old, changed, foreign, new, tmp_path_factory):
    out = tmp_path_factory.mktemp("any") / "out"
    write(out, "old", files=sorted(old))
    put(out, dict.fromkeys(foreign - old, "theirs"))
    put(out, dict.fromkeys(changed & old, "changed"))
    theirs = {name: text for name, text in contents(out).items() if text in ("theirs", "changed")}
    before = contents(out)
    if set(theirs) & new:
        with pytest.raises(ValueError, match="must not have other files of the names"):
            write(out, files=sorted(new))
        assert contents(out) == before
    else:
        write(out, files=sorted(new))
        assert contents(out) == {**dict.fromkeys(new, "new"), "report.json": "new", **theirs}


def test_patterns_fit_part_by_part():
    assert matches("weights-1.bin", KIND.names)
    assert not matches("weights/1.bin", KIND.names)
    assert not matches(Path("sub/weights.bin").as_posix(), KIND.names)
