# SPDX-License-Identifier: Apache-2.0
"""MainNets with code of their own: it travels, is not changed unnoticed, and runs only with the user's word."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from hf_sidenet.inference import SideNetRunner, Stages
from hf_sidenet.models import (
    BertWithSideNetForSequenceClassification,
    SideNetConfig,
    SideNetForSequenceClassification,
    mainnet_code,
)

from . import tiny
from .naive import every_exit, spread_out
from .own_code import toy
from .own_code.modeling_toy import ToyForSequenceClassification
from .own_code.shifted_bert import ShiftedBert


FILES = {"configuration_toy.py", "modeling_toy.py", "toy_parts.py"}
CODE = Path(__file__).parent / "own_code"


def shifted():
    return ShiftedBert(BertConfig(**tiny.TEXT, num_labels=3)).eval()


def attached(mainnet, **kwargs):
    kwargs = {"exit_layers": [1, 3], "trust_remote_code": True, **kwargs}
    kind = SideNetForSequenceClassification if isinstance(mainnet, ToyForSequenceClassification) else None
    model = (kind or BertWithSideNetForSequenceClassification).from_mainnet(mainnet, **kwargs)
    spread_out(model, tiny.texts(16))
    model.config.thresholds = middle(model)
    return model


def middle(model):
    confidence = every_exit(model, inputs(16))[:, :-1].softmax(-1).amax(-1)
    return confidence.quantile(0.5, dim=0).tolist()


def inputs(count=6):
    ids = tiny.texts(count)["input_ids"]
    mask = torch.arange(ids.shape[1]) < torch.tensor([9, 4, 7, 9, 2, 5] * count)[:count, None]
    return {"input_ids": ids.where(mask, 0), "attention_mask": mask.long()}


@pytest.fixture
def nothing_run(monkeypatch):
    """As in a new process."""
    monkeypatch.setattr(mainnet_code, "_RUN", {})


@pytest.mark.parametrize(("mainnet", "files"), [(toy, FILES), (shifted, {"shifted_bert.py"})])
@pytest.mark.parametrize("installed", ["installed", "not installed"])
def test_a_checkpoint_takes_the_code_along(mainnet, files, installed, tmp_path):
    model = attached(mainnet())
    model.save_pretrained(tmp_path / "checkpoint")
    for name in files:
        assert (tmp_path / "checkpoint" / name).read_bytes() == (CODE / name).read_bytes()
    assert set(json.loads((tmp_path / "checkpoint/config.json").read_text())["mainnet_code"]["files"]) == files
    torch.save(inputs(), tmp_path / "inputs.pt")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [
            sys.executable,
            str(root / "tests/models/load_own_code.py"),
            str(tmp_path / "checkpoint"),
            str(tmp_path / "inputs.pt"),
            installed,
        ],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["package"] == (installed == "installed")
    assert "trust_remote_code" in found["refused"]
    if installed == "installed":
        assert "runs its own code" in found["refused"]
        assert found["unread"] == model.config.mainnet_config.model_type
    assert found["mainnet"] == type(model.mainnet).__name__
    assert found["config"] == type(model.mainnet.config).__name__
    expected = every_exit(model, inputs())
    torch.testing.assert_close(torch.tensor(found["logits"]), expected[:, -1])
    torch.testing.assert_close(torch.tensor(found["again"]), expected[:, -1])
    with torch.no_grad():
        assert found["exits"] == model(**inputs()).exit_index.tolist()
    assert len(set(found["exits"])) > 1


@pytest.mark.parametrize("mainnet", [toy, shifted])
def test_it_works_as_any_other(mainnet):
    plain = mainnet()
    with torch.no_grad():
        expected = plain(**inputs()).logits
    model = attached(plain)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs(), thresholds=1.0).logits, expected, rtol=0, atol=0)
        out = model(**inputs())
        twin = copy.deepcopy(model)(**inputs())
    torch.testing.assert_close(twin.logits, out.logits)
    rows = [{name: value[i] for name, value in inputs().items()} for i in range(6)]
    found = list(SideNetRunner(Stages(model), batch_size=4).predict(rows))
    assert [each.exit_index for each in found] == out.exit_index.tolist()
    assert pickle.loads(pickle.dumps(model.config)).mainnet_code == model.config.mainnet_code


def test_a_folder_with_remote_code(tmp_path):
    plain = toy()
    plain.save_pretrained(tmp_path / "plain")
    from_mainnet = SideNetForSequenceClassification.from_mainnet
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        from_mainnet(tmp_path / "plain", exit_layers=[1], trust_remote_code=False)
    model = from_mainnet(tmp_path / "plain", exit_layers=[1], trust_remote_code=True)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs()).logits, plain(**inputs()).logits)
    assert set(model.config.mainnet_code["files"]) == FILES
    assert model.config.mainnet_config.auto_map == model.config.mainnet_code["names"]
    assert model.config.auto_map["AutoConfig"] == "configuration_sidenet.SideNetConfig"
    # The MainNet alone is a checkpoint with remote code again.
    model.mainnet.save_pretrained(tmp_path / "alone")
    alone = AutoModelForSequenceClassification.from_pretrained(tmp_path / "alone", trust_remote_code=True)
    with torch.no_grad():
        torch.testing.assert_close(alone.eval()(**inputs()).logits, plain(**inputs()).logits)


def test_without_the_word():
    for mainnet, kind in (
        (toy(), SideNetForSequenceClassification),
        (shifted(), BertWithSideNetForSequenceClassification),
    ):
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            kind.from_mainnet(mainnet, exit_layers=[1])
    # Nothing is recorded where transformers has the class.
    model = BertWithSideNetForSequenceClassification.from_mainnet(tiny.bert(), exit_layers=[1], trust_remote_code=True)
    assert model.config.mainnet_code is None


def test_loading_without_the_word(tmp_path, nothing_run):
    attached(toy()).save_pretrained(tmp_path)
    mainnet_code._RUN.clear()
    config = AutoConfig.from_pretrained(tmp_path)
    assert (type(config.mainnet_config).__name__, config.mainnet_config.width) == ("UnreadConfig", 32)
    config.save_pretrained(tmp_path / "copy")
    again = SideNetConfig.from_pretrained(tmp_path / "copy")
    assert again.to_diff_dict()["mainnet_config"] == config.to_diff_dict()["mainnet_config"]
    message = r"runs its own code \(configuration_toy.py, modeling_toy.py, toy_parts.py\).*`trust_remote_code=True`"
    with pytest.raises(ValueError, match=message):
        SideNetForSequenceClassification.from_pretrained(tmp_path)
    assert not mainnet_code._RUN
    SideNetForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=True)
    # Given once in a process, as in transformers.
    assert type(AutoConfig.from_pretrained(tmp_path).mainnet_config).__name__ == "ToyConfig"
    SideNetForSequenceClassification.from_pretrained(tmp_path)


def test_changed_code_is_never_run(tmp_path, nothing_run):
    attached(toy()).save_pretrained(tmp_path)
    mainnet_code._RUN.clear()
    with (tmp_path / "toy_parts.py").open("a") as file:
        file.write("\nraise RuntimeError('was run')\n")
    with pytest.raises(ValueError, match=r"must fit the files: toy_parts.py must have SHA-256 [0-9a-f]{64}, got"):
        SideNetForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=True)
    (tmp_path / "toy_parts.py").unlink()
    with pytest.raises(OSError, match=r"toy_parts\.py"):
        SideNetForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=True)


@pytest.mark.parametrize(
    "record",
    [
        {},
        [],
        {"names": {"AutoModel": "a.B"}},
        {"names": {"AutoModel": "a.B"}, "files": {"a.py": "0" * 63}},
        {"names": {"AutoModel": "a.B"}, "files": {"../a.py": "0" * 64}},
        {"names": {"AutoModel": "b.B"}, "files": {"a.py": "0" * 64}},
        {"names": {"AutoModel": "repo--a.B"}, "files": {"a.py": "0" * 64}},
        {"names": {"AutoConfig": "a.B"}, "files": {"a.py": "0" * 64}},
    ],
)
def test_a_damaged_record(record):
    with pytest.raises(ValueError, match="`mainnet_code` must have `names`"):
        SideNetConfig(BertConfig(), mainnet_code=record)


def test_code_that_cannot_travel(tmp_path, monkeypatch):
    class Local(ShiftedBert):
        pass

    config = BertConfig(**tiny.TEXT, num_labels=3)
    from_mainnet = BertWithSideNetForSequenceClassification.from_mainnet
    with pytest.raises(ValueError, match="classes at the top of a file that can be imported"):
        from_mainnet(Local(config), exit_layers=[1], trust_remote_code=True)
    package = tmp_path / "theirs"
    (package / "inner").mkdir(parents=True)
    text = (
        "from transformers import BertForSequenceClassification\nclass Theirs(BertForSequenceClassification): pass\n"
    )
    (package / "gate.py").write_text(text)
    (package / "parts.py").write_text("")
    (package / "inner" / "net.py").write_text(f"from ..parts import *\n{text}")
    monkeypatch.syspath_prepend(tmp_path)
    import theirs.gate
    import theirs.inner.net

    with pytest.raises(ValueError, match=r"must not have code in a file named 'gate.py', as this package has"):
        from_mainnet(theirs.gate.Theirs(config), exit_layers=[1], trust_remote_code=True)
    with pytest.raises(ValueError, match="in files of one folder that import each other"):
        from_mainnet(theirs.inner.net.Theirs(config), exit_layers=[1], trust_remote_code=True)
    with pytest.raises(ValueError, match="`mainnet_code` must not be passed"):
        from_mainnet(tiny.bert(), exit_layers=[1], mainnet_code={})


def test_a_classifier_of_transformers_stays_without_record(tmp_path):
    model = BertWithSideNetForSequenceClassification.from_mainnet(tiny.bert(), exit_layers=[1])
    model.save_pretrained(tmp_path)
    loaded = BertWithSideNetForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(loaded.mainnet) is BertForSequenceClassification
    assert loaded.config.mainnet_code is None
