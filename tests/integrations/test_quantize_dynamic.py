# SPDX-License-Identifier: Apache-2.0
"""torch's own dynamic quantization of linear layers, and layers whose weights are packed integers (bitsandbytes)."""

import copy

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic
from transformers import BitsAndBytesConfig, TorchAoConfig

from hf_sidenet import SideNetRunner
from hf_sidenet.export import export_torch
from hf_sidenet.inference.precision import precision_of
from hf_sidenet.models.mainnet import spare_sidenets

from ..models import tiny


# torch says that its successor is torchao.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TEXTS = tiny.texts(12)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return tiny.bert_with_sidenets()


def assert_rows_leave(model, plain):
    with torch.no_grad():
        full, expected = (each(**TEXTS, thresholds=1.0).exit_logits for each in (model, plain))
        output = model(**TEXTS, thresholds=0.6)
    assert 0 < (full - expected).abs().max() < 0.3 * expected.abs().max()
    rows = [{"input_ids": ids} for ids in TEXTS["input_ids"]]
    answers = list(SideNetRunner(model, batch_size=12, thresholds=0.6).predict(rows))
    assert [each.error for each in answers] == [None] * 12
    assert [each.exit_index for each in answers] == output.exit_index.tolist()


def test_sidenets_are_spared(model):
    quantized = quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    kinds = {type(module).__module__ for module in quantized.mainnet.modules()}
    assert any(kind.startswith("torch.ao.nn.quantized.dynamic") for kind in kinds)
    for name, value in model.sidenets.state_dict().items():
        assert torch.equal(quantized.sidenets.state_dict()[name], value)
    assert_rows_leave(quantized, model)


def test_sidenets_that_are_quantized_all_the_same(model):
    names = {f"sidenets.{i}.{part}" for i in range(2) for part in ("dense", "out_proj")}
    quantized = quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    for name in names:
        layer = quantized.get_submodule(name)
        plain = nn.Linear(layer.in_features, layer.out_features)
        plain.load_state_dict(layer.state_dict())
        quantized.set_submodule(name, quantize_dynamic(nn.Sequential(plain), {nn.Linear}, dtype=torch.qint8)[0])
    assert_rows_leave(quantized, model)


def test_it_is_never_taken_for_float32(model, tmp_path):
    quantized = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert precision_of(quantized) == "DynamicQuantizedLinear+float32 (torch)"
    with pytest.raises(ValueError, match="`model` must not be quantized for an export"):
        export_torch(quantized, tmp_path / "out")


class Packed(nn.Module):
    """As bitsandbytes keeps weights: as bytes, which say nothing of the numbers that go in."""

    def __init__(self, layer):
        super().__init__()
        self.scale = layer.weight.detach().abs().max() / 127
        self.weight = nn.Parameter((layer.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias, self.in_features = layer.bias, layer.in_features

    def forward(self, features):
        assert features.is_floating_point()
        return nn.functional.linear(features, self.weight * self.scale, self.bias)


def test_features_are_cast_to_floating_numbers(model):
    packed = copy.deepcopy(model)
    for sidenet in packed.sidenets:
        sidenet.dense = Packed(sidenet.dense)
    assert_rows_leave(packed, model)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda spared: BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=spared), "llm_int8_skip_modules"),
        (lambda spared: TorchAoConfig(int8(), modules_to_not_convert=spared), "modules_to_not_convert"),
    ],
    ids=["bitsandbytes", "torchao"],
)
def test_sidenets_are_spared_unless_a_config_lists_what_is(make, field):
    given = make(None)
    assert getattr(spare_sidenets(given), field) == ["sidenets"]
    assert getattr(given, field) is None
    assert getattr(spare_sidenets(given.to_dict()), field) == ["sidenets"]
    assert getattr(spare_sidenets(make(["classifier"])), field) == ["classifier"]
    assert spare_sidenets(None) is None


def int8():
    return pytest.importorskip("torchao.quantization").Int8WeightOnlyConfig(version=2)
