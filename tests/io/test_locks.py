# SPDX-License-Identifier: Apache-2.0
import json
import os
import platform

import pytest

from hf_sidenet.io.locks import folder_lock, is_abandoned, sign


def test_a_file_is_abandoned_when_its_writer_is_gone(tmp_path):
    with sign(tmp_path / "writer"):
        assert not is_abandoned(tmp_path / "writer")
    # This very process is alive and would hold the lock: the number is that of one before it.
    assert is_abandoned(tmp_path / "writer")
    with pytest.raises(FileExistsError):
        sign(tmp_path / "writer")


@pytest.mark.parametrize(
    "signed", ["", "{", "[]", "{}", '{"pid": "x", "host": 1}', '{"pid": null}', {"pid": 1}, {"host": "another"}]
)
def test_what_cannot_be_told_is_not_abandoned(signed, tmp_path):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    whole = {"pid": child, "host": platform.node()}
    (tmp_path / "writer").write_text(json.dumps(whole))
    assert is_abandoned(tmp_path / "writer")
    (tmp_path / "writer").write_text(signed if isinstance(signed, str) else json.dumps({**whole, **signed}))
    assert not is_abandoned(tmp_path / "writer")
    assert not is_abandoned(tmp_path / "none")


def test_one_or_many_hold_a_folder(tmp_path):
    with folder_lock(tmp_path, shared=True), folder_lock(tmp_path, shared=True) as second:
        assert second
        with folder_lock(tmp_path, wait=False) as alone:
            assert not alone
    with folder_lock(tmp_path, wait=False) as alone:
        assert alone
    assert os.listdir(tmp_path) == []
