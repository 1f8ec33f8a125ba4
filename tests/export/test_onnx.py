# SPDX-License-Identifier: Apache-2.0
import copy
import json
import shutil
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hf_sidenet.export import ExportError, OnnxStages, export_onnx, onnx_graph
from hf_sidenet.export.exported import MANIFEST, Manifest, is_exported, sha256
from hf_sidenet.inference import SideNetRunner, Stages
from hf_sidenet.models import BertWithSideNetForSequenceClassification

from ..examples.commands import minilm
from ..inference.folders import MACHINE, text_of
from ..inference.stages import chained
from ..models import (
    test_modeling_bert,
    test_modeling_convnext,
    test_modeling_deberta_v2,
    test_modeling_distilbert,
    test_modeling_electra,
    test_modeling_layoutlm,
    test_modeling_modernbert,
    test_modeling_mpnet,
    test_modeling_resnet,
    test_modeling_roberta,
    test_modeling_swin,
    test_modeling_vit,
    tiny,
)
from ..models.naive import every_exit


pytestmark = pytest.mark.medium


pytest.importorskip("onnxruntime", reason='needs pip install "hf_sidenet[onnx]"')
pytest.importorskip("onnxscript", reason='needs pip install "hf_sidenet[onnx]"')


def timm_resnet():
    pytest.importorskip("timm", reason='needs pip install "hf_sidenet[vision]"')
    from ..models.test_modeling_timm import TestTimmResNet

    return TestTimmResNet()


MAINNETS = {
    "bert": test_modeling_bert.TestBert,
    "convnext": test_modeling_convnext.TestConvNext,
    "deberta-v2": test_modeling_deberta_v2.TestDebertaV2,
    "distilbert": test_modeling_distilbert.TestDistilBert,
    "electra": test_modeling_electra.TestElectra,
    "layoutlm": test_modeling_layoutlm.TestLayoutLM,
    "modernbert": test_modeling_modernbert.TestModernBert,
    "mpnet": test_modeling_mpnet.TestMPNet,
    "resnet": test_modeling_resnet.TestResNet,
    "roberta": test_modeling_roberta.TestRoberta,
    "swin": test_modeling_swin.TestSwin,
    "timm resnet": timm_resnet,
    "vit": test_modeling_vit.TestViT,
}


def with_rows_leaving(stages, tester, inputs, full, keeps):
    """Every stage for the rows that are still there, each compared with the naive way."""
    hidden, rows = None, torch.arange(len(full))
    for index, keep in zip(range(len(stages)), keeps, strict=True):
        hidden, logits = stages(index, hidden, inputs)
        tester.assert_same(logits, full[rows, index])
        rows = rows[keep]
        if hidden is not None:
            inputs, hidden = tester.left_inside(inputs, hidden, keep)
    assert hidden is None


@pytest.mark.slow
@pytest.mark.parametrize("name", MAINNETS)
def test_answers_are_those_of_the_model(name, tmp_path):
    tester = MAINNETS[name]()
    attach = {} if "input_ids" in tester.inputs(1) else {"input_size": [3, 32, 32]}
    model = tester.model([2], tester.attentions[0], **attach)
    exported = export_onnx(model, tmp_path / "out", progress=False)
    assert exported.largest_difference < 1e-5
    stages = OnnxStages.load(tmp_path / "out")
    for num_rows, keep in ((1, [0]), (6, [0, 3, 4])):
        inputs = tester.inputs(num_rows, seed=num_rows)
        with_rows_leaving(stages, tester, inputs, every_exit(model, inputs), (keep, [0]))


# --- one folder


@pytest.fixture(scope="module")
def bert():
    model = tiny.bert_with_sidenets((1, 3), thresholds=[0.5, 0.6], temperatures=[1.0, 2.0, 3.0])
    model.config.calibration = {"precision": "float32", "targets": []}
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(minilm())


