# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from accelerate import init_empty_weights
from torch.optim.swa_utils import update_bn
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
)
from transformers.utils import logging as transformers_logging

from hf_sidenet.models import (
    BertWithSideNetForSequenceClassification,
    ResNetWithSideNetForImageClassification,
    SideNetConfig,
    SideNetForImageClassification,
    forward,
)
from hf_sidenet.models.modalities import TEXT
from hf_sidenet.models.sidenet import SideNet

from . import tiny
from .prepare import place


def test_from_a_folder_keeps_weights_labels_and_dtype(tmp_path):
    mainnet = tiny.bert(id2label={0: "bad", 1: "so-so", 2: "good"}, problem_type="single_label_classification")
    mainnet.to(torch.bfloat16).save_pretrained(tmp_path)
    model = BertWithSideNetForSequenceClassification.from_mainnet(
        str(tmp_path), exit_layers=[2], attn_implementation="eager", thresholds=0.7
    )
    assert model.config.id2label == {0: "bad", 1: "so-so", 2: "good"}
    assert model.config.problem_type == "single_label_classification"
    assert model.config.thresholds == [0.7]
    assert model.dtype == model.sidenets[0].dense.weight.dtype == torch.bfloat16
    assert model.mainnet.config._attn_implementation == "eager"
    assert model.config.name_or_path == str(tmp_path)
    assert not model.training
    for name, value in mainnet.state_dict().items():
        assert torch.equal(model.mainnet.state_dict()[name], value), name


def test_fields_of_the_mainnets_config_reach_it(tmp_path):
    tiny.bert().save_pretrained(tmp_path)
    model = BertWithSideNetForSequenceClassification.from_mainnet(
        tmp_path, exit_layers=[1], freeze_mainnet="none", num_labels=5, ignore_mismatched_sizes=True,
        hidden_dropout_prob=0.3,
    )  # fmt: skip
    assert model.config.num_labels == model.mainnet.config.num_labels == 5
    assert model(**tiny.texts(2)).logits.shape == (2, 5)
    assert model.mainnet.config.hidden_dropout_prob == 0.3


def test_another_number_of_labels_on_our_checkpoint(tmp_path):
    tiny.bert_with_sidenets().save_pretrained(tmp_path)
    model = BertWithSideNetForSequenceClassification.from_pretrained(
        tmp_path, num_labels=4, ignore_mismatched_sizes=True, freeze_mainnet="none"
    )
    assert model(**tiny.texts(2)).exit_logits.shape == (2, 3, 4)


def test_fields_can_be_set_at_loading(tmp_path):
    tiny.bert_with_sidenets().save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, thresholds=0.3, freeze_mainnet="none", dtype=torch.bfloat16)
    assert model.config.thresholds == [0.3, 0.3]
    assert all(p.requires_grad for p in model.parameters())
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForSequenceClassification])
def test_from_config(auto_class):
    config = SideNetConfig(tiny.bert().config, exit_layers=[1, 2])
    model = auto_class.from_config(config)
    assert type(model) is BertWithSideNetForSequenceClassification
    assert model(**tiny.texts(2)).exit_logits.shape == (2, 3, 3)
    again = auto_class.from_config(model.config)
    assert type(again) is type(model)


def test_from_config_of_an_image_model():
    config = SideNetConfig(tiny.resnet().config, exit_layers=[1], input_size=[3, 32, 32])
    assert type(AutoModel.from_config(config)) is ResNetWithSideNetForImageClassification
    config.architectures = ["SideNetForImageClassification"]
    assert type(AutoModelForImageClassification.from_config(config)) is SideNetForImageClassification


def test_a_model_on_the_meta_device_knows_its_shapes():
    config = SideNetConfig(tiny.resnet().config, exit_layers=[2], input_size=[3, 32, 32], pooling="flatten")
    with torch.device("meta"):
        model = ResNetWithSideNetForImageClassification(config)
    assert model.sidenets[0].dense.weight.is_meta
    assert model.config.block_shapes == [[8, 8, 8], [16, 4, 4], [24, 2, 2]]


def test_the_callers_mainnet_is_wrapped_not_changed():
    mainnet = tiny.bert()
    config, weights = copy.deepcopy(mainnet.config.to_dict()), copy.deepcopy(mainnet.state_dict())
    model = BertWithSideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1])
    assert model.mainnet is mainnet
    assert mainnet.config.to_dict() == config
    assert mainnet.config._attn_implementation == "sdpa"
    for name, value in mainnet.state_dict().items():
        assert torch.equal(value, weights[name])


