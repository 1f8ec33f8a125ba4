# SPDX-License-Identifier: Apache-2.0
"""A stage starts where its gate is, whatever stands between the blocks; where that fails, there are no stages."""

import logging

import pytest
import torch
from torch import nn
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from hf_sidenet import SideNetForImageClassification, SideNetRunner
from hf_sidenet.export import export_onnx, export_stage, export_torch
from hf_sidenet.inference import Stages, StagesError
from hf_sidenet.inference.compiled import CompiledStages
from hf_sidenet.inference.engine import PoolingEngine
from hf_sidenet.inference.routings import WholeEngine, by_gates, measure_routings
from tests.models.naive import spread_out
from tests.models.tiny import bert_with_sidenets

from .flood import text_row


pytestmark = pytest.mark.medium


timm = pytest.importorskip("timm", reason='needs pip install "hf_sidenet[vision]"')

# Modules stand between the blocks of all of these; smaller than they come, where they can be.
BETWEEN = {
    "test_efficientnet": {},
    "mobilenetv3_large_100": {},
    "densenet121": {"growth_rate": 8, "block_config": [2, 2, 2, 2]},
    "lcnet_035": {},
    "mnasnet_050": {},
    "tinynet_e": {},
    "hardcorenas_a": {},
    "rexnet_100": {},
    "ghostnet_050": {},
    "repghostnet_050": {},
    "inception_v3": {},
    "vgg11": {"mlp_ratio": 0.01},
}
SIZE = 96


def with_sidenet_after_every_block(architecture, **kwargs):
    torch.manual_seed(0)
    config = TimmWrapperConfig(architecture=architecture, model_args=BETWEEN[architecture], num_labels=3)
    mainnet = TimmWrapperForImageClassification(config).eval()
    model = SideNetForImageClassification.from_mainnet(
        mainnet, exit_layers=[1], input_size=[3, SIZE, SIZE], sidenet_hidden_size=4, **kwargs
    )
    model.add_exits(list(range(2, len(model.layout.blocks))))
    return model


@pytest.mark.parametrize("architecture", BETWEEN)
def test_every_stage_gives_the_models_answers_while_rows_leave(architecture):
    model = with_sidenet_after_every_block(architecture)
    stages = Stages(model)
    # Of the recorded size, and of another one.
    for size in (SIZE, SIZE + 32):
        images = torch.randn(len(stages) + 2, 3, size, size)
        with torch.no_grad():
            expected = model(images, thresholds=1.0).exit_logits
            hidden, inputs = None, {"pixel_values": images}
            for k in range(len(stages)):
                # The first row of those inside has left.
                hidden, logits = stages(k, hidden if hidden is None else hidden[1:], inputs)
                scale = expected[:, k].abs().max().item()
                torch.testing.assert_close(logits, expected[k:, k], rtol=0, atol=1e-4 * scale)
                inputs = {"pixel_values": images[:1]}


def test_a_later_stage_calls_nothing_that_ran_before_its_gate():
    # Its blocks are 0, 1, 2, 4 and 5 of `blocks`: the last stage is block 5 and the head.
    stages = Stages(with_sidenet_after_every_block("lcnet_035"))
    convolutions = stages.modules[-1].mainnet.get_submodule("timm_model.blocks").named_modules()
    called = []
    for name, module in convolutions:
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
    hidden, inputs = None, {"pixel_values": torch.randn(2, 3, SIZE, SIZE)}
    with torch.no_grad():
        for k in range(len(stages)):
            hidden, _ = stages(k, hidden, inputs)
    assert called
    assert {name.partition(".")[0] for name in called} == {"5"}


def test_every_way_answers_and_stages_export():
    model = with_sidenet_after_every_block("densenet121")
    spread_out(model, {"pixel_values": torch.randn(16, 3, SIZE, SIZE)})
    rows = [{"pixel_values": image} for image in torch.randn(12, 3, SIZE, SIZE)]
    theta = 0.5
    answers = {}
    for routing in ("pooled", "per_batch", "gates", "all_blocks"):
        found = list(SideNetRunner(model, batch_size=4, routing=routing, thresholds=theta).predict(rows))
        assert [each.error for each in found] == [None] * 12
        answers[routing] = [(each.label_id, each.exit_index) for each in found]
    assert all(found == answers["gates"] for found in answers.values())
    program = export_stage(Stages(model), 2)
    assert list(program.graph_signature.user_inputs) == ["hidden"]


