# SPDX-License-Identifier: Apache-2.0
"""Push, use by a stranger, fine-tuning, second push, second load: with the real client over HTTP, to a Hub on this
machine."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file
from transformers import AutoTokenizer

from hf_sidenet import BertWithSideNetForSequenceClassification
from hf_sidenet.hub import check_shareable
from hf_sidenet.hub.push import push_checkpoint

from ..examples.commands import ROOT
from ..hub_server import hub_server
from .folder import CARD, change_json, save_folder


pytestmark = pytest.mark.slow

REPO = "me/mine"
# Same as in the script that strangers run.
TEXTS = ["a good film", "a very bad one", "not so good", "bad"]
CODE = {path.name for path in (ROOT / "hf_sidenet" / "models").glob("*.py")} - {"__init__.py"}


def stranger(hub, folder, name, *arguments):
    """Return the tensors written by a process without hf_sidenet."""
    output = folder / f"{name}.safetensors"
    online = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "x"}
    env = {**os.environ, **online, "HF_HOME": str(folder / f"home-{name}")}
    script = Path(__file__).with_name("load_shared.py")
    command = [sys.executable, str(script), str(output), *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(output)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The whole story, once: three pushes, a stranger who uses and changes the model, another who loads the result."""
    folder = tmp_path_factory.mktemp("round-trip")
    mine = save_folder(folder / "mine")
    # Two of the four texts exit at the first SideNet, the others at the second.
    sure = ours(mine, [1.0, 1.0]).exit_logits[:, 0].softmax(-1).max(-1).values.sort().values
    chosen = [sure[1:3].mean().item(), 0.0]
    change_json(mine / "config.json", thresholds=chosen, calibration=None)
    with hub_server() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.endpoint)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", "x")
        first = push_checkpoint(mine, REPO)
        change_json(mine / "config.json", thresholds=[0.0, 0.0], calibration=None)
        code = (mine / "modeling_sidenet.py").read_text(encoding="utf-8")
        (mine / "modeling_sidenet.py").write_text(code + '\n\nMARK = "of a branch"\n', encoding="utf-8")
        push_checkpoint(mine, REPO, revision="try")
        (mine / "modeling_sidenet.py").write_text(code, encoding="utf-8")
        change_json(mine / "config.json", thresholds=[1.0, 1.0], calibration=None)
        latest = push_checkpoint(mine, REPO)
        used = stranger(hub, folder, "used", "use", REPO, first.commit)
        again = stranger(hub, folder, "again", "again", "you/model", "you/trained")
    thresholds = {"first": chosen, "branch": [0.0, 0.0], "latest": [1.0, 1.0]}
    return SimpleNamespace(
        hub=hub, mine=mine, thresholds=thresholds, first=first, latest=latest, used=used, again=again
    )


def ours(folder, thresholds):
    model = BertWithSideNetForSequenceClassification.from_pretrained(folder, thresholds=thresholds).eval()
    with torch.no_grad():
        return model(**AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt"))


@pytest.mark.parametrize("name", ["first", "branch", "latest"])
def test_a_stranger_gets_the_answers_of_the_revision(name, world):
    thresholds = world.thresholds[name]
    expected = ours(world.mine, thresholds)
    assert world.used[f"{name}.thresholds"].tolist() == thresholds
    assert world.used[f"{name}.exit_index"].tolist() == expected.exit_index.tolist()
    torch.testing.assert_close(world.used[f"{name}.logits"], expected.logits, rtol=1e-5, atol=1e-6)


def test_the_revisions_differ(world):
    assert world.first.commit != world.latest.commit
    assert world.used["branch.exit_index"].tolist() == [0] * len(TEXTS)
    assert world.used["latest.exit_index"].tolist() == [2] * len(TEXTS)
    assert sorted(world.used["first.exit_index"].tolist()) == [0, 0, 1, 1]


def test_pipeline(world):
    expected = ours(world.mine, [1.0, 1.0]).logits.softmax(-1).max(-1).values
    torch.testing.assert_close(world.used["pipeline.scores"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("repo", ["you/model", "you/trained"])
def test_fine_tuned_and_pushed_by_a_stranger(repo, world):
    assert not torch.equal(world.used["tuned.logits"], world.used["first.logits"])
    for key in ("logits", "exit_index", "thresholds"):
        torch.testing.assert_close(world.again[f"{repo}.{key}"], world.used[f"tuned.{key}"], rtol=1e-5, atol=1e-6)
    files = world.hub.files(repo)
    assert {name for name in files if name.endswith(".py")} == CODE
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    # The code is unchanged after the round trip.
    for name in CODE:
        assert files[name] == (ROOT / "hf_sidenet" / "models" / name).read_bytes()


@pytest.mark.parametrize("repo", ["you/model", "you/trained"])
def test_what_a_stranger_pushed_is_shareable(repo, world, tmp_path):
    for name, content in world.hub.files(repo).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = check_shareable(tmp_path)
    assert (found.errors, found.changed_code) == ([], [])
    # Neither writes our card; the Trainer adds its arguments, pickled, which `hf-sidenet push` does not.
    assert [warning for warning in found.warnings if "`model-index`" in warning or "template" in warning]
    assert found.left_out == (["training_args.bin"] if repo == "you/trained" else [])


def test_the_card_arrives(world):
    text = world.hub.files(REPO)["README.md"].decode()
    assert text == CARD
    (result,) = ModelCard(text).data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.9)


def test_the_hub_knew_every_request(world):
    assert not world.hub.unknown
