# SPDX-License-Identifier: Apache-2.0
import os

import pytest

from hf_sidenet.hub.shared_files import behind_link


BLOB = "a" * 40


@pytest.fixture
def folder(tmp_path):
    """A checkpoint next to private files, inside or outside the Hub's cache."""
    (tmp_path / "secret").write_text("x")
    (tmp_path / "mine" / "sub").mkdir(parents=True)
    (tmp_path / "mine" / "file").write_text("x")
    return tmp_path / "mine"


@pytest.mark.parametrize(
    ("link", "target", "expected"),
    [
        ("a", "file", "file"),
        ("sub/a", "../file", "file"),
        ("a", "sub", "sub"),
        ("a", ".", "."),
        ("a", "../mine/file", "file"),
        ("a", "../secret", None),
        ("a", "..", None),
        ("sub/a", "../../secret", None),
        ("a", "nowhere", None),
        ("a", "a", None),
        ("a", "/etc/passwd", None),
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_where_a_link_leads(link, target, expected, absolute, folder):
    if absolute:
        target = os.path.join(os.path.dirname(folder / link), target)
    (folder / link).symlink_to(target)
    assert behind_link(folder, link) == expected
    # The folder itself may be a link.
    (folder.parent / "named").symlink_to(folder)
    assert behind_link(folder.parent / "named", link) == expected


def test_chains(folder):
    (folder / "a").symlink_to("sub/b")
    (folder / "sub" / "b").symlink_to("../../c")
    (folder.parent / "c").symlink_to("secret")
    assert behind_link(folder, "a") is None
    (folder.parent / "c").unlink()
    (folder.parent / "c").symlink_to("mine/file")
    assert behind_link(folder, "a") == "file"


@pytest.mark.parametrize("repo", ["models--me--mine", "elsewhere"])
def test_the_hubs_cache(repo, tmp_path):
    repo = tmp_path / repo
    snapshot = repo / "snapshots" / ("c" * 40)
    (snapshot / "sub").mkdir(parents=True)
    (repo / "blobs").mkdir()
    for name in (BLOB, "b" * 64, "netrc"):
        (repo / "blobs" / name).write_text("x")
    other = tmp_path / "models--me--other" / "blobs"
    other.mkdir(parents=True)
    (other / BLOB).write_text("x")
    links = {
        "config.json": f"../../blobs/{BLOB}",
        "sub/a.json": f"../../../blobs/{'b' * 64}",
        "netrc.txt": "../../blobs/netrc",
        "other.json": f"../../../models--me--other/blobs/{BLOB}",
        "ref.txt": "../../refs/main",
    }
    for name, target in links.items():
        (snapshot / name).symlink_to(target)
    kept = ["config.json", "sub/a.json"] if repo.name.startswith("models--") else []
    assert [name for name in links if behind_link(snapshot, name) is not None] == kept
    assert all(behind_link(snapshot, name) == name for name in kept)
    if kept:
        assert behind_link(snapshot / "sub", "a.json") == "a.json"
    # A cache whose blobs folder is a link to other files.
    (repo / "blobs").rename(repo / "real")
    (repo / "blobs").symlink_to("real")
    assert [name for name in links if behind_link(snapshot, name) is not None] == []
