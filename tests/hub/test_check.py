# SPDX-License-Identifier: Apache-2.0
"""Checks of a folder before it is pushed."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from hf_sidenet.hub import check_shareable

from ..models import tiny
from .folder import EVIDENCE, TOKEN, change_json


PACKAGE = Path(__file__).parents[2] / "hf_sidenet" / "models"


def test_nothing_to_say_of_a_whole_checkpoint(folder):
    found = check_shareable(folder)
    assert (found.errors, found.warnings, found.notes, found.left_out, found.changed_code) == ([], [], [], [], [])
    assert found.ok
    assert found.files == {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()
    }
    assert set(found.code) == {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    for name, digest in found.code.items():
        assert digest == hashlib.sha256((PACKAGE / name).read_bytes()).hexdigest()
    text = found.text()
    assert text.startswith(f"{folder}: {len(found.files)} files, ")
    assert "can be shared." in text.splitlines()[0]
    assert f"{found.code['gate.py']}  gate.py\n" in text


def drop_weight(folder, prefix):
    path = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if not name.startswith(prefix)}
    save_file(kept, path, {"format": "pt"})


def pickle_weights(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def shard(folder, lost=None):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in parts.items():
        if file != lost:
            save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def nested_path(folder):
    config = json.loads((folder / "config.json").read_text())
    config["mainnet_config"]["_name_or_path"] = "/data/secret/bert"
    (folder / "config.json").write_text(json.dumps(config))


def deep_config(folder):
    config = json.loads((folder / "config.json").read_text())
    text = json.dumps({**config, "more": "here"}).replace('"here"', "[" * 900 + "]" * 900)
    (folder / "config.json").write_text(text)


def odd_index(folder, text):
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(text)


def append(folder, file, text):
    with open(folder / file, "a", encoding="utf-8") as opened:
        opened.write(text)


FIRST, SECOND = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
ERRORS = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "half a config": (lambda f: (f / "config.json").write_text("{"), "has no usable config.json"),
    "plain model": (lambda f: change_json(f / "config.json", model_type="bert"), "model without SideNets"),
    "bad field": (lambda f: change_json(f / "config.json", thresholds=[2, "x"]), "`thresholds`"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "there are no weights: model.safetensors is missing"),
    "pickled weights": (pickle_weights, "pytorch_model.bin: pickled, never uploaded"),
    "half the weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]),
        "model.safetensors is not a valid safetensors file",
    ),
    "a SideNet less": (lambda f: drop_weight(f, "sidenets.1"), "have 1 SideNets, but config.json has 2 `exit_layers`"),
    "no MainNet": (lambda f: drop_weight(f, "mainnet"), "the weights have no MainNet"),
    "a lost shard": (lambda f: shard(f, lost=SECOND), f"index.json names {SECOND}, which is missing"),
    "a garbled index": (
        lambda f: [shard(f), (f / "model.safetensors.index.json").write_text("[]")],
        "index.json must be JSON with a 'weight_map'",
    ),
    "an index of two kinds": (
        lambda f: odd_index(f, '{"weight_map": {"a": 1, "b": "x"}}'),
        "index.json must be JSON with a 'weight_map'",
    ),
    "a deep index": (lambda f: odd_index(f, "[" * 100_000), "index.json must be JSON with a 'weight_map'"),
    "a deep config": (lambda f: (f / "config.json").write_text("[" * 100_000), "has no usable config.json"),
    "another class": (
        lambda f: change_json(f / "config.json", architectures=["SideNetConfig"]),
        "config.json: `architectures` must name a class of hf_sidenet, got ['SideNetConfig']",
    ),
    "no class": (
        lambda f: change_json(f / "config.json", architectures=["gate"]),
        "config.json: `architectures` must name a class of hf_sidenet, got ['gate']",
    ),
    "no name of a class": (
        lambda f: change_json(f / "config.json", architectures=[{"a": 1}]),
        "config.json: `architectures` must name a class of hf_sidenet",
    ),
    "a huge θ": (
        lambda f: change_json(f / "config.json", thresholds=[10**400, 1]),
        "`thresholds` must contain numbers",
    ),
    "a huge temperature": (
        lambda f: change_json(f / "config.json", temperatures=[10**400, 1, 1]),
        "`temperatures` must be finite",
    ),
    "huge evidence": (
        lambda f: change_json(f / "config.json", calibration={**EVIDENCE, "confidence_level": 10**400}),
        "config.json, `calibration`: `confidence_level` must be a number",
    ),
    "a shard with less": (
        lambda f: [shard(f), save_file({"x": torch.zeros(1)}, f / FIRST)],
        f"{FIRST} lacks ",
    ),
    "no auto_map": (lambda f: change_json(f / "config.json", auto_map=None), "must have an `auto_map`"),
    "lost code": (lambda f: (f / "modeling_sidenet.py").unlink(), "modeling_sidenet.py is missing"),
    "lost sibling": (lambda f: (f / "exit_rule.py").unlink(), "exit_rule.py is missing"),
    "no such class": (
        lambda f: change_json(f / "config.json", auto_map={"AutoConfig": "gate.Nope", "AutoModel": "gate.Nope"}),
        "gate.py has no such class",
    ),
    "import of the package": (
        lambda f: append(f, "gate.py", "\nimport hf_sidenet.models\n"),
        "gate.py imports hf_sidenet",
    ),
    "import of others": (
        lambda f: append(f, "tasks.py", "\ndef late():\n    from scipy.stats import norm\n"),
        "tasks.py imports scipy",
    ),
    "no Python": (lambda f: append(f, "tasks.py", "\ndef ("), "tasks.py is not valid Python"),
    "deep Python": (lambda f: append(f, "tasks.py", "\nx = " + "-" * 100_000 + "1"), "tasks.py is not valid Python"),
    "a path": (lambda f: change_json(f / "config.json", _name_or_path="/data/secret/x"), "`_name_or_path` is '/data"),
    "a nested path": (nested_path, "`mainnet_config._name_or_path` is '/data/secret/bert'"),
    "a path of Windows": (
        lambda f: change_json(f / "config.json", name_or_path=r"C:\Users\me\bert"),
        "`name_or_path` is 'C:",
    ),
    "a path that exists": (
        lambda f: change_json(f / "tokenizer_config.json", vocab_file=str(PACKAGE / "gate.py")),
        "tokenizer_config.json: `vocab_file` is",
    ),
    "a token": (lambda f: append(f, "README.md", f"token: {TOKEN}"), "looks like a Hub token"),
    "a token in a picture": (lambda f: (f / "figures" / "a.svg").write_text(TOKEN), "a.svg contains what looks like"),
    "a token in a license": (
        lambda f: (f / "LICENSE").write_text(TOKEN),
        "LICENSE contains what looks like a Hub token",
    ),
    "a token in capitals": (
        lambda f: (f / "MINE.TXT").write_text(TOKEN),
        "MINE.TXT contains what looks like a Hub token",
    ),
    "garbled card": (lambda f: (f / "README.md").write_text("---\na: [\n---\n"), "metadata that the Hub rejects"),
    "garbled report": (lambda f: (f / "report.json").write_text("[1"), "report.json is damaged: "),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name, folder):
    damage, message = ERRORS[name]
    damage(folder)
    found = check_shareable(folder)
    assert [error for error in found.errors if message in error], found.errors
    assert not found.ok
    assert "cannot be shared as it is." in found.text().splitlines()[0]
    assert f"Error: {found.errors[0]}" in found.text()


def rename_code(folder):
    (folder / "mine.py").write_text("import torch\n")


WARNINGS = {
    "no card": (lambda f: (f / "README.md").unlink(), "there is no model card"),
    "template": (
        lambda f: append(f, "README.md", "\n[More Information Needed]\n"),
        "an unfinished template",
    ),
    "no results": (lambda f: (f / "README.md").write_text("---\nlicense: mit\n---\n# x\n"), "no `model-index`"),
    "lost picture": (lambda f: shutil.rmtree(f / "figures"), "shows figures/accuracy_cost.png"),
    "no tokenizer": (
        lambda f: [(f / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "there is no tokenizer",
    ),
    "changed code": (lambda f: append(f, "gate.py", "\n# mine\n"), "gate.py differs from the installed hf_sidenet"),
    "unused code": (rename_code, "mine.py is uploaded, but nothing in config.json needs it"),
    "code of others": (
        lambda f: change_json(
            f / "config.json",
            auto_map={
                "AutoConfig": "configuration_sidenet.SideNetConfig",
                "AutoModel": "x/y--modeling_sidenet.BertWithSideNetForSequenceClassification",
            },
        ),
        "code in another repository",
    ),
    "a path in words": (lambda f: append(f, "README.md", f"made in {f.resolve().parent}/here"), "a path of this mac"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings(name, folder):
    damage, message = WARNINGS[name]
    damage(folder)
    found = check_shareable(folder)
    assert not found.errors
    assert [warning for warning in found.warnings if message in warning], found.warnings
    assert f"Warning: {found.warnings[0]}" in found.text()
    assert found.changed_code == {"changed code": ["gate.py"], "unused code": ["mine.py"]}.get(name, [])


def test_notes(folder):
    change_json(folder / "config.json", thresholds=[1.0, 1.0], calibration=None)
    (folder / "README.md").write_text((folder / "README.md").read_text().replace("license: apache-2.0\n", ""))
    torch.save({}, folder / "training_args.bin")
    found = check_shareable(folder)
    assert (found.errors, found.warnings) == ([], [])
    notes = " ".join(found.notes)
    for text in ("no evidence behind it", "no row exits early", "names no license", "training_args.bin: pickled"):
        assert text in notes
    assert found.left_out == ["training_args.bin"]
    assert "Not uploaded: training_args.bin" in found.text()


def test_what_stays_here(folder):
    for name in (".env", "sub/.env", "checkpoint-3/model.safetensors", "runs/a", "x/__pycache__/gate.pyc", "a.ckpt"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("x")
    before = check_shareable(folder)
    assert sorted(before.left_out) == sorted(
        [".env", "sub/.env", "checkpoint-3/model.safetensors", "runs/a", "x/__pycache__/gate.pyc", "a.ckpt"]
    )


def test_a_deep_config_is_looked_at(folder):
    deep_config(folder)
    assert isinstance(check_shareable(folder).errors, list)


def test_deep_code_that_parses(folder):
    append(folder, "tasks.py", "\nx = " + "1 + " * 900 + "1\n")
    found = check_shareable(folder)
    assert found.changed_code == ["tasks.py"]


def test_shards_that_are_whole(folder):
    shard(folder)
    assert check_shareable(folder).errors == []


def test_an_import_that_may_fail_is_fine(folder):
    append(folder, "gate.py", "\ntry:\n    import scipy\nexcept ImportError:\n    scipy = None\n")
    assert check_shareable(folder).errors == []


def test_classes_that_look_like_paths(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    labels = {"0": "/m/04rlf", "1": "/", "2": "~"}
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = config["mainnet_config"]["id2label"] = labels
    # Other classes make it a different model.
    config["calibration"] = None
    config["label2id"] = config["mainnet_config"]["label2id"] = {label: int(i) for i, label in labels.items()}
    (folder / "config.json").write_text(json.dumps(config))
    assert check_shareable(folder).errors == []


def test_images(tmp_path):
    tiny.resnet_with_sidenet(thresholds=[0.5]).save_pretrained(tmp_path / "mine")
    found = check_shareable(tmp_path / "mine")
    assert not found.errors
    assert [warning for warning in found.warnings if "there is no image processor" in warning]


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="`directory` must be a folder, got "):
        check_shareable(tmp_path / "nowhere")


def nudge(folder, prefix):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name.startswith(prefix) and tensors[name].is_floating_point())
    save_file({**tensors, name: tensors[name] + 0.01}, path, {"format": "pt"})


def set_config(folder, **changes):
    change_json(folder / "config.json", **changes)


def other_tokenizer(folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens(["dreadful"])
    tokenizer.save_pretrained(folder)


def activate_otherwise(folder):
    config = json.loads((folder / "config.json").read_text())
    set_config(folder, mainnet_config={**config["mainnet_config"], "hidden_act": "relu"})


OTHERS = {
    "MainNet": (lambda folder: nudge(folder, "mainnet."), "its weights are not those for which θ was certified"),
    "SideNet": (lambda folder: nudge(folder, "sidenets.1."), "its weights are not those for which θ was certified"),
    "θ": (lambda folder: set_config(folder, thresholds=[0.3, 0.6]), "θ changed: [0.4, 0.6] when"),
    "temperatures": (lambda folder: set_config(folder, temperatures=[2.0, 1.0, 1.0]), "its temperatures changed"),
    "tokenizer": (other_tokenizer, "the tokenizer or image processor is not the one"),
    "config": (activate_otherwise, "`hidden_act` of its MainNet changed"),
    "unbound": (
        lambda folder: set_config(folder, calibration=EVIDENCE),
        "the evidence does not say which weights",
    ),
}


@pytest.mark.parametrize("change", OTHERS)
def test_evidence_of_another_model_is_not_shared(folder, change):
    call, reason = OTHERS[change]
    call(folder)
    (error,) = check_shareable(folder).errors
    assert error.startswith(f"config.json has evidence that does not cover this folder: {reason}")
    assert "hf-sidenet recalibrate" in error
    # Without evidence nothing is promised, so nothing is checked.
    change_json(folder / "config.json", calibration=None)
    assert check_shareable(folder).errors == []


def test_a_report_or_a_card_that_promises_what_ended(folder):
    evidence = json.loads((folder / "config.json").read_text())["calibration"]
    change_json(folder / "report.json", calibration=evidence)
    assert check_shareable(folder).errors == []
    append(folder, "README.md", "\n## Guarantee\n\nWith probability 0.95.\n")
    assert check_shareable(folder).errors == []
    change_json(folder / "config.json", calibration=None)
    (error,) = check_shareable(folder).errors
    assert error.startswith("report.json has evidence behind θ that config.json lacks")
    change_json(folder / "report.json", calibration=None)
    (error,) = check_shareable(folder).errors
    assert error.startswith("README.md has a guarantee, but config.json has no evidence for it")


def test_weights_that_do_not_load(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["mainnet.classifier.weight"]
    save_file(tensors, path, {"format": "pt"})
    (error,) = check_shareable(folder).errors
    assert "mainnet.classifier.weight" in error
