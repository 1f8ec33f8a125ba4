# SPDX-License-Identifier: Apache-2.0
"""The folder of a Space, served where nothing but its requirements can be imported."""

import configparser
import json
import os
import re
import sys

import pytest
import yaml
from gradio_client import Client
from PIL import Image

from ..examples.commands import ROOT, run
from .browser import started


pytestmark = pytest.mark.medium


SCRIPT = ROOT / "examples" / "space" / "make_space.py"
SERVE = """
import runpy, sys
for name in sys.argv[2:]:
    sys.modules[name] = None
import hf_sidenet
assert hf_sidenet.__file__.startswith(sys.argv[1] + "/"), hf_sidenet.__file__
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def space(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / "mine"
    said = run(SCRIPT, checkpoint, folder, "--title", "Good: or bad?", "--example", "a good film")
    assert said.strip().endswith(str(folder))
    return folder


def card_of(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


def about(folder):
    return json.loads((folder / "space.json").read_text())


def missing(space):
    """What this package can use and is not in the Space's requirements, as it is imported."""
    extras = configparser.ConfigParser()
    extras.read(ROOT / "setup.cfg")
    named = {line for lines in extras["options.extras_require"].values() for line in lines.split("\n") if line}
    names = {re.match(r"[\w-]+", line)[0] for line in named} - {"hf_sidenet"}
    needed = set(re.findall(r"^[\w-]+", (space / "requirements.txt").read_text(), flags=re.MULTILINE))
    # A Space installs gradio by itself, which brings typer.
    needed |= {"gradio", "typer"}
    assert {"datasets", "onnx", "peft"} <= names - needed
    return [{"scikit-learn": "sklearn"}.get(name, name.replace("-", "_")) for name in sorted(names - needed)]


@pytest.mark.slow
def test_its_card(space):
    card = card_of(space)
    assert (card["title"], card["sdk"], card["app_file"]) == ("Good: or bad?", "gradio", "app.py")
    assert re.fullmatch(r"6\.\d+\.\d+", card["sdk_version"])
    assert "models" not in card


def test_it_serves(space):
    command = [sys.executable, "-c", SERVE, space, *missing(space)]
    # The folder itself comes first, as for `python app.py`.
    with started(command, cwd=space, env={"PYTHONPATH": str(space)}) as server:
        client = Client(server.address, verbose=False)
        assert "answered" in client.predict(0, "a good film", api_name="/answer")
        shown = str(client.config["components"])
        assert "a good film" in shown
        assert "# Good: or bad?" in shown


def test_a_checkpoint_on_the_hub_is_only_named(tmp_path):
    run(SCRIPT, "my-org/my-classifier", tmp_path / "space", "--pair", "--example", "one", "--example", "two")
    assert sorted(os.listdir(tmp_path / "space")) == [
        "README.md", "app.py", "hf_sidenet", "requirements.txt", "space.json",
    ]  # fmt: skip
    expected = {"checkpoint": "my-org/my-classifier", "title": "my-classifier", "is_pair": True}
    found = about(tmp_path / "space")
    assert {"app.py", "README.md"} <= found.pop("files").keys()
    assert found == {**expected, "examples": [["one", "two"]]}
    assert card_of(tmp_path / "space")["models"] == ["my-org/my-classifier"]


@pytest.mark.slow
def test_pictures_to_click_on_come_along(image_checkpoint, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "dark.png")
    run(SCRIPT, image_checkpoint, tmp_path / "space", "--example", tmp_path / "dark.png")
    assert about(tmp_path / "space")["examples"] == ["examples/0-dark.png"]
    assert (tmp_path / "space" / "examples" / "0-dark.png").read_bytes() == (tmp_path / "dark.png").read_bytes()


@pytest.mark.slow
def test_what_cannot_be_served(checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "CHECKPOINT must be a folder that can be shared" in run(SCRIPT, tmp_path / "empty", tmp_path / "a", code=2)
    assert "CHECKPOINT must be a folder or a Hub id" in run(SCRIPT, "my/no/folder", tmp_path / "a", code=2)
    odd = run(SCRIPT, "my-org/pairs", tmp_path / "a", "--pair", "--example", "one", code=2)
    assert "must be given twice per pair, got 1" in odd
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "kept.txt").write_text("kept")
    run(SCRIPT, checkpoint, tmp_path / "b", code=2)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["kept.txt"]
