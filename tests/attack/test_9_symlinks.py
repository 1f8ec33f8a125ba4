# SPDX-License-Identifier: Apache-2.0
"""Nothing outside a folder is shared with it, through whatever link."""

import shutil
from types import SimpleNamespace

import pytest

from hf_sidenet.hub import check_shareable
from hf_sidenet.hub.push import push_checkpoint, save_recalibrated

from ..cli.test_cli import run
from ..hub.folder import save_folder


SECRET = "password of somebody"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("whole") / "mine", calibration=None)


@pytest.fixture
def place(whole, tmp_path):
    """A folder beside a file that is nobody's business."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "credentials.json").write_text(SECRET)
    shutil.copytree(whole, tmp_path / "mine")
    return SimpleNamespace(folder=tmp_path / "mine", home=tmp_path / "home")


def link_the_card(place):
    (place.folder / "README.md").unlink()
    (place.folder / "README.md").symlink_to("../home/credentials.json")


LINKS = {
    "relative": lambda p: (p.folder / "notes.json").symlink_to("../home/credentials.json"),
    "absolute": lambda p: (p.folder / "notes.json").symlink_to(p.home / "credentials.json"),
    "nested": lambda p: (p.folder / "figures" / "more.txt").symlink_to("../../home/credentials.json"),
    "folder": lambda p: (p.folder / "more").symlink_to(p.home),
    "card": link_the_card,
    "chain": lambda p: (
        (p.folder / "a.md").symlink_to("b"), (p.folder / "b").symlink_to("../home/credentials.json")
    ),
    "nowhere": lambda p: (p.folder / "notes.json").symlink_to(p.home / "later.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_links_that_lead_out(name, place, tmp_path):
    LINKS[name](place)
    done = run("push", place.folder, "me/mine", "--dry-run")
    assert done.code == 2
    assert "is a link that leads out of the folder, or nowhere" in done.last
    assert SECRET not in done.out + done.err
    with pytest.raises(ValueError, match="`directory` must not have links that lead out of it"):
        push_checkpoint(place.folder, "me/mine")
    with pytest.raises(ValueError, match="`source` must not have links that lead out of it"):
        save_recalibrated(tmp_path / "out", place.folder, None)
    assert not (tmp_path / "out").exists()


def test_links_inside(place):
    folder = place.folder
    (folder / "figures" / "again.png").symlink_to("accuracy_cost.png")
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "model.safetensors").symlink_to(folder / "weights.safetensors")
    # To what stays here, and what nobody would send anyway.
    (folder / ".env").write_text(SECRET)
    (folder / "env.txt").symlink_to(".env")
    (folder / "again").symlink_to("figures")
    (folder / ".venv").symlink_to(place.home)
    (folder / "optimizer.bin").symlink_to(place.home / "credentials.json")
    found = check_shareable(folder)
    assert found.errors == []
    assert {"figures/again.png", "model.safetensors"} < set(found.files)
    assert found.left_out == [".env", ".venv", "again", "env.txt", "optimizer.bin"]


def test_a_folder_in_the_hubs_cache(place, tmp_path):
    """Files of a snapshot are links to blobs beside it."""
    repo = tmp_path / "models--me--mine"
    snapshot, blobs = repo / "snapshots" / ("c" * 40), repo / "blobs"
    blobs.mkdir(parents=True)
    shutil.copytree(place.folder, snapshot)
    for number, path in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        path.rename(blobs / f"{number:040x}")
        path.symlink_to("../" * len(path.relative_to(repo).parent.parts) + f"blobs/{number:040x}")
    found, expected = check_shareable(snapshot), check_shareable(place.folder)
    assert (found.errors, found.files) == ([], expected.files)
    # Only those.
    (snapshot / "notes.json").symlink_to("../../refs/main")
    assert len(check_shareable(snapshot).errors) == 1
