# SPDX-License-Identifier: Apache-2.0
"""Every mistake a caller can make gets an error that names it."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from hf_sidenet.models import (
    BertWithSideNetForSequenceClassification,
    DistilBertWithSideNetForSequenceClassification,
    SideNetForSequenceClassification,
)
from hf_sidenet.models.gate import install

from . import tiny
from .compiling import another_thread_compiles


@pytest.mark.parametrize("exit_layers", [[], [3, 1], [-1], [4], [5], "1"])
def test_exit_layers(exit_layers):
    with pytest.raises(ValueError, match="`exit_layers` must be a list of block counts"):
        BertWithSideNetForSequenceClassification.from_mainnet(tiny.bert(), exit_layers=exit_layers)


@pytest.mark.parametrize(
    "thresholds", [math.nan, -0.5, [0.5], [0.5, 0.5, 0.5], torch.tensor([0.5, 0.5]), "0.5", torch.full((3, 2), 0.5)]
)
def test_thresholds(thresholds):
    model = tiny.bert_with_sidenets()
    with pytest.raises(ValueError, match="`thresholds`"):
        model(**tiny.texts(4), thresholds=thresholds)


def test_values_set_on_the_config_are_checked_at_once():
    model = tiny.bert_with_sidenets()
    for name, value, message in (
        ("thresholds", [0.5, "high"], "got 'high'"),
        ("thresholds", torch.ones(4, 2), "`thresholds` of a config must be a number or one per SideNet"),
        ("temperatures", [1.0], "`temperatures` must have 3 values"),
        ("alpha", -1, "`alpha` must be finite and ≥ 0"),
        ("pooling", 5, "`pooling` must be a name or one per SideNet, got 5"),
        ("exit_layers", [9], "this MainNet has 4 blocks"),
    ):
        with pytest.raises(ValueError, match=message):
            setattr(model.config, name, value)
    model.config.thresholds, model.config.temperatures, model.config.alpha = 0.5, 2.0, 0.5
    assert model.config.temperatures == [2.0, 2.0, 2.0]
    assert model(**tiny.texts(), labels=torch.tensor([0, 1, 2, 0])).loss.isfinite()
    model.add_exits([2])
    assert model.config.thresholds == [0.5, 1.0, 0.5]


def test_labels():
    model = tiny.bert_with_sidenets()
    with pytest.raises(ValueError, match=r"`labels` must be in \[0, 3\) or -100, got 3"):
        model(**tiny.texts(2), labels=torch.tensor([0, 3]))
    assert model(**tiny.texts(2), labels=torch.tensor([0, -100])).loss.isfinite()


@pytest.mark.parametrize("wrong", [{"labels": torch.tensor([0, 3])}, {"thresholds": torch.full((2, 2), math.nan)}])
def test_values_are_checked_while_another_thread_compiles(wrong):
    model = tiny.bert_with_sidenets()
    with another_thread_compiles(), pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must"):
        model(**tiny.texts(2), **wrong)


def test_flatten_with_another_image_size():
    model = tiny.resnet_with_sidenet(pooling="flatten")
    assert model(**tiny.images(2)).logits.shape == (2, 3)
    message = r"images of the recorded size only \(`config.input_size`, 512 features\), got 2048"
    with pytest.raises(ValueError, match=message):
        model(**tiny.images(2, size=64))


def test_pooling_that_does_not_fit():
    with pytest.raises(ValueError, match="texts differ"):
        tiny.bert_with_sidenets(pooling="flatten")
    with pytest.raises(ValueError, match="does not fit a feature map"):
        tiny.resnet_with_sidenet(pooling="mean")


def test_a_row_with_broken_numbers_does_not_leave():
    model = tiny.bert_with_sidenets()
    inputs = {"inputs_embeds": torch.randn(3, 5, 32)}
    inputs["inputs_embeds"][1] = math.nan
    output = model(**inputs, thresholds=0.0)
    assert output.exit_index.tolist() == [0, 2, 0]
    assert output.exit_logits[1].isnan().all()
    assert not output.exit_logits[[0, 2], 0].isnan().any()


def test_hidden_states_need_exits_off():
    model = tiny.bert_with_sidenets()
    for name in ("output_hidden_states", "output_attentions"):
        with pytest.raises(ValueError, match=f"`{name}=True` needs exits off"):
            model(**tiny.texts(), thresholds=[1.0, 0.9], **{name: True})
    output = model(**tiny.texts(), thresholds=1.0, output_hidden_states=True)
    assert len(output.hidden_states) == 5
    with pytest.raises(ValueError, match="is not available in training when a frozen MainNet stops"):
        model.train()(**tiny.texts(), output_hidden_states=True)


def test_inputs_the_mainnet_does_not_take():
    model = tiny.resnet_with_sidenet()
    with pytest.raises(ValueError, match="ResNetForImageClassification does not take `interpolate_pos_encoding`"):
        model(**tiny.images(), interpolate_pos_encoding=True)
    config = DistilBertConfig(dim=32, n_layers=4, n_heads=2, hidden_dim=64, vocab_size=99)
    mainnet = DistilBertForSequenceClassification(config)
    distilbert = SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1])
    with pytest.raises(ValueError, match="does not take `token_type_ids`: the tokenizer returns it for other models"):
        distilbert(**tiny.texts(), token_type_ids=torch.zeros(4, 9, dtype=torch.long))
    with pytest.raises(ValueError, match="needs `pixel_values`, got none"):
        model()
    with pytest.raises(ValueError, match=r"needs `input_ids` or `inputs_embeds`, got \['attention_mask'\]"):
        tiny.bert_with_sidenets()(attention_mask=torch.ones(2, 3))


def test_a_mask_that_mean_pooling_cannot_read():
    model = tiny.bert_with_sidenets()
    with pytest.raises(ValueError, match=r"`attention_mask` must have shape \(batch, sequence\)"):
        model(**tiny.texts(2), attention_mask=torch.ones(2, 1, 9, 9, dtype=torch.bool))


def test_the_wrong_kind_of_mainnet():
    message = "needs a MainNet of type 'distilbert', got 'bert'. SideNetForSequenceClassification takes any"
    with pytest.raises(ValueError, match=message):
        DistilBertWithSideNetForSequenceClassification.from_mainnet(tiny.bert(), exit_layers=[1])


def test_a_plain_checkpoint_does_not_load_as_random_weights(tmp_path):
    tiny.bert().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"plain 'bert' model without SideNets.*from_mainnet"):
        BertWithSideNetForSequenceClassification.from_pretrained(tmp_path)
    config = tiny.bert_with_sidenets().config
    with pytest.raises(ValueError, match=r"has no weights for \['sidenets.0.*from_mainnet"):
        BertWithSideNetForSequenceClassification.from_pretrained(tmp_path, config=config)


def test_missing_sidenet_weights(tmp_path):
    tiny.bert_with_sidenets().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("sidenets.1")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has no weights for \['sidenets.1"):
        BertWithSideNetForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("exit_layers", [1, 2, 3]), ("exit_layers", [2, 3]), ("pooling", ["cls", "cls"]), ("sidenet_hidden_size", 8)],
)
def test_what_the_weights_fix_cannot_be_changed_at_loading(name, value, tmp_path):
    tiny.bert_with_sidenets().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"`{name}` must match the checkpoint's weights.*add_exits"):
        BertWithSideNetForSequenceClassification.from_pretrained(tmp_path, **{name: value})


def test_misspelled_names_at_loading(tmp_path):
    tiny.bert_with_sidenets().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Did you mean `thresholds`"):
        BertWithSideNetForSequenceClassification.from_pretrained(tmp_path, threshold=0.5)


def test_things_that_are_no_mainnet():
    with pytest.raises(ValueError, match=r"`example_inputs` must be a batch of the network's inputs"):
        SideNetForSequenceClassification.from_mainnet(torch.nn.Linear(2, 2), exit_layers=[1])
    with pytest.raises(ValueError, match=r"a folder, a Hub id, a PreTrainedModel or an nn\.Module, got 'int'"):
        SideNetForSequenceClassification.from_mainnet(2, exit_layers=[1])
    with pytest.raises(ValueError, match="'model_type' that transformers knows, got 'sidenet'"):
        SideNetForSequenceClassification.from_mainnet(tiny.bert_with_sidenets(), exit_layers=[1])


def test_a_frozen_mainnet_with_a_new_head_at_loading(tmp_path):
    tiny.bert_with_sidenets().save_pretrained(tmp_path)
    from_pretrained = BertWithSideNetForSequenceClassification.from_pretrained
    with pytest.raises(ValueError, match="a frozen MainNet would never train them"):
        from_pretrained(tmp_path, num_labels=4, ignore_mismatched_sizes=True)


def test_gates_on_other_blocks():
    mainnet = tiny.bert()
    model = SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1])
    with pytest.raises(ValueError, match="must match the places at which this MainNet is already split"):
        install(mainnet, dataclasses.replace(model.layout, gates=model.layout.gates[1:]))
    mainnet.other = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    with pytest.raises(ValueError, match=r"`blocks` must name modules that run, but of \['other.0', 'other.1'\] none"):
        SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1], blocks="other")


def test_an_earlier_checkpoint_with_other_blocks(tmp_path):
    tiny.bert_with_sidenets().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps({**fields, "layout": None, "block_shapes": [[31]] * len(fields["block_shapes"])}))
    with pytest.raises(ValueError, match=r"made by an earlier version .* shapes \[\[31\].*; now they are \[\[32\]"):
        BertWithSideNetForSequenceClassification.from_pretrained(tmp_path)


def test_unknown_arguments_of_from_mainnet(tmp_path):
    mainnet = tiny.bert()
    mainnet.save_pretrained(tmp_path)
    from_mainnet = BertWithSideNetForSequenceClassification.from_mainnet
    with pytest.raises(ValueError, match=r"got \['bar', 'foo'\]: neither"):
        from_mainnet(tmp_path, exit_layers=[1], foo=1, bar=2)
    with pytest.raises(ValueError, match=r"got \['hidden_dropout_prob'\]: neither"):
        from_mainnet(tmp_path, exit_layers=[1], config=mainnet.config, hidden_dropout_prob=0.3)
    with pytest.raises(ValueError, match="Did you mean `thresholds`"):
        from_mainnet(tmp_path, exit_layers=[1], threshold=0.5)
    with pytest.raises(ValueError, match=r"takes \['dtype'\] only with a checkpoint name"):
        from_mainnet(mainnet, exit_layers=[1], dtype="bfloat16")
    with pytest.raises(ValueError, match="`block_shapes` must not be passed"):
        from_mainnet(mainnet, exit_layers=[1], block_shapes=[[1]])


def test_a_frozen_mainnet_must_have_all_its_weights(tmp_path):
    BertModel(tiny.bert().config).save_pretrained(tmp_path)
    from_mainnet = BertWithSideNetForSequenceClassification.from_mainnet
    with pytest.raises(ValueError, match=r"no weights for \['classifier.bias', 'classifier.weight'\].*never"):
        from_mainnet(tmp_path, exit_layers=[1])
    for mode in ("body", "none"):
        assert from_mainnet(tmp_path, exit_layers=[1], freeze_mainnet=mode).config.freeze_mainnet == mode


def test_an_mlp_head_must_learn():
    with pytest.raises(ValueError, match="gives the MainNet a new head, which must be trained"):
        tiny.bert_with_sidenets(mainnet_head="mlp")


def test_add_exits():
    model = tiny.bert_with_sidenets([1])
    with pytest.raises(ValueError, match=r"must name new places, at least one; got \[1\] again"):
        model.add_exits([1, 2])
    with pytest.raises(ValueError, match="this MainNet has 4 blocks"):
        model.add_exits([4])
    with pytest.raises(ValueError, match="does not fit a sequence of tokens"):
        model.add_exits([2], pooling="gap")
    assert model.config.exit_layers == [1]
    assert model(**tiny.texts(2)).exit_logits.shape == (2, 2, 3)
    with pytest.raises(ValueError, match="`freeze_mainnet` must be one of"):
        model.set_freeze_mainnet("head")
    assert model.config.freeze_mainnet == "all"


def test_the_generic_class_takes_any_mainnet():
    model = SideNetForSequenceClassification.from_mainnet(tiny.bert(), exit_layers=[1])
    assert model(**tiny.texts(2)).logits.shape == (2, 3)