def test_a_layer_the_caller_put_in_keeps_its_weights():
    mainnet = tiny.bert()
    mainnet.classifier = torch.nn.Linear(32, 3)
    weight = mainnet.classifier.weight.clone()
    model = BertWithSideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1])
    assert torch.equal(model.mainnet.classifier.weight, weight)


def test_mlp_head_is_shaped_like_the_sidenet(tmp_path):
    for model in (
        tiny.bert_with_sidenets(mainnet_head="mlp", freeze_mainnet="body"),
        tiny.resnet_with_sidenet(mainnet_head="mlp", freeze_mainnet="none"),
    ):
        heads = [m for m in model.mainnet.modules() if isinstance(m, SideNet)]
        assert len(heads) == 1
        assert heads[0].dense.out_features == 32
        inputs = tiny.texts(4) if model.modality is TEXT else tiny.images(4)
        model.train()
        assert heads[0].training
        model(**inputs, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        assert heads[0].dense.weight.grad is not None
        model.eval().save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path)
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_frozen_body_keeps_batchnorm_and_dropout_still():
    model = tiny.resnet_with_sidenet(freeze_mainnet="all").train()
    before = copy.deepcopy(model.mainnet.state_dict())
    model(**tiny.images(4), labels=torch.tensor([0, 1, 2, 0]))
    assert all(torch.equal(v, before[k]) for k, v in model.mainnet.state_dict().items())
    model.set_freeze_mainnet("none")
    model(**tiny.images(4), labels=torch.tensor([0, 1, 2, 0]))
    assert not all(torch.equal(v, before[k]) for k, v in model.mainnet.state_dict().items())
    dropping = tiny.bert_with_sidenets().train()
    first, second = (dropping(**tiny.texts()).exit_logits[:, 0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("mode", ["all", "body"])
def test_other_functions_cannot_write_a_frozen_mainnets_statistics(mode):
    """`update_bn` of weight averaging resets every BatchNorm before it runs the model."""
    model = tiny.resnet_with_sidenet(freeze_mainnet=mode)
    before = copy.deepcopy(model.state_dict())
    update_bn([tiny.images(8)["pixel_values"]], model)
    after = model.state_dict()
    moved = {name for name in before if "running" in name and not torch.equal(before[name], after[name])}
    assert moved == {"sidenets.0.norm.running_mean", "sidenets.0.norm.running_var"}
    model.set_freeze_mainnet("none")
    update_bn([tiny.images(8)["pixel_values"]], model)
    after = model.state_dict()
    assert any("mainnet" in name and not torch.equal(before[name], after[name]) for name in before)


def test_without_weights_as_accelerate_builds_it():
    with init_empty_weights():
        model = BertWithSideNetForSequenceClassification(SideNetConfig(tiny.bert().config, exit_layers=[1, 3]))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.config.block_shapes == [[32]] * 3


def test_frozen_distillation_runs_the_tail_without_gradients():
    model = tiny.bert_with_sidenets(distillation_weight=0.5).train()
    output = model(**tiny.texts())
    output.loss.backward()
    assert output.exit_index.tolist() == [2] * 4
    assert all(p.grad is None for p in model.mainnet.parameters())
    assert model.sidenets[0].dense.weight.grad.abs().sum() > 0


def test_an_uncalibrated_model_says_so_once():
    model = tiny.bert_with_sidenets()
    seen = []
    handler = tiny.Collecting(seen)
    transformers_logging.warning_once.cache_clear()
    forward.logger.addHandler(handler)
    try:
        for _ in range(2):
            model(**tiny.texts())
        model(**tiny.texts(), thresholds=1.0)
    finally:
        forward.logger.removeHandler(handler)
    assert len([line for line in seen if "No row will exit early" in line]) == 1


def test_resized_embeddings_are_saved_and_loaded(tmp_path):
    model = tiny.bert_with_sidenets()
    model.resize_token_embeddings(120)
    assert model.config.mainnet_config.vocab_size == 120
    model.save_pretrained(tmp_path)
    again = BertWithSideNetForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**tiny.texts()).logits, model(**tiny.texts()).logits)


def test_a_mask_that_all_rows_share():
    model = tiny.bert_with_sidenets()
    inputs = {**tiny.texts(6), "attention_mask": torch.ones(1, 9)}
    with torch.no_grad():
        first = model(**inputs, thresholds=1.0).exit_logits[:, 0].softmax(-1).amax(-1)
        shared = model(**inputs, thresholds=[first.median().item(), 0.0])
        inputs["attention_mask"] = inputs["attention_mask"].expand(6, 9)
        own = model(**inputs, thresholds=[first.median().item(), 0.0])
    assert torch.equal(shared.exit_index, own.exit_index)
    assert torch.equal(shared.logits, own.logits)


