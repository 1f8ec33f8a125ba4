# SPDX-License-Identifier: Apache-2.0
"""LoRA of peft in the MainNet, with the SideNets as modules that are trained and saved whole."""

import math

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import TorchAoConfig

from hf_sidenet import (
    BertWithSideNetForSequenceClassification,
    ResNetWithSideNetForImageClassification,
    SideNetRunner,
    compute_exit_metrics,
)
from hf_sidenet.measurement import collect

from ..models import tiny
from .cases import check_rows_leave, every_exit_of, labeled, middle_threshold, trainer_of


peft = pytest.importorskip("peft")

TEXTS = tiny.texts(24)


def lora(model, *targets, **kwargs):
    names = [f"sidenets.{i}" for i in range(len(model.sidenets))]
    config = peft.LoraConfig(target_modules=list(targets), modules_to_save=names, r=4, lora_dropout=0.1, **kwargs)
    return peft.get_peft_model(model, config)


def load(folder):
    return BertWithSideNetForSequenceClassification.from_pretrained(folder).eval()


def loaded_weights(peft_model):
    """Weights under the names that they had before peft."""
    renamed = {}
    for name, value in peft_model.state_dict().items():
        for wrapper in ("base_model.model.", ".base_layer", ".original_module"):
            name = name.replace(wrapper, "")
        renamed[name] = value
    return renamed


