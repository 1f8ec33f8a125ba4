# SPDX-License-Identifier: Apache-2.0
"""Whatever a MainNet takes with one entry per row passes through, and nothing else does."""

import inspect

import pytest
import torch
import transformers
from transformers import (
    ErnieConfig,
    ErnieForSequenceClassification,
    LukeConfig,
    LukeForSequenceClassification,
    RoCBertConfig,
    RoCBertForSequenceClassification,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from hf_sidenet.models import SideNetForImageClassification, SideNetForSequenceClassification
from hf_sidenet.models.modalities import IMAGE, TEXT
from hf_sidenet.models.row_inputs import NOT_ROWS, OTHER_INPUTS, SWITCHES, TOKEN_INPUTS, follows_tokens

from . import test_modeling_decoders, test_modeling_layoutlm, tiny
from .naive import choose, every_exit, spread_out, without_hooks


SIZES = {
    **tiny.TEXT,
    "num_labels": 3,
    # So that every input matters as much as the words.
    "initializer_range": 0.2,
}
# What LayoutLMv2 calls its picture is a frequent column of data sets: Trainer must go on to drop it elsewhere, and
# LayoutLMv2 cannot take SideNets. The shapes of images are those of images only.
NOT_ARGUMENTS = {"image", "spatial_shapes"}


def taken_by(names):
    """What the classifiers of the installed transformers take, by their names."""
    found = {}
    for value in names.values():
        for name in (value,) if isinstance(value, str) else value:
            for each in list(inspect.signature(getattr(transformers, name).forward).parameters.values())[1:]:
                if each.kind is not each.VAR_KEYWORD:
                    found.setdefault(each.name, name)
    return found


@pytest.mark.parametrize(
    ("model_class", "modality", "names"),
    [
        (SideNetForSequenceClassification, TEXT, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
        (SideNetForImageClassification, IMAGE, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES),
    ],
)
def test_trainer_keeps_every_input_that_a_classifier_takes(model_class, modality, names):
    own = set(inspect.signature(model_class.forward).parameters)
    taken = taken_by(names)
    # Text-only arguments of the few image classifiers that read token ids instead of pixels.
    texts = set(TEXT.usual_inputs) - {"attention_mask"} if modality is IMAGE else set()
    missing = {name: kind for name, kind in taken.items() if name not in own | NOT_ROWS | NOT_ARGUMENTS | texts}
    assert missing == {}
    if modality is TEXT:
        assert (set(TOKEN_INPUTS) | set(OTHER_INPUTS)) - NOT_ARGUMENTS <= own
    assert (NOT_ROWS - {"labels", "output_attentions", "output_hidden_states", "return_dict"}) & own == set()
    assert not NOT_ROWS & (set(TOKEN_INPUTS) | set(OTHER_INPUTS) | SWITCHES)


def ernie():
    config = ErnieConfig(**SIZES, use_task_id=True, task_type_vocab_size=5)
    return ErnieForSequenceClassification(config), {"task_type_ids": 5}


def roc_bert():
    config = RoCBertConfig(
        **SIZES, pronunciation_vocab_size=20, shape_vocab_size=30, pronunciation_embed_dim=8, shape_embed_dim=8
    )
    return RoCBertForSequenceClassification(config), {"input_pronunciation_ids": 20, "input_shape_ids": 30}


def luke():
    return LukeForSequenceClassification(LukeConfig(**SIZES, entity_vocab_size=20, entity_emb_size=8)), {}


def inputs_of(limits, batch_size=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(12) < torch.randint(3, 13, (batch_size, 1), generator=generator)).long()
    inputs = {"input_ids": torch.randint(3, 99, mask.shape, generator=generator) * mask, "attention_mask": mask}
    for name, limit in limits.items():
        inputs[name] = torch.randint(limit, mask.shape, generator=generator) * mask
    return inputs


def entities(batch_size=9):
    """Three entities per row, the last of which is padding in every other row."""
    mask = torch.ones(batch_size, 3, dtype=torch.long)
    mask[::2, 2] = 0
    positions = torch.tensor([[1, 2, -1], [0, -1, -1], [2, -1, -1]]).expand(batch_size, 3, 3)
    ids = torch.randint(1, 20, (batch_size, 3), generator=torch.Generator().manual_seed(3))
    return {
        "entity_ids": ids,
        "entity_attention_mask": mask,
        "entity_token_type_ids": torch.zeros_like(mask),
        "entity_position_ids": positions,
    }


def with_sidenets(mainnet, inputs, exit_layers=(1, 3)):
    model = SideNetForSequenceClassification.from_mainnet(mainnet.eval(), exit_layers=list(exit_layers))
    torch.manual_seed(2)
    return spread_out(model, inputs)


@pytest.mark.parametrize("build", [ernie, roc_bert, luke])
def test_answers_are_those_of_the_plain_mainnet_and_every_input_counts(build):
    torch.manual_seed(1)
    mainnet, limits = build()
    inputs = {**inputs_of(limits), **(entities() if build is luke else {})}
    model = with_sidenets(mainnet, inputs)
    with torch.no_grad():
        expected = without_hooks(mainnet)(**inputs).logits
        assert torch.equal(model(**inputs, thresholds=1.0).logits, expected)
        for name in limits or ["entity_ids"]:
            other = {**inputs, name: (inputs[name] + 1) % limits.get(name, 20)}
            assert not torch.allclose(model(**other, thresholds=1.0).logits, expected, atol=1e-3), name


@pytest.mark.parametrize("exit_layers", [(1, 3), (0, 2)])
@pytest.mark.parametrize("build", [ernie, roc_bert, luke])
def test_routed_rows_get_the_answers_of_running_every_exit(build, exit_layers):
    torch.manual_seed(1)
    mainnet, limits = build()
    inputs = inputs_of(limits)
    model = with_sidenets(mainnet, inputs, exit_layers)
    full = every_exit(model, inputs)
    thresholds = full[:, :-1].softmax(-1).amax(-1).quantile(0.6, dim=0).tolist()
    exit_index, logits, ties = choose(full, thresholds)
    assert not ties.any()
    assert set(exit_index.tolist()) == {0, 1, 2}
    with torch.no_grad():
        output = model(**inputs, thresholds=thresholds)
    assert output.exit_index.tolist() == exit_index.tolist()
    torch.testing.assert_close(output.logits, logits, rtol=0, atol=1e-5 * logits.abs().max().item())


def test_rows_that_stay_before_the_first_block_keep_their_own_inputs():
    """Entities and boxes are cut like token ids; positions that all rows share stay, even of another form."""
    torch.manual_seed(1)
    mainnet, _ = luke()
    inputs = {**inputs_of({}), **entities()}
    model = with_sidenets(mainnet, inputs, [0])
    full = model(**inputs, thresholds=1.0).exit_logits
    theta = full[:, 0].softmax(-1).amax(-1).median().item()
    shared = {"position_ids": torch.arange(2, 14)}
    for more in ({}, shared, {"position_ids": shared["position_ids"][None]}):
        with torch.no_grad():
            expected = model(**inputs, **more, thresholds=1.0).logits
            output = model(**inputs, **more, thresholds=theta)
        stays = output.exit_index == 1
        assert 0 < stays.sum() < 9
        torch.testing.assert_close(output.logits[stays], expected[stays], rtol=0, atol=1e-5)
    wrong = {**inputs, "entity_ids": inputs["entity_ids"][:4]}
    with pytest.raises(
        ValueError, match=r"`entity_ids` must have one entry per row, 9, or one for all rows.*\(4, 3\)"
    ):
        model(**wrong, thresholds=theta)


def test_what_the_mainnet_does_not_take_is_refused():
    model = tiny.bert_with_sidenets()
    boxes = torch.zeros(4, 9, 4, dtype=torch.long)
    for name in ("bbox", "task_type_ids", "of_another_kind"):
        with pytest.raises(ValueError, match=f"BertForSequenceClassification does not take `{name}`: remove it from"):
            model(**tiny.texts(), **{name: boxes})
    # BERT's own `**kwargs` would swallow it.
    with pytest.raises(ValueError, match="does not take `kwargs`"):
        model(**tiny.texts(), kwargs=boxes)
    with pytest.raises(ValueError, match="does not take `special_tokens_mask`: the tokenizer returns it"):
        model(**tiny.texts(), special_tokens_mask=torch.zeros(4, 9))
    with pytest.raises(ValueError, match="ResNetForImageClassification does not take `pixel_mask`"):
        tiny.resnet_with_sidenet()(**tiny.images(), pixel_mask=torch.ones(4, 32, 32))
    assert model(**tiny.texts(), bbox=None).logits.shape == (4, 3)


def test_a_cache_is_no_input_of_the_rows():
    gpt2 = test_modeling_decoders.TestGPT2()
    model = gpt2.model()
    names = NOT_ROWS & model.mainnet_inputs - set(inspect.signature(model.forward).parameters)
    assert "use_cache" in names
    for name in names:
        with pytest.raises(ValueError, match=f"`{name}` must not be given: it is no input of the rows"):
            model(**gpt2.inputs(2), **{name: True})


def test_inputs_in_order():
    model = test_modeling_layoutlm.TestLayoutLM().model()
    assert TEXT.row_inputs(model.mainnet_inputs) == (*TEXT.usual_inputs, "bbox")
    assert TEXT.row_inputs(["labels", "later", "use_cache", "input_ids"]) == ("input_ids", "later")
    assert IMAGE.row_inputs(["interpolate_pos_encoding", "pixel_values"]) == ("pixel_values",)


@pytest.mark.parametrize(
    ("name", "shape", "length", "expected"),
    [
        ("bbox", (7, 4), 7, True),
        # Known by name, so that a wrong length is found.
        ("bbox", (1, 4), 7, True),
        ("entity_ids", (7,), 7, False),
        ("unheard_of", (7, 2), 7, True),
        ("unheard_of", (6,), 7, False),
        ("lang_ids", (), 7, False),
        ("attention_mask", (5,), 0, False),
    ],
)
def test_what_follows_the_tokens(name, shape, length, expected):
    assert follows_tokens(name, shape, length) == expected
