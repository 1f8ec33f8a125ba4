# SPDX-License-Identifier: Apache-2.0
import json
import sys

import pytest

from hf_sidenet.optional import require


def test_returns_the_module():
    assert require("json", "plots") is json
    assert require("json.decoder", "plots") is json.decoder


@pytest.mark.parametrize("module", ["a_module_nobody_has", "a_module_nobody_has.inner"])
def test_names_the_pip_line(module):
    with pytest.raises(ImportError, match=r'a_module_nobody_has: pip install "hf_sidenet\[plots\]"'):
        require(module, "plots")


def test_a_fault_inside_the_dependency_keeps_its_own_message(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import a_module_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'a_module_nobody_has'"):
        require("half_installed", "plots")
    assert "half_installed" not in sys.modules