@pytest.fixture(scope="module")
def folder(bert, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "folder"
    export_onnx(bert, path, processor=tokenizer, progress=False)
    return path


@pytest.fixture(scope="module")
def stages(folder):
    return OnnxStages.load(folder)


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied")


def texts(num_rows, num_tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(num_rows, num_tokens, dtype=torch.long)
    mask[1:, num_tokens // 2 + 1 :] = 0
    return {"input_ids": torch.randint(3, 99, mask.shape, generator=generator) * mask, "attention_mask": mask}


def assert_same(left, right):
    torch.testing.assert_close(left, right, rtol=0, atol=1e-5 * float(right.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize(("num_rows", "num_tokens"), [(1, 1), (1, 12), (2, 1), (7, 3), (33, 20)])
def test_any_number_of_rows_and_tokens(bert, stages, num_rows, num_tokens):
    inputs = texts(num_rows, num_tokens)
    assert_same(chained(stages, inputs), every_exit(bert, inputs))


def test_what_stages_say_of_themselves(bert, stages):
    torch_stages = Stages(bert)
    assert len(stages) == len(torch_stages) == 3
    for name in ("modality", "task", "device", "dtype", "max_length"):
        assert getattr(stages, name) == getattr(torch_stages, name)
    assert stages.input_names == ("input_ids", "attention_mask", "token_type_ids")
    assert stages.precision == "float32 (ONNX Runtime)"
    for name in ("exit_layers", "thresholds", "temperatures", "calibration", "pooling", "num_labels", "id2label"):
        assert getattr(stages.config, name) == getattr(bert.config, name)
    assert [stage.inputs for stage in stages.manifest.stages] == [
        ["input_ids", "attention_mask", "token_type_ids"],
        ["hidden", "attention_mask"],
        ["hidden", "attention_mask"],
    ]


def test_missing_inputs_stand_for_what_the_mainnet_takes(bert, stages):
    inputs = texts(4, 6)
    alone = {"input_ids": inputs["input_ids"]}
    assert_same(chained(stages, alone), every_exit(bert, alone))
    types = {**inputs, "token_type_ids": torch.arange(6).expand(4, 6) % 2}
    full = every_exit(bert, types)
    assert_same(chained(stages, types), full)
    assert (full - every_exit(bert, inputs)).abs().max() > 1e-3


def test_tensors_of_other_kinds(bert, stages):
    inputs = texts(4, 6)
    expected = every_exit(bert, inputs)
    assert_same(chained(stages, {name: value.int() for name, value in inputs.items()}), expected)
    turned = {name: value.t().contiguous().t() for name, value in inputs.items()}
    assert_same(chained(stages, turned), expected)
    with torch.inference_mode():
        assert_same(chained(stages, inputs), expected)


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (0, {"position_ids": torch.zeros(2, 3)}, r"`inputs` must be among .* got \['position_ids'\]"),
        (0, {"input_ids": None}, "`inputs` must have 'input_ids'"),
        (0, {"attention_mask": torch.ones(2, 4)}, r"`attention_mask` must have the size of .*, \(2, 3\), got"),
        (0, {"attention_mask": torch.ones(2, 3, 3)}, r"`attention_mask` must have shape \('rows', 'tokens'\)"),
        (0, {"hidden": torch.zeros(2, 3, 32)}, "`hidden` must be given for every stage that starts after a block"),
        (1, {}, "`hidden` must be given for every stage that starts after a block, got None for stage 1"),
        (1, {"hidden": torch.zeros(2, 3, 31)}, r"`hidden` must have shape \('rows', 'tokens', 32\) for stage 1"),
        (1, {"hidden": torch.zeros(2, 3, 32).double()}, "`hidden` must be torch.float32, got torch.float64"),
        (1, {"hidden": torch.zeros(3, 3, 32)}, r"`attention_mask` must have the size of .*, \(3, 3\), got"),
    ],
)
def test_impossible_inputs(stages, index, change, message):
    given = {"hidden": None, **texts(2, 3), **change}
    hidden = given.pop("hidden")
    with pytest.raises(ValueError, match=message):
        stages(index, hidden, {name: value for name, value in given.items() if value is not None})


def test_runner_takes_it_in_the_place_of_the_model(bert, stages):
    rows = [{"input_ids": row[: 3 + i % 7].tolist()} for i, row in enumerate(texts(40, 12, seed=3)["input_ids"] + 1)]
    for routing in ("pooled", "all_blocks"):
        expected = list(SideNetRunner(bert, batch_size=8, routing=routing).predict(rows, thresholds=[0.5, 0.6]))
        found = list(SideNetRunner(stages, batch_size=8, routing=routing).predict(rows, thresholds=[0.5, 0.6]))
        assert [each.exit_index for each in found] == [each.exit_index for each in expected]
        assert len({each.exit_index for each in found}) == 3
        assert_same(torch.stack([each.logits for each in found]), torch.stack([each.logits for each in expected]))


def test_images(tmp_path):
    model = tiny.resnet_with_sidenet((2,))
    export_onnx(model, tmp_path / "out", progress=False)
    stages = OnnxStages.load(tmp_path / "out", num_threads=1, providers=["CPUExecutionProvider"])
    assert stages.input_names == ("pixel_values",)
    assert stages.max_length is None
    inputs = tiny.images(5)
    full = every_exit(model, inputs)
    hidden, logits = stages(0, None, inputs)
    assert_same(logits, full[:, 0])
    # One image stands for the size of all, and is not looked at.
    assert_same(stages(1, hidden[1:], {"pixel_values": inputs["pixel_values"][:1]})[1], full[1:, 1])
    assert_same(stages(1, hidden, {})[1], full[:, 1])
    with pytest.raises(ValueError, match=r"`pixel_values` must have shape \('rows', 3, 32, 32\) for stage 0"):
        stages(0, None, tiny.images(2, size=64))


def test_float16(tmp_path):
    model = tiny.bert_with_sidenets((2,)).half()
    exported = export_onnx(model, tmp_path / "out", progress=False)
    assert 1e-5 < exported.largest_difference < 2e-2
    stages = OnnxStages.load(tmp_path / "out")
    assert stages.precision == "float16 (ONNX Runtime)"
    assert stages.dtype == torch.float16
    hidden, logits = stages(0, None, texts(2, 3))
    assert hidden.dtype == logits.dtype == torch.float16


# --- what is written


def test_folder(bert, folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "manifest.json", "stage_0_model.onnx", "stage_1_model.onnx", "stage_2_model.onnx",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert not json.loads((folder / "config.json").read_text()).get("auto_map")
    assert len(AutoTokenizer.from_pretrained(folder)) == len(AutoTokenizer.from_pretrained(minilm()))
    weights = sum(value.numel() for value in (*bert.parameters(), *bert.buffers())) * 4
    assert sum(path.stat().st_size for path in folder.glob("*.onnx")) < 1.5 * weights


def test_a_folder_with_the_names_of_earlier_versions_is_loaded(bert, folder, tmp_path):
    old = shutil.copytree(folder, tmp_path / "old")
    text = (old / MANIFEST).read_text()
    for index in range(3):
        name, earlier = f"stage_{index}_model.onnx", f"stage_{index}.onnx"
        (old / name).rename(old / earlier)
        text = text.replace(f'"{name}"', f'"{earlier}"')
    (old / MANIFEST).write_text(text)
    assert not list(old.glob("*_model.onnx"))
    assert_same(chained(OnnxStages.load(old), texts(3, 4)), every_exit(bert, texts(3, 4)))


def test_nothing_of_this_machine(folder):
    for path in folder.iterdir():
        for word in MACHINE:
            assert word not in text_of(path), path.name


def test_weights_of_more_than_two_gib_lie_beside_the_model(bert, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "MAX_BYTES", 30_000)
    export_onnx(bert, tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "stage_1_model.onnx.data").is_file()
    stages = OnnxStages.load(tmp_path / "out")
    assert_same(chained(stages, texts(3, 4)), every_exit(bert, texts(3, 4)))
    (tmp_path / "out" / "stage_1_model.onnx.data").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"stage_1_model.onnx.data is not the file that was written"):
        OnnxStages.load(tmp_path / "out")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"calibration_rows": []}, "`calibration_rows` must not be given without `int8`"),
        ({"opset": 17}, r"`opset` must be in \[18, \d+\], got 17"),
        ({"opset": 99}, r"`opset` must be in \[18, \d+\], got 99"),
    ],
)
def test_impossible_arguments(bert, tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(bert, tmp_path / "out", progress=False, **kwargs)
    assert not list(tmp_path.iterdir())


def test_impossible_models(bert, tmp_path):
    with pytest.raises(ValueError, match="`model` must be in evaluation mode"):
        export_onnx(copy.deepcopy(bert).train(), tmp_path / "out")
    with pytest.raises(ValueError, match=r"must be in float32 or float16 on the CPU .* got torch.bfloat16"):
        export_onnx(copy.deepcopy(bert).bfloat16(), tmp_path / "out")
    with pytest.raises(ValueError, match=r"`int8` needs a model in float32, got torch.float16"):
        export_onnx(copy.deepcopy(bert).half(), tmp_path / "out", int8=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`output_dir` must be new or empty unless `overwrite` is given"):
        export_onnx(bert, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_wrong_export_is_not_written(bert, tmp_path, monkeypatch):
    made = onnx_graph.to_onnx

    def spoilt(*args):
        model = made(*args)
        for weight in model.graph.initializer:
            weight.raw_data = b"\0" * len(weight.raw_data) if weight.dims == [32] else weight.raw_data
        return model

    monkeypatch.setattr("hf_sidenet.export.onnx_export.to_onnx", spoilt)
    with pytest.raises(ExportError, match=r"differs from the model's by .* more than rounding"):
        export_onnx(bert, tmp_path / "out", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra(bert, folder, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'This needs {module}: pip install "hf_sidenet\[onnx\]"'):
        OnnxStages.load(folder) if module == "onnxruntime" else export_onnx(bert, tmp_path / "out", progress=False)


# --- what is read


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_threads": 0}, "`num_threads` must be an integer ≥ 1, got 0"),
        ({"num_threads": True}, "`num_threads` must be an integer ≥ 1, got True"),
        ({"providers": []}, r"`providers` must be among those available, \[.*\], got \[\]"),
        ({"providers": ["FastExecutionProvider"]}, "`providers` must be among .* got .'FastExecutionProvider'"),
    ],
)
def test_impossible_arguments_of_load(folder, kwargs, message):
    with pytest.raises(ValueError, match=message):
        OnnxStages.load(folder, **kwargs)


def test_an_exported_folder_is_known_by_its_manifest(folder, tmp_path):
    assert is_exported(str(folder))
    assert not is_exported(str(tmp_path))
    assert not is_exported("my-org/no-folder-at-all")


def changed(name, change):
    def damage(folder):
        document = json.loads((folder / name).read_text())
        change(document)
        (folder / name).write_text(json.dumps(document))

    return damage


def outside(folder):
    shutil.copy(folder / "stage_0_model.onnx", folder.parent)
    document = json.loads((folder / MANIFEST).read_text())
    document["sha256"]["../stage_0_model.onnx"] = document["sha256"].pop("stage_0_model.onnx")
    document["stages"][0]["file"] = "../stage_0_model.onnx"
    (folder / MANIFEST).write_text(json.dumps(document))


def swapped(folder):
    """Both hashes right, but the files of two stages in the wrong order."""
    document = json.loads((folder / MANIFEST).read_text())
    first, second = document["stages"][:2]
    first["file"], second["file"] = second["file"], first["file"]
    (folder / MANIFEST).write_text(json.dumps(document))


def no_model(folder):
    name = "stage_2_model.onnx"
    (folder / name).write_bytes(b"no model")
    changed(MANIFEST, lambda d: d["sha256"].update({name: sha256(folder / name)}))(folder)


DAMAGES = {
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "must be an exported folder, with manifest.json"),
    "garbage": (lambda f: (f / MANIFEST).write_text("{"), "is damaged: manifest.json cannot be read"),
    "no text": (lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe"), "is damaged: manifest.json cannot be read"),
    "a list": (lambda f: (f / MANIFEST).write_text("[]"), "is damaged: manifest.json .* a JSON object, got a list"),
    "version": (changed(MANIFEST, lambda d: d.update(format_version=2)), "version 1, got 'onnx', version 2"),
    "format": (changed(MANIFEST, lambda d: d.update(format="torch")), "format 'onnx', version 1, got 'torch'"),
    "no stages": (changed(MANIFEST, lambda d: d.update(stages=[])), "an invalid stages"),
    "one less": (changed(MANIFEST, lambda d: d["stages"].pop(0)), "an invalid stage 0"),
    "no inputs": (changed(MANIFEST, lambda d: d["stages"][1].pop("inputs")), "an invalid stage 1"),
    "outside": (outside, "an invalid sha256"),
    "no file": (lambda f: (f / "stage_1_model.onnx").unlink(), "is damaged: stage_1_model.onnx is missing"),
    "cut": (lambda f: (f / "stage_1_model.onnx").write_bytes(b""), "stage_1_model.onnx is not the file that was"),
    "no model": (no_model, "cannot run: stage_2_model.onnx: "),
    "swapped": (swapped, "stage_1_model.onnx must take .*'input_ids'.* but takes .*'hidden'"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no usable config.json"),
    "bad config": (lambda f: (f / "config.json").write_text("[1]"), "has no usable config.json"),
    "other config": (changed("config.json", lambda d: d.update(thresholds=[2, "x"])), "has no usable config.json"),
    "plain config": (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "has no usable config.json"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_folders(copied, name):
    damage, message = DAMAGES[name]
    damage(copied)
    with pytest.raises(ValueError, match=message):
        OnnxStages.load(copied)


def test_config_of_other_sidenets(copied, tmp_path):
    other = tiny.bert_with_sidenets((2,)).config
    other.to_json_file(copied / "config.json")
    with pytest.raises(ValueError, match=r"is damaged: 1 SideNets in config.json, but 3 stages"):
        OnnxStages.load(copied)
    other = BertWithSideNetForSequenceClassification.from_mainnet(tiny.bert(num_labels=5), exit_layers=[1, 3]).config
    other.to_json_file(copied / "config.json")
    with pytest.raises(ValueError, match=r"stage_0_model.onnx must have 5 classes like the config, got 3"):
        OnnxStages.load(copied)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.text(max_size=3)
    | st.sampled_from(["hidden", "logits", "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


def read(folder):
    try:
        return Manifest.read(folder, "onnx"), ""
    except ValueError as error:
        return None, str(error)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_manifest_is_right_or_refused(folder, tmp_path_factory, data):
    """One value anywhere in it becomes another: it reads as what it says, or is refused."""
    document = json.loads((folder / MANIFEST).read_text())
    # Of the folder, which is written with it: see `list_files`.
    del document["files"]
    parent, path = document, []
    while True:
        key = data.draw(st.sampled_from(list(parent) if isinstance(parent, dict) else list(range(len(parent)))))
        path.append(key)
        if not isinstance(parent[key], dict | list) or not parent[key] or data.draw(st.booleans()):
            break
        parent = parent[key]
    parent[key] = data.draw(JSON, label=str(path))
    place = tmp_path_factory.mktemp("fuzz")
    for file in folder.glob("*.onnx"):
        (place / file.name).symlink_to(file)
    (place / MANIFEST).write_text(json.dumps(document))
    manifest, message = read(place)
    if manifest is None:
        assert message.startswith("`directory` ")
        return
    again = place / "again"
    again.mkdir()
    manifest.write(again)
    assert json.loads((again / MANIFEST).read_text()) == document
