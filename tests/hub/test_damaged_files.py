# SPDX-License-Identifier: Apache-2.0
"""Damaged config.json, report.json and manifest.json: either a clear error that names the file or field, or no effect;
never a different answer or a raw error."""

import copy
import json
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.calibration import check_evidence
from hf_sidenet.export import export_onnx
from hf_sidenet.export.exported import Manifest
from hf_sidenet.report import Report, checkpoint_card
from hf_sidenet.report.guarantee import guarantee_summary

from ..cli.test_cli import run
from ..models import tiny
from .folder import EVIDENCE, save_folder


ODD = [
    *(None, True, 0, -1, 3, 2.5, 10**30, 10**400, float("nan"), float("inf")),
    *("", "x", "../x", [], ["x"], [1], {}, {"a": 1}),
]
# What is a fraction stays one: a wrong number of thresholds, one that is none, one that is not finite.
THRESHOLDS = [[0.5], [0.5, 0.5, 0.5], [], [0.5, "0.5"], [0.5, float("nan")], [-float("inf"), 0.5], [-0.1, 0.5], "0.5"]
# What answers depend on.
ANSWERS = (
    *("model_type", "mainnet_config", "mainnet_head", "exit_layers", "pooling", "sidenet_hidden_size"),
    *("thresholds", "temperatures"),
)
# Of the MainNet: what is right for one is not for another, and no type tells.
MAINNET_ANSWERS = ("hidden_act", "is_decoder", "layer_norm_eps", "num_attention_heads")
MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
FEW = settings(MANY, max_examples=60)
COSTS = {
    **{name: [1, 2, 3] for name in ("params", "flops", "milliseconds")},
    **{f"mainnet_{name}": 3 for name in ("params", "flops", "milliseconds")},
    "num_threads": 1,
    "device": "cpu",
}
SPLIT = {"num_rows": 100, "has_labels": True, "fingerprint": "ab"}
# As `attach` writes it.
REPORT = {
    "schema_version": 1,
    "verdict": "attach",
    "reason": "the cheapest certified threshold",
    "settings": {
        "target": ["accuracy_drop<=0.05"],
        "confidence_level": 0.95,
        "test_method": "paired",
        "tune": "heads",
        "reference": "given",
        "certification_fraction": 0.75,
        "max_exits": 2,
        "batch_size": 16,
        "max_length": None,
        "seed": 0,
        "heads": {"hidden_size": 32},
        "joint": None,
    },
    "mainnet": {"name": None, "class": "BertForSequenceClassification", "num_labels": 3, "dtype": "float32"},
    "data": {
        "train": SPLIT,
        "validation": SPLIT,
        "num_design_rows": 40,
        "num_certification_rows": 80,
        "num_known_rows_left_out": 0,
    },
    "costs": COSTS,
    "path": [{"thresholds": [1.0, 1.0], "accuracy": 0.9, "shares": [0.0, 0.0, 1.0]}],
    "calibration": EVIDENCE,
    "evaluation": None,
    "versions": {"python": "3.11.2"},
    "hardware": "CPU",
    "seconds": {"loading": 0.5},
}


def places(document, path=()):
    """The path of every value in a document."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@st.composite
def damages(draw, document):
    """A document with one defect and its place: a missing key, an odd value, or two values swapped."""
    document = copy.deepcopy(document)
    path = draw(st.sampled_from(sorted(places(document), key=str)))
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    kind = draw(st.sampled_from(["odd", "odd", "drop", "swap"]))
    if kind == "drop":
        del parent[path[-1]]
    elif kind == "swap":
        other = draw(st.sampled_from(list(parent) if isinstance(parent, dict) else range(len(parent))))
        parent[path[-1]], parent[other] = parent[other], parent[path[-1]]
        path = (*path, other)
    else:
        parent[path[-1]] = draw(st.sampled_from(ODD))
    return document, path


def told(message, file, path):
    """Return whether an error says where to look."""
    # Fields depend on each other: the error may name another one.
    return file in message or any(str(key) in message for key in path) or re.search("`[a-z_0-9.]+`", message)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("whole") / "mine")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def place(folder, tmp_path_factory):
    """A folder with the same files except one."""
    place = tmp_path_factory.mktemp("place") / "mine"
    place.mkdir()
    for path in folder.iterdir():
        (place / path.name).symlink_to(path)
    return place


@pytest.fixture(scope="module")
def expected(folder):
    return answers(load_checkpoint(folder)[0])


def answers(model):
    with torch.no_grad():
        return model(**tiny.texts(4), thresholds=1.0).exit_logits


def run_once(model):
    """Return the model's answers or the error message: transformers reads some fields only now."""
    try:
        return answers(model), None
    except (ValueError, TypeError, RuntimeError) as error:
        return None, str(error)


