# SPDX-License-Identifier: Apache-2.0
import os

import pytest

from hf_sidenet.io.files import replacing


def test_the_new_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "result.csv"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["result.csv"]


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "result.csv"
    path.write_text("old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.csv"]


def test_a_private_file_is_its_owners_also_while_it_is_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("old")
    path.chmod(0o644)
    with replacing(path, private=True) as temporary:
        assert temporary.stat().st_mode & 0o777 == 0o600
        temporary.write_text("new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)


def test_a_missing_folder_is_the_systems_own_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "none" / "result.csv") as temporary:
        temporary.write_text("new")
