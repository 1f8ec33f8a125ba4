# SPDX-License-Identifier: Apache-2.0
import json
import zipfile
from types import SimpleNamespace

import pytest
import torch

from hf_sidenet.export import ExportError, TorchStages, export_stage, export_torch
from hf_sidenet.export.agreement import largest_difference
from hf_sidenet.export.exported import sha256
from hf_sidenet.export.programs import token_inputs
from hf_sidenet.export.torch_export import check_archive
from hf_sidenet.inference import SideNetRunner, Stages

from ..inference.folders import MACHINE, text_of
from ..inference.stages import chained
from ..models import test_modeling_layoutlm, test_row_inputs, tiny
from ..models.naive import every_exit


pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def bert():
    return tiny.bert_with_sidenets((1, 3))


@pytest.fixture(scope="module")
def programs(bert):
    stages = Stages(bert)
    return [export_stage(stages, index) for index in range(3)]


@pytest.fixture(scope="module")
def folder(bert, tmp_path_factory):
    path = tmp_path_factory.mktemp("torch") / "folder"
    bert.config.calibration = {"precision": "float32"}
    return path, export_torch(bert, path)


def padded(num_rows, num_tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, num_tokens + 1, (num_rows, 1), generator=generator)
    mask = (torch.arange(num_tokens) < lengths).long()
    return {"input_ids": torch.randint(3, 99, mask.shape, generator=generator) * mask, "attention_mask": mask}


def calls(program, name):
    return sum(name in str(node.target) for node in program.graph.nodes if node.op == "call_function")


def test_a_program_takes_what_it_needs_by_name(programs):
    assert [program.graph_signature.user_inputs for program in programs] == [
        ("input_ids", "attention_mask", "token_type_ids"),
        ("hidden", "attention_mask"),
        ("hidden", "attention_mask"),
    ]
    assert [len(program.graph_signature.user_outputs) for program in programs] == [2, 2, 1]


@pytest.mark.parametrize(("num_rows", "num_tokens"), [(1, 1), (1, 9), (7, 1), (3, 5), (8, 3)])
def test_any_number_of_rows_and_tokens(bert, programs, num_rows, num_tokens):
    inputs = padded(num_rows, num_tokens)
    types = torch.zeros_like(inputs["input_ids"])
    x_c, first = programs[0].module()(*inputs.values(), types)
    x_c, second = programs[1].module()(x_c, inputs["attention_mask"])
    (last,) = programs[2].module()(x_c, inputs["attention_mask"])
    expected = every_exit(bert, inputs)
    torch.testing.assert_close(torch.stack([first, second, last], 1), expected, rtol=0, atol=1e-5)


def test_each_weight_is_in_one_program(bert, programs):
    names = [name for program in programs for name in program.state_dict if ".sidenet." not in name]
    assert len(names) == len(set(names))
    assert len(names) == len(list(bert.mainnet.parameters()))
    # Linear layers of four blocks (6 each), two SideNets (2 each), pooler and classifier.
    assert [calls(program, "linear") for program in programs] == [6 + 2, 12 + 2, 6 + 2]


def test_images_of_later_stages_need_x_c_only():
    stages = Stages(tiny.resnet_with_sidenet((2,)))
    program = export_stage(stages, 1)
    assert program.graph_signature.user_inputs == ("hidden",)
    # Stages 3 and 4 have two convolutions and a shortcut each.
    assert calls(program, "conv2d") == 6


def test_which_stage(bert):
    for index in (-1, 3):
        with pytest.raises(ValueError, match=rf"`index` must be in \[0, 3\), got {index}"):
            export_stage(Stages(bert), index)


def test_code_that_asks_for_a_number_of_rows(bert):
    stages = Stages(bert)
    stages.modules[2].register_forward_pre_hook(lambda _, args, kwargs: check(kwargs["hidden"]), with_kwargs=True)

    def check(hidden):
        assert hidden.shape[0] == 3

    with pytest.raises(
        ExportError, match="stage 2 cannot be exported for any number of rows: its code needs exactly 3"
    ):
        export_stage(stages, 2)


def test_code_that_cannot_be_traced(bert):
    stages = Stages(bert)
    stages.modules[0].register_forward_pre_hook(lambda _, args, kwargs: kwargs["input_ids"].tolist()[0][0] > 3 or None,
                                                with_kwargs=True)  # fmt: skip
    with pytest.raises(ExportError, match="stage 0 of bert cannot be traced: "):
        export_stage(stages, 0)


# --- folders