@pytest.mark.slow
def test_compiled_stages_meet_another_size():
    torch._dynamo.reset()
    model = with_sidenet_after_every_block("test_efficientnet")
    stages = CompiledStages(Stages(model), {"backend": "aot_eager"})
    for size in (SIZE, SIZE + 32):
        images = torch.randn(3, 3, size, size)
        with torch.no_grad():
            expected = model(images, thresholds=1.0).exit_logits
            hidden, inputs = None, {"pixel_values": images}
            for k in range(len(stages)):
                hidden, logits = stages(k, hidden, inputs)
                torch.testing.assert_close(logits, expected[:, k], rtol=1e-4, atol=1e-5)
                inputs = {"pixel_values": images[:1]}


# --- a MainNet that rows can leave, but that cannot be cut


class Shortcut(nn.Module):
    """Its head reads what the stem gave, past all blocks: rows are back in their places there."""

    feature_info = [{"num_chs": 8, "reduction": 1, "module": f"stage{i}"} for i in (1, 2, 3)]
    default_cfg = pretrained_cfg = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    num_features = 8

    def __init__(self, num_classes=3, **kwargs):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stage1, self.stage2, self.stage3 = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images):
        stem = self.stem(images)
        hidden = self.stage3(self.stage2(self.stage1(stem).relu()).relu())
        return self.fc((hidden + stem).mean((2, 3)))


@pytest.fixture(scope="module")
def uncut():
    timm.models.register_model(sidenet_test_shortcut)
    torch.manual_seed(0)
    config = TimmWrapperConfig(architecture="sidenet_test_shortcut", num_labels=3)
    mainnet = TimmWrapperForImageClassification(config).eval()
    model = SideNetForImageClassification.from_mainnet(mainnet, exit_layers=[1, 2], input_size=[3, 16, 16])
    return spread_out(model, {"pixel_values": torch.randn(16, 3, 16, 16)})


def sidenet_test_shortcut(pretrained=False, **kwargs):
    return Shortcut(kwargs.get("num_classes", 3))


def test_it_has_no_stages_and_says_why(uncut, tmp_path):
    reason = (
        r"\(sidenet_test_shortcut\) cannot run stage by stage: started after timm_model.stage2, it fails \(answers"
    )
    for make in (
        Stages,
        lambda model: SideNetRunner(model, routing="pooled"),
        lambda model: SideNetRunner(model, routing="all_blocks"),
        lambda model: SideNetRunner(model, compile=True),
        lambda model: export_torch(model, tmp_path / "torch"),
        lambda model: export_onnx(model, tmp_path / "onnx", progress=False),
    ):
        with pytest.raises(StagesError, match=reason):
            make(uncut)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("routing", ["auto", "gates"])
def test_the_runner_goes_the_way_that_works(uncut, routing, caplog):
    images = torch.randn(60, 3, 16, 16)
    with caplog.at_level(logging.WARNING):
        runner = SideNetRunner(uncut, batch_size=4, routing=routing, thresholds=0.5)
    assert (
        "Only routing 'gates' is available: TimmWrapperForImageClassification (sidenet_test_shortcut)" in caplog.text
    )
    found = list(runner.predict([{"pixel_values": image} for image in images]))
    with torch.no_grad():
        expected = uncut(images, thresholds=0.5)
    assert runner.chosen == "gates"
    assert [each.error for each in found] == [None] * 60
    assert [each.exit_index for each in found] == expected.exit_index.tolist()
    assert len({each.exit_index for each in found}) > 1
    assert set(runner.measure([{"pixel_values": image} for image in images[:8]], repeats=1)) == {"gates"}
    assert SideNetRunner(uncut, routing=routing, thresholds=1.0).chosen == "gates"


class Fails(Stages):
    """As a kernel that is not there for some batches."""

    def __call__(self, index, hidden, inputs):
        if index == 1:
            raise RuntimeError("no kernel")
        return super().__call__(index, hidden, inputs)


def test_a_way_that_fails_is_not_measured_and_says_why(caplog):
    torch.manual_seed(0)
    model = bert_with_sidenets()
    stages = Stages(model)
    broken = Fails.__new__(Fails)
    broken.__dict__.update(stages.__dict__)
    makers = {
        "broken": lambda: PoolingEngine(broken, pool_size=2),
        "pooled": lambda: PoolingEngine(stages, pool_size=2),
        "gates": lambda: WholeEngine(stages, by_gates(model)),
    }
    batches = [[text_row(place, 3 + place, (1.0, 1.0)) for place in range(4)]]
    with caplog.at_level(logging.WARNING):
        assert set(measure_routings(makers, batches, repeats=1)) == {"pooled", "gates"}
    assert "Routing 'broken' is left out, because 4 of 4 rows fail: row " in caplog.text
    assert "no kernel" in caplog.text
