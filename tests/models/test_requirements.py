# SPDX-License-Identifier: Apache-2.0
"""Where libraries are too old, the first thing that a checkpoint's code does is to say so."""

import configparser
import re
from pathlib import Path

import pytest

import hf_sidenet.models
from hf_sidenet.models import configuration_sidenet as requirements


FOLDER = Path(hf_sidenet.models.__file__).parent
ROOT = FOLDER.parents[1]


def test_they_are_the_bounds_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    bounds = setup["options"]["install_requires"].split()
    assert set(requirements.REQUIRED) <= set(bounds)


def test_older_libraries_are_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(requirements, "REQUIRED", ("torch>=2.11", "transformers>=999"))
    with pytest.raises(ImportError, match=r"transformers>=999 is required .*\n.* pip install --upgrade transformers"):
        requirements.check_versions()


def imports(name):
    found = re.findall(r"^\s*from\s+\.(\S+)\s+import", (FOLDER / f"{name}.py").read_text(), flags=re.MULTILINE)
    return set(found)


def test_an_older_transformers_comes_as_far_as_the_check():
    """It copies the files that the config's module names, and looks for those that they name."""
    direct = imports("configuration_sidenet")
    assert re.search(r"^check_versions\(\)", (FOLDER / "configuration_sidenet.py").read_text(), flags=re.MULTILINE)
    for name in direct:
        assert imports(name) <= direct, name