@pytest.mark.slow
def test_folder(bert, folder):
    path, exported = folder
    assert sorted(each.name for each in path.iterdir()) == [
        "config.json", "manifest.json", "stage_0.pt2", "stage_1.pt2", "stage_2.pt2",
    ]  # fmt: skip
    assert exported.largest_difference == 0
    assert exported.changed is None
    assert exported.files == {f"stage_{i}.pt2": (path / f"stage_{i}.pt2").stat().st_size for i in range(3)}
    config = json.loads((path / "config.json").read_text())
    assert config["calibration"] == {"precision": "float32"}
    assert config["exit_layers"] == [1, 3]
    assert not config.get("auto_map")


def test_nothing_of_this_machine(folder):
    for path in folder[0].iterdir():
        for word in MACHINE:
            assert word not in text_of(path), path.name


def test_no_entry_is_a_pickle(folder):
    for path in folder[0].glob("*.pt2"):
        with zipfile.ZipFile(path) as archive:
            contents = {entry: archive.read(entry) for entry in archive.namelist()}
        # A pickle of protocol 2 and later, and a zip file with one inside, as torch.save writes.
        assert not [name for name, data in contents.items() if data[:2] in (b"\x80\x02", b"\x80\x04", b"PK")]
        assert [len(data) for name, data in contents.items() if "sample_inputs" in name] == [0]
        check_archive(path)


def test_loaded(bert, folder):
    stages = TorchStages.load(folder[0], trust_programs=True)
    assert len(stages) == 3
    assert stages.precision == "float32 (torch.export)"
    assert stages.config.thresholds == bert.config.thresholds
    inputs = padded(5, 7)
    torch.testing.assert_close(chained(stages, inputs), every_exit(bert, inputs), rtol=0, atol=1e-5)


def test_loading_needs_a_word_of_trust(folder):
    with pytest.raises(ValueError, match=r"`trust_programs` must be True to load .* can run arbitrary code"):
        TorchStages.load(folder[0])


def test_pickles_are_refused_even_with_trust(bert, folder, tmp_path):
    program = export_stage(Stages(bert), 0)
    torch.export.save(program, tmp_path / "stage_0.pt2")
    assert program.example_inputs is not None
    with pytest.raises(
        ValueError, match=r"stage_0.pt2 must contain only raw tensors and JSON, but has '.*sample_inputs"
    ):
        check_archive(tmp_path / "stage_0.pt2")
    for path in folder[0].iterdir():
        if path.name != "stage_0.pt2":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["sha256"]["stage_0.pt2"] = sha256(tmp_path / "stage_0.pt2")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="only raw tensors and JSON"):
        TorchStages.load(tmp_path, trust_programs=True)


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/lib.so", "data/constants/custom_obj_0", "code/a.py", "x.pkl"]
)
def test_unknown_entries_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("a/models/model.json", "{}")
        archive.writestr(f"a/{name}", "x")
    with pytest.raises(ValueError, match="only raw tensors and JSON"):
        check_archive(tmp_path / "a.pt2")


@pytest.mark.parametrize("config", ['{"config": {"w": {"use_pickle": true}}}', '{"config": {"w": {}}}', "[]", "{"])
def test_weights_that_may_be_pickled_are_refused(tmp_path, config):
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("a/data/weights/model_weights_config.json", config)
    with pytest.raises(ValueError, match=r"a\.pt2|JSON|Expecting"):
        check_archive(tmp_path / "a.pt2")


def test_no_archive(tmp_path):
    (tmp_path / "a.pt2").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.pt2 must be a torch\.export archive"):
        check_archive(tmp_path / "a.pt2")


