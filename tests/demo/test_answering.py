# SPDX-License-Identifier: Apache-2.0
"""One row at one θ."""

import pytest
import torch
from PIL import Image

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.demo import Answering
from hf_sidenet.inference import RowError

from ..models.naive import every_exit


pytestmark = pytest.mark.medium


TEXT = "a film of great charm , so good"


@pytest.fixture(scope="module")
def model_and_tokenizer(checkpoint):
    return load_checkpoint(checkpoint)


def test_it_says_what_the_exits_say(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    logits = every_exit(model, dict(tokenizer(TEXT, return_tensors="pt")))[0]
    num_sidenets = len(model.config.exit_layers)
    answer = Answering(model, tokenizer)(TEXT, [0.0] * num_sidenets)
    for index, exit in enumerate(answer.exits):
        probabilities = (logits[index] / model.config.temperatures[index]).softmax(-1)
        assert exit.confidence == pytest.approx(probabilities.max().item(), abs=1e-5)
        assert exit.label == model.config.id2label[int(probabilities.argmax())]
    assert [exit.name for exit in answer.exits] == [*(f"SideNet {i}" for i in range(num_sidenets)), "MainNet"]
    assert answer.exits[-1].place == "all 4 blocks"
    assert (answer.exit_index, answer.answered.name) == (0, "SideNet 0")


def test_theta_decides_who_answers(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    answering = Answering(model, tokenizer)
    num_sidenets = len(model.config.exit_layers)
    says = answering(TEXT, [1.0] * num_sidenets)
    assert says.answered.name == "MainNet"
    first = says.exits[0].confidence
    assert answering(TEXT, [first + 1e-4] + [1.0] * (num_sidenets - 1)).exit_index == num_sidenets
    assert answering(TEXT, [first - 1e-4] + [1.0] * (num_sidenets - 1)).exit_index == 0


def test_costs(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    points, layers = model.exit_points(), model.config.exit_layers
    assert Answering(model, tokenizer).flops == [*(points[layer].flops for layer in layers), 1.0]
    given = [0.1 * i for i in range(len(layers) + 1)]
    answer = Answering(model, tokenizer, flops=given)(TEXT, [1.0] * len(layers))
    assert [exit.flops for exit in answer.exits] == given


def test_long_texts_are_cut(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    theta = [1.0] * len(model.config.exit_layers)
    long, cut = (Answering(model, tokenizer, max_length=6)(text, theta) for text in (TEXT, "a film of great"))
    assert long.exits == cut.exits
    assert (long.read_tokens, cut.read_tokens) == (6, None)


def test_pictures(image_checkpoint):
    model, processor = load_checkpoint(image_checkpoint)
    picture = Image.effect_noise((40, 32), 60).convert("RGB")
    logits = every_exit(model, dict(processor(picture, return_tensors="pt")))[0]
    says = Answering(model, processor)(picture, model.config.thresholds).exits
    assert [exit.label for exit in says] == [model.config.id2label[int(each)] for each in logits.argmax(-1)]


def test_what_is_no_row(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    answering = Answering(model, tokenizer)
    with pytest.raises(RowError, match="row 0: "):
        answering(7, model.config.thresholds)
    with pytest.raises(ValueError, match="`thresholds` must contain numbers that are ≥ 0"):
        answering(TEXT, [-1.0] * len(model.config.exit_layers))
    assert torch.is_grad_enabled()