def test_exits_off_by_a_tensor_are_off():
    model = tiny.bert_with_sidenets()
    inputs, labels = tiny.texts(4), torch.tensor([0, 1, 2, 0])
    number, tensor = (model(**inputs, labels=labels, thresholds=t).loss for t in (1.0, torch.ones(4, 2)))
    assert torch.equal(number, tensor)


def test_training_without_labels_says_so():
    model = tiny.bert_with_sidenets().train()
    seen = []
    handler = tiny.Collecting(seen)
    transformers_logging.warning_once.cache_clear()
    forward.logger.addHandler(handler)
    try:
        assert model(**tiny.texts()).loss is None
    finally:
        forward.logger.removeHandler(handler)
    assert "label_smoothing_factor" in seen[0]


def test_a_batch_without_rows_in_training():
    model = tiny.bert_with_sidenets().train()
    output = model(input_ids=torch.zeros(0, 5, dtype=torch.long), labels=torch.zeros(0, dtype=torch.long))
    output.loss.backward()
    assert output.loss.item() == 0
    assert model.sidenets[0].dense.weight.grad.abs().sum() == 0


def test_exit_points_leave_the_modes_alone():
    model = tiny.bert_with_sidenets(freeze_mainnet="none").train()
    model.mainnet.bert.encoder.layer[0].eval()
    modes = [module.training for module in model.modules()]
    model.exit_points()
    assert [module.training for module in model.modules()] == modes


def test_return_dict_false_gives_a_tuple():
    model = tiny.bert_with_sidenets()
    output = model(**tiny.texts(), labels=torch.tensor([0, 1, 2, 0]), return_dict=False)
    assert [t.shape for t in output] == [(), (4, 3), (4,), (4, 3, 3)]


def test_pickle_is_not_read_without_the_users_word(tmp_path):
    mainnet = tiny.bert()
    mainnet.config.save_pretrained(tmp_path)
    torch.save(mainnet.state_dict(), tmp_path / "pytorch_model.bin")
    from_mainnet = BertWithSideNetForSequenceClassification.from_mainnet
    with pytest.raises(OSError, match="safetensors"):
        from_mainnet(tmp_path, exit_layers=[1])
    model = from_mainnet(tmp_path, exit_layers=[1], use_safetensors=False)
    assert torch.equal(model.mainnet.classifier.weight, mainnet.classifier.weight)


def test_sharded_parameters_keep_every_row_and_give_the_same_answers(monkeypatch):
    model = tiny.bert_with_sidenets()
    inputs = tiny.texts(8)
    with torch.no_grad():
        full = model(**inputs, thresholds=1.0).exit_logits[:, :2].softmax(-1).amax(-1)
        for thresholds in (full.quantile(0.6, dim=0).tolist(), 0.0, torch.rand(8, 2)):
            expected = model(**inputs, thresholds=thresholds)
            calls = []
            handle = model.mainnet.bert.encoder.layer[3].register_forward_hook(lambda *a, c=calls: c.append(len(a[2])))
            monkeypatch.setattr(forward, "has_sharded_parameters", lambda module: True)
            output = model(**inputs, thresholds=thresholds)
            monkeypatch.undo()
            handle.remove()
            assert calls == [8]
            assert torch.equal(output.exit_index, expected.exit_index)
            torch.testing.assert_close(output.exit_logits, expected.exit_logits, equal_nan=True, atol=1e-4, rtol=1e-5)


def test_plain_mainnet_class_is_untouched():
    model = tiny.bert_with_sidenets()
    assert type(model.mainnet) is BertForSequenceClassification


def test_a_mainnet_with_a_part_on_disk_is_observed_and_checked(tmp_path):
    mainnet = tiny.bert().eval()
    mainnet.save_pretrained(tmp_path / "mainnet")
    device_map = dict(place(mainnet, {"bert.encoder.layer.1"}))
    model = BertWithSideNetForSequenceClassification.from_mainnet(
        tmp_path / "mainnet", exit_layers=[1], device_map=device_map, offload_folder=tmp_path / "offloaded"
    )
    assert {parameter.device.type for parameter in model.mainnet.parameters()} == {"cpu", "meta"}
    inputs = {"input_ids": torch.randint(3, 99, (4, 6))}
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs, thresholds=1.0).logits, mainnet(**inputs).logits)