def test_impossible_models(bert, tmp_path):
    bert.train()
    with pytest.raises(ValueError, match="`model` must be in evaluation mode"):
        export_torch(bert, tmp_path / "out")
    bert.eval()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`output_dir` must be new or empty unless `overwrite` is given"):
        export_torch(bert, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- inputs of the MainNet's own


@pytest.fixture(scope="module")
def layoutlm():
    return test_modeling_layoutlm.TestLayoutLM().model((1, 3))


@pytest.mark.slow
def test_boxes_are_an_input(layoutlm, tmp_path):
    exported = export_torch(layoutlm, tmp_path / "out")
    assert exported.largest_difference < 1e-5
    stages = TorchStages.load(tmp_path / "out", trust_programs=True)
    assert stages.input_names == ("input_ids", "attention_mask", "token_type_ids", "bbox")
    assert [set(stage.inputs) for stage in stages.manifest.stages] == [
        {"input_ids", "attention_mask", "token_type_ids", "bbox"},
        {"hidden", "attention_mask"},
        {"hidden", "attention_mask"},
    ]
    inputs = test_modeling_layoutlm.TestLayoutLM().inputs(5)
    full = every_exit(layoutlm, inputs)
    torch.testing.assert_close(chained(stages, inputs), full, rtol=0, atol=1e-5 * full.abs().max().item())
    with pytest.raises(ValueError, match=r"`bbox` must have the size of x_c or the texts, \(5, 12\), got shape"):
        stages(0, None, {**inputs, "bbox": inputs["bbox"][:, :3]})
    # Without boxes, as in the model.
    del inputs["bbox"]
    other = every_exit(layoutlm, inputs)
    assert (other - full).abs().max() > 0.1
    torch.testing.assert_close(chained(stages, inputs), other, rtol=0, atol=1e-5 * other.abs().max().item())
    rows = [{"input_ids": [5, 6], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}, {"input_ids": [5], "entity_ids": [1]}]
    own, got = (
        list(SideNetRunner(each, routing="pooled", thresholds=1.0).predict(rows)) for each in (layoutlm, stages)
    )
    torch.testing.assert_close(got[0].logits, own[0].logits, rtol=1e-4, atol=1e-4)
    assert "got 'entity_ids'" in str(got[1].error)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"attention_mask": 1}),
        ({"type_vocab_size": 2}, {"attention_mask": 1, "token_type_ids": 0}),
        ({"task_type_vocab_size": 3}, {"attention_mask": 1, "task_type_ids": 0}),
        ({"shape_vocab_size": 3, "concat_input": False}, {"attention_mask": 1}),
        ({"shape_vocab_size": 3, "concat_input": True}, {"attention_mask": 1, "input_shape_ids": 0}),
        (
            {"max_xpath_tag_unit_embeddings": 9, "tag_pad_id": 8, "subs_pad_id": 7, "max_depth": 5},
            {"attention_mask": 1, "xpath_tags_seq": 8},
        ),
    ],
)
def test_what_stands_for_missing_inputs(fields, expected):
    found = token_inputs(SimpleNamespace(**fields))
    assert {name: each.missing for name, each in found.items()} == expected
    for name, each in found.items():
        assert each.filled((2, 3)).tolist() == torch.full((2, 3, *each.shape), expected[name]).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("build", [test_row_inputs.ernie, test_row_inputs.roc_bert])
def test_other_inputs_of_tokens(build, tmp_path):
    """A folder is written only if its answers are the model's, with these inputs and without."""
    mainnet, limits = build()
    model = test_row_inputs.with_sidenets(mainnet, test_row_inputs.inputs_of(limits), [2])
    export_torch(model, tmp_path / "out")
    stages = TorchStages.load(tmp_path / "out", trust_programs=True)
    assert set(stages.manifest.stages[0].inputs) == {"input_ids", "attention_mask", "token_type_ids", *limits}


# --- is it the same?


class Off:
    """A chain whose answers are changed."""

    def __init__(self, stages, change):
        self.stages, self.change = stages, change

    def __call__(self, index, hidden, inputs):
        x_c, logits = self.stages(index, hidden, inputs)
        return self.change(index, x_c, logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, x, y: (x, y + 1e-3 * (i == 2)), "logits of stage 2 differs from the model's by .* than rounding"),
        (lambda i, x, y: (x if i else x + 0.1, y), "x_c of stage 0 differs"),
        (lambda i, x, y: (x, y.masked_fill(y == y.max(), torch.nan)), "logits of stage 0 differs .* by nan"),
        (lambda i, x, y: (x, y[:, :2]), r"logits of stage 0 must be .*\(5, 3\), got torch.float32 of shape \(5, 2\)"),
        (lambda i, x, y: (x, y.double()), "logits of stage 0 must be .* got torch.float64"),
    ],
)  # fmt: skip
def test_other_answers_are_refused(bert, change, message):
    stages = Stages(bert)
    with pytest.raises(ExportError, match=message):
        largest_difference(Off(stages, change), stages)


def test_rounding_is_measured_and_padding_ignored(bert):
    stages = Stages(bert)

    def change(index, x_c, logits):
        return x_c, logits + 1e-6 * (index == 1)

    difference = largest_difference(Off(stages, change), stages)
    assert 0 < difference < 1e-5

    class Padded(Off):
        def __call__(self, index, hidden, inputs):
            x_c, logits = self.stages(index, hidden, inputs)
            mask = inputs.get("attention_mask")
            return x_c if x_c is None or mask is None else x_c.masked_fill(mask.unsqueeze(-1) == 0, torch.nan), logits

    assert largest_difference(Padded(stages, None), stages) == 0