@pytest.fixture(scope="module", params=[None, "SEQ_CLS"], ids=["no task", "SEQ_CLS"])
def trained(request, tmp_path_factory):
    """(checkpoint before, its adapted model, the trainer) after two epochs."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("peft")
    tiny.bert_with_sidenets(freeze_mainnet="none").save_pretrained(folder / "base")
    model = lora(load(folder / "base"), "query", "value", task_type=request.param)
    trainer = trainer_of(
        model,
        folder / "trainer",
        labeled(TEXTS),
        eval_strategy="epoch",
        compute_metrics=compute_exit_metrics(model, thresholds=0.5),
    )
    trainer.train()
    return folder / "base", model.eval(), trainer


def test_lora_and_sidenets_learn_and_nothing_else(trained):
    base, model, trainer = trained
    before, after = load(base).state_dict(), model.state_dict()
    now = loaded_weights(model)
    assert before.keys() <= now.keys()
    for name, value in before.items():
        assert torch.equal(now[name], value), name
    # B starts at zero: it moves only where gradients reach.
    assert sum("lora_B" in name for name in after) == 8
    assert all(value.any() for name, value in after.items() if "lora_B" in name)
    for name, value in load(base).sidenets.named_parameters():
        index, _, rest = name.partition(".")
        assert not torch.equal(after[f"base_model.model.sidenets.{index}.modules_to_save.default.{rest}"], value), name
    classifier = "base_model.model.mainnet.classifier.modules_to_save.default.weight"
    assert (classifier in after) == (model.peft_config["default"].task_type == "SEQ_CLS")
    losses = [entry[key] for entry in trainer.state.log_history for key in ("loss", "eval_loss") if key in entry]
    assert len(losses) == 8
    assert all(map(math.isfinite, losses))


def test_the_trainer_evaluates_every_exit(trained):
    _, model, trainer = trained
    metrics = trainer.evaluate()
    with torch.no_grad():
        shares = torch.bincount(model(**TEXTS, thresholds=0.5).exit_index, minlength=3) / 24
    assert [metrics[f"eval_exit_{i}_share"] for i in range(3)] == pytest.approx(shares.tolist())
    records = collect(model, DataLoader(labeled(TEXTS), 8), progress=False)
    torch.testing.assert_close(records.exit_logits, every_exit_of(model, TEXTS), rtol=0, atol=1e-5)


def test_an_adapter_gives_back_every_answer(trained, tmp_path):
    base, model, _ = trained
    model.save_pretrained(tmp_path)
    written = {path.name for path in tmp_path.iterdir() if path.suffix != ".md"}
    assert written == {"adapter_config.json", "adapter_model.safetensors"}
    theta = middle_threshold(model, TEXTS)
    mine = check_rows_leave(model, model.base_model.model, TEXTS, theta, atol=1e-5)
    # On the checkpoint, and on the same MainNet with new SideNets: the adapter carries its own.
    again = BertWithSideNetForSequenceClassification.from_mainnet(
        load(base).mainnet, exit_layers=[1, 3], freeze_mainnet="none"
    )
    for below in (load(base), again):
        assert not torch.equal(every_exit_of(below, TEXTS), every_exit_of(model, TEXTS))
        loaded = peft.PeftModel.from_pretrained(below, tmp_path).eval()
        assert torch.equal(every_exit_of(loaded, TEXTS), every_exit_of(model, TEXTS))
        with torch.no_grad():
            theirs = loaded(**TEXTS, thresholds=theta)
        assert torch.equal(theirs.logits, mine.logits)
        assert torch.equal(theirs.exit_index, mine.exit_index)
    # transformers itself loads the checkpoint that an adapter names, and puts it on.
    for freeze in ("none", "all"):
        whole = BertWithSideNetForSequenceClassification.from_pretrained(tmp_path, freeze_mainnet=freeze).eval()
        assert torch.equal(every_exit_of(whole, TEXTS), every_exit_of(model, TEXTS))
    with model.disable_adapter():
        assert torch.equal(every_exit_of(model, TEXTS), every_exit_of(load(base), TEXTS))


def test_a_merged_model_is_a_checkpoint_as_any_other(trained, tmp_path):
    base, model, _ = trained
    model.save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(load(base), tmp_path / "adapter")
    merged = loaded.merge_and_unload().eval()
    assert type(merged) is BertWithSideNetForSequenceClassification
    assert merged.state_dict().keys() == load(base).state_dict().keys()
    torch.testing.assert_close(every_exit_of(merged, TEXTS), every_exit_of(model, TEXTS), rtol=0, atol=1e-4)
    theta = middle_threshold(merged, TEXTS)
    out = check_rows_leave(merged, merged, TEXTS, theta, atol=1e-5)
    merged.set_freeze_mainnet("all")
    merged.config.thresholds = [theta, 1.0]
    merged.save_pretrained(tmp_path / "merged")
    again = load(tmp_path / "merged")
    assert not any(parameter.requires_grad for parameter in again.mainnet.parameters())
    with torch.no_grad():
        theirs = again(**TEXTS)
    expected = merged(**TEXTS)
    assert torch.equal(theirs.logits, expected.logits)
    assert torch.equal(theirs.exit_index, expected.exit_index)
    rows = [{"input_ids": ids} for ids in TEXTS["input_ids"]]
    answers = list(SideNetRunner(again, batch_size=8, thresholds=theta).predict(rows))
    assert [answer.exit_index for answer in answers] == out.exit_index.tolist()


def test_a_convolutional_mainnet_keeps_its_batch_norm(tmp_path):
    images = tiny.images(16)
    tiny.resnet_with_sidenet(freeze_mainnet="body").save_pretrained(tmp_path / "base")
    kind = ResNetWithSideNetForImageClassification
    model = lora(kind.from_pretrained(tmp_path / "base"), "convolution")
    trainer_of(model, tmp_path / "trainer", labeled(images)).train()
    model.eval().save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(kind.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    assert all(value.any() for name, value in model.state_dict().items() if "lora_B" in name)
    assert torch.equal(every_exit_of(loaded, images), every_exit_of(model, images))
    check_rows_leave(loaded, loaded.base_model.model, images, middle_threshold(loaded, images), atol=1e-5)


def test_lora_on_a_mainnet_that_torchao_quantized(trained, tmp_path):
    quantization = pytest.importorskip("torchao.quantization")
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig(version=2), modules_to_not_convert=["sidenets"])

    def quantized():
        return BertWithSideNetForSequenceClassification.from_pretrained(trained[0], quantization_config=config)

    model = lora(quantized(), "query", "value")
    trainer_of(model, tmp_path / "trainer", labeled(TEXTS)).train()
    assert all(value.any() for name, value in model.state_dict().items() if "lora_B" in name)
    model.eval().save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(quantized(), tmp_path / "adapter").eval()
    assert torch.equal(every_exit_of(loaded, TEXTS), every_exit_of(model, TEXTS))
    check_rows_leave(loaded, loaded.base_model.model, TEXTS, middle_threshold(loaded, TEXTS), atol=1e-5)


def test_a_frozen_mainnet_and_lora_do_not_go_together():
    model = lora(tiny.bert_with_sidenets(freeze_mainnet="all"), "query").train()
    with pytest.raises(ValueError, match=r"'all'` computes no gradients in the MainNet, but its parameter '.*lora_A"):
        model(**TEXTS, labels=torch.zeros(24, dtype=torch.long))
    every_exit_of(model.train(), TEXTS)
    with pytest.raises(
        ValueError, match=r"`freeze_mainnet` must be set before adding adapters, .* got 'none' after \['def"
    ):
        model.base_model.model.set_freeze_mainnet("none")
    model.merge_and_unload().set_freeze_mainnet("none")


def test_a_mainnet_with_adapters_is_refused_until_they_are_merged():
    mainnet = peft.get_peft_model(tiny.bert(), peft.LoraConfig(target_modules=["query"]))
    attach = BertWithSideNetForSequenceClassification.from_mainnet
    with pytest.raises(ValueError, match=r"`mainnet` must be .* a PreTrainedModel or an nn.Module, got 'PeftModel"):
        attach(mainnet, exit_layers=[1])
    with pytest.raises(ValueError, match=r"must not have adapters, .* got \['default'\]: merge them first"):
        attach(mainnet.base_model.model, exit_layers=[1])
    assert len(attach(mainnet.merge_and_unload(), exit_layers=[1]).sidenets) == 1


def test_what_the_page_says_of_peft():
    with pytest.raises(TypeError, match=r"modules_to_save cannot be applied to modules of type .*ModuleList"):
        peft.get_peft_model(
            tiny.bert_with_sidenets(), peft.LoraConfig(target_modules=["query"], modules_to_save=["sidenets"])
        )
    model = lora(tiny.resnet_with_sidenet(freeze_mainnet="body"), "convolution", task_type="SEQ_CLS")
    # It passes `input_ids=None` and other names of texts along.
    assert model(**tiny.images(2)).logits.shape == (2, 3)
    assert any(p.requires_grad for name, p in model.named_parameters() if "mainnet.classifier" in name)


def test_the_runner_takes_the_merged_model():
    model = lora(tiny.bert_with_sidenets(freeze_mainnet="none"), "query").eval()
    with pytest.raises(
        ValueError, match=r"`model` must be a model with SideNets .* got a PeftModel.*merge_and_unload"
    ):
        SideNetRunner(model)
    SideNetRunner(model.merge_and_unload())