def put(place, name, text):
    (place / name).unlink(missing_ok=True)
    (place / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def tried(function, *arguments):
    """Return the result of a function or its error message."""
    try:
        return function(*arguments), None
    except (ValueError, OSError) as error:
        return None, str(error)


def loaded(place):
    found, message = tried(load_checkpoint, place)
    return (None, message) if found is None else (found[0], message)


@pytest.mark.medium
@MANY
@given(data=st.data())
def test_a_config_is_right_or_refused(folder, place, expected, data):
    whole = config_of(folder)
    # Only the types of the MainNet's own fields are known; the next test covers those fields.
    damaged, path = data.draw(damages({key: value for key, value in whole.items() if key != "mainnet_config"}))
    damaged["mainnet_config"] = whole["mainnet_config"]
    put(place, "config.json", json.dumps(damaged))
    model, message = loaded(place)
    if model is None:
        assert told(message, "config.json", path), message
        return
    for name in ("exit_layers", "thresholds", "temperatures"):
        said = damaged[name]
        count = len(model.config.exit_layers) + (name == "temperatures")
        values = said if isinstance(said, list) else [said] * count
        assert getattr(model.config, name) == [float(value) if name != "exit_layers" else value for value in values]
    if not set(path) & set(ANSWERS):
        torch.testing.assert_close(answers(model), expected)


@pytest.mark.medium
@FEW
@given(data=st.data())
def test_a_config_of_the_mainnet_is_whole_or_refused(folder, place, expected, data):
    whole = config_of(folder)
    mainnet, path = data.draw(damages(whole["mainnet_config"]))
    put(place, "config.json", json.dumps({**whole, "mainnet_config": mainnet}))
    model, message = loaded(place)
    if model is None:
        # The message comes from transformers or torch.
        assert message
    elif not set(path) & set(MAINNET_ANSWERS):
        found, message = run_once(model)
        assert message if found is None else torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("how", ["gone", "null"])
def test_what_answers_depend_on_has_no_default(name, how, folder, place):
    config = config_of(folder)
    config[name] = None
    if how == "gone":
        del config[name]
    put(place, "config.json", json.dumps(config))
    model, message = loaded(place)
    assert model is None
    assert f"`{name}`" in message


@pytest.mark.parametrize("thresholds", THRESHOLDS, ids=str)
def test_thresholds(thresholds, folder, place):
    put(place, "config.json", json.dumps({**config_of(folder), "thresholds": thresholds}))
    model, message = loaded(place)
    assert model is None
    assert "`thresholds`" in message


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"x"', b"\xff\xfe{", "[" * 100_000], ids=range(8))
def test_a_config_that_is_none(text, place):
    put(place, "config.json", text)
    done = run("info", place)
    assert done.code in (1, 2)
    assert re.match(r"Error: DIRECTORY: .*config\.json|Error: DIRECTORY: .*config file", done.last), done.last


@FEW
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_config_that_was_cut(folder, place, cut):
    text = (folder / "config.json").read_text().rstrip()
    put(place, "config.json", text[: int(cut * len(text))])
    model, message = loaded(place)
    assert model is None
    assert "config.json" in message


@MANY
@given(data=st.data())
def test_evidence_is_right_or_refused(data):
    damaged, path = data.draw(damages(EVIDENCE))
    _, message = tried(check_evidence, damaged)
    if message is not None:
        assert told(message, "config.json", path)
        return
    # Accepted evidence can be shown in the terminal and in the card.
    assert "nan" not in " ".join(guarantee_summary(damaged))


@FEW
@given(data=st.data())
def test_info_says_what_the_evidence_says_or_refuses_it(folder, place, data):
    damaged, _ = data.draw(damages(EVIDENCE))
    put(place, "config.json", json.dumps({**config_of(folder), "calibration": damaged}))
    done = run("info", place)
    if done.code:
        assert done.last.startswith("Error: DIRECTORY: config.json, `calibration`"), done.last
        return
    rows = f"over the {damaged['num_certification_rows']:,} certification rows"
    assert "Guarantee" not in done.out or rows in done.out


@pytest.fixture(scope="module")
def calibrated(folder):
    """A config with evidence, as in a model."""
    return load_checkpoint(folder)[0].config


def test_a_whole_report(tmp_path, calibrated):
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    assert dict(Report.read(tmp_path / "report.json")) == REPORT
    assert "model-index" in new_card(calibrated, REPORT)
    check_evidence(EVIDENCE)


def new_card(config, report):
    """What `recalibrate` does with a report: with costs and points of its own, a new card."""
    again = {**report, "costs": COSTS, "path": REPORT["path"]}
    return str(checkpoint_card("mine", config, again))


@MANY
@given(data=st.data())
def test_a_report_is_right_or_refused(tmp_path_factory, calibrated, data):
    damaged, _ = data.draw(damages(REPORT))
    file = tmp_path_factory.mktemp("report") / "report.json"
    file.write_text(json.dumps(damaged))
    report, message = tried(Report.read, file)
    if report is None:
        assert message.startswith("report.json")
    elif report.get("schema_version") == 1:
        assert dict(report) == damaged
        assert "model-index" in new_card(calibrated, report)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "report.json is damaged"),
        ("{", "report.json is damaged"),
        ("[]", "report.json is damaged: must be a JSON object, got a list"),
        ("[" * 100_000, "report.json is damaged"),
        ('{"a": NaN}', "report.json is damaged: NaN is not a JSON number"),
        ('{"settings": 3}', "report.json: `settings` must be an object, got 3."),
        ('{"settings": {"batch_size": "x"}}', "report.json: `settings.batch_size` must be a whole number ≥ 1, got "),
        ('{"schema_version": 1}', "report.json: `settings` must be an object, but is missing"),
    ],
    ids=range(8),
)  # fmt: skip
def test_commands_name_a_damaged_report(text, says, folder, place):
    put(place, "config.json", (folder / "config.json").read_text())
    put(place, "report.json", text)
    done = run("info", place)
    assert done.code == 2
    assert done.last.startswith(f"Error: {says}"), done.last


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    place = tmp_path_factory.mktemp("exported")
    model = tiny.bert_with_sidenets([1, 3], thresholds=[0.4, 0.6])
    export_onnx(model, place / "whole")
    twin = place / "twin"
    twin.mkdir()
    for path in (place / "whole").iterdir():
        (twin / path.name).symlink_to(path)
    return place / "whole", twin


@pytest.mark.slow
@FEW
@given(data=st.data())
def test_a_manifest_is_right_or_refused(exported, data):
    whole, twin = exported
    before = json.loads((whole / "manifest.json").read_text())
    damaged, path = data.draw(damages(before))
    put(twin, "manifest.json", json.dumps(damaged))
    done = run("info", twin)
    if done.code == 0:
        # Nothing that it checks has changed.
        kept = Manifest.read(twin, "onnx")
        assert kept.sha256 == {name: before["sha256"][name] for name in kept.sha256}
        return
    assert done.code == 2
    assert re.match("Error: DIRECTORY:? ", done.last), done.last
    assert told(done.last, "manifest.json", path) or "exported folder of format" in done.last, done.last


@pytest.mark.medium
def test_swapped_hashes(exported):
    whole, twin = exported
    document = json.loads((whole / "manifest.json").read_text())
    hashes = document["sha256"]
    first, second, *_ = sorted(hashes)
    hashes[first], hashes[second] = hashes[second], hashes[first]
    put(twin, "manifest.json", json.dumps(document))
    done = run("info", twin)
    assert done.code == 2
    assert f"is damaged: {first} is not the file that was written" in done.last
