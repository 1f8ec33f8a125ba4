# SPDX-License-Identifier: Apache-2.0
"""Full-size models with random weights: what is measured, against counts worked out from the shapes of their layers.

The shares of the paper's places: BERT-base after 4 of 12 layers, 47.7 % of the parameters and 33.3 % of the layers;
ResNet-18 and ResNet-50 after stage 1 of 4, 1.4 % and 1.0 % of the parameters, 32.0 % and 19.2 % of the FLOPs. The
ResNets have 10 classes (CIFAR-10's) and a SideNet on the mean of the feature map; their FLOP shares are the same at
224 and at 32 pixels, since 224 / 32 = 7 leaves every ratio of map sizes as it is.
"""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, ResNetConfig, ResNetForImageClassification

from hf_sidenet.measurement import measure_costs
from hf_sidenet.models import BertWithSideNetForSequenceClassification, ResNetWithSideNetForImageClassification


HIDDEN = 32


def sidenet_params(width, labels):
    """Linear, BatchNorm, Linear."""
    return (width * HIDDEN + HIDDEN) + 2 * HIDDEN + (HIDDEN * labels + labels)


def sidenet_flops(width, labels):
    """2 operations per multiply-add."""
    return 2 * (width * HIDDEN + HIDDEN * labels)


# --- BERT-base

WIDTH, INNER, LAYERS, VOCABULARY, POSITIONS, LABELS = 768, 3072, 12, 30522, 512, 2


def bert_layer_params():
    attention = 4 * (WIDTH * WIDTH + WIDTH)
    feed_forward = (WIDTH * INNER + INNER) + (INNER * WIDTH + WIDTH)
    return attention + feed_forward + 2 * 2 * WIDTH


def bert_layer_flops(length):
    projections = 4 * 2 * length * WIDTH * WIDTH
    products = 2 * 2 * length * length * WIDTH
    feed_forward = 2 * 2 * length * WIDTH * INNER
    return projections + products + feed_forward


@pytest.mark.medium
def test_bert_base_after_4_of_12():
    embeddings = (VOCABULARY + POSITIONS + 2) * WIDTH + 2 * WIDTH
    head = (WIDTH * WIDTH + WIDTH) + (WIDTH * LABELS + LABELS)
    mainnet = embeddings + LAYERS * bert_layer_params() + head
    sidenet = sidenet_params(WIDTH, LABELS)
    assert (mainnet, sidenet) == (109_483_778, 24_738)

    model = BertForSequenceClassification(BertConfig())
    model = BertWithSideNetForSequenceClassification.from_mainnet(model, exit_layers=[4])
    length = 6
    costs = measure_costs(model, [{"input_ids": torch.randint(3, 99, (1, length))}], repeats=1, timed_batches=1)

    assert costs.params == [embeddings + 4 * bert_layer_params() + sidenet, mainnet + sidenet]
    assert costs.mainnet_params == mainnet
    head_flops = 2 * WIDTH * WIDTH + 2 * WIDTH * LABELS
    exit_flops = 4 * bert_layer_flops(length) + sidenet_flops(WIDTH, LABELS)
    mainnet_flops = LAYERS * bert_layer_flops(length) + head_flops
    assert costs.flops == [exit_flops, mainnet_flops + sidenet_flops(WIDTH, LABELS)]
    assert costs.mainnet_flops == mainnet_flops

    assert round(100 * costs.fractions("params")[0], 1) == 47.7
    assert round(100 * costs.fractions("flops")[0], 1) == 33.3
    # The paper says about 0.03 % for a SideNet.
    assert round(100 * (costs.fractions("params")[-1] - 1), 4) == 0.0226


# --- ResNet, as (size of the output map, channels in, channels out, kernel) of each convolution, stem and stages apart


def resnet_18(pixels):
    stem, stages, channels = [(pixels // 2, 3, 64, 7)], [], 64
    for stage, width in enumerate((64, 128, 256, 512)):
        size = pixels // 4 // 2**stage
        first = [(size, channels, width, 3), (size, width, width, 3)]
        shortcut = [(size, channels, width, 1)] if stage > 0 else []
        stages.append(first + shortcut + 2 * [(size, width, width, 3)])
        channels = width
    return stem, stages


def resnet_50(pixels):
    stem, stages, channels = [(pixels // 2, 3, 64, 7)], [], 64
    for stage, (width, depth) in enumerate(zip((256, 512, 1024, 2048), (3, 4, 6, 3), strict=True)):
        size, narrow = pixels // 4 // 2**stage, width // 4
        # The 3x3 convolution halves the map, so the one before it still has the former size.
        former = size if stage == 0 else 2 * size
        convolutions = [(former, channels, narrow, 1), (size, narrow, narrow, 3), (size, narrow, width, 1)]
        convolutions.append((size, channels, width, 1))
        for _ in range(depth - 1):
            convolutions += [(size, width, narrow, 1), (size, narrow, narrow, 3), (size, narrow, width, 1)]
        stages.append(convolutions)
        channels = width
    return stem, stages


def conv_params(convolutions):
    """No bias, and a BatchNorm behind each."""
    return sum(before * after * kernel**2 + 2 * after for _, before, after, kernel in convolutions)


def conv_flops(convolutions):
    return sum(2 * size**2 * before * after * kernel**2 for size, before, after, kernel in convolutions)


RESNETS = {
    "ResNet-18": (resnet_18, {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}),
    "ResNet-50": (resnet_50, {}),
}
CLASSES = 10


def resnet_by_hand(name, pixels):
    """Parameters and FLOPs after stage 1 with the SideNet, and of the plain MainNet."""
    stem, stages = RESNETS[name][0](pixels)
    first, last = stages[0][-1][2], stages[-1][-1][2]
    prefix, whole = stem + stages[0], stem + [convolution for stage in stages for convolution in stage]
    params = conv_params(prefix) + sidenet_params(first, CLASSES), conv_params(whole) + last * CLASSES + CLASSES
    flops = conv_flops(prefix) + sidenet_flops(first, CLASSES), conv_flops(whole) + 2 * last * CLASSES
    return params, flops


@pytest.mark.parametrize(
    ("name", "pixels", "params_percent", "flops_percent"),
    [("ResNet-18", 32, 1.4, 32.0), ("ResNet-18", 224, 1.4, 32.0), ("ResNet-50", 32, 1.0, 19.2)],
)
def test_resnet_after_stage_1(name, pixels, params_percent, flops_percent):
    (exit_params, mainnet_params), (exit_flops, mainnet_flops) = resnet_by_hand(name, pixels)
    mainnet = ResNetForImageClassification(ResNetConfig(num_labels=CLASSES, **RESNETS[name][1]))
    kwargs = {"exit_layers": [1], "input_size": [3, 32, 32]}
    model = ResNetWithSideNetForImageClassification.from_mainnet(mainnet, **kwargs)
    images = {"pixel_values": torch.randn(1, 3, pixels, pixels)}
    costs = measure_costs(model, [images], repeats=1, timed_batches=1)

    assert (costs.params[0], costs.mainnet_params) == (exit_params, mainnet_params)
    assert (costs.flops[0], costs.mainnet_flops) == (exit_flops, mainnet_flops)
    assert round(100 * costs.fractions("params")[0], 1) == params_percent
    assert round(100 * costs.fractions("flops")[0], 1) == flops_percent


@pytest.mark.parametrize(
    ("name", "mainnet_gflops", "flops_percent"), [("ResNet-18", 3.63, 32.0), ("ResNet-50", 8.17, 19.2)]
)
def test_the_count_by_hand_at_224_pixels(name, mainnet_gflops, flops_percent):
    """1.81 and 4.09 G multiply-adds: the numbers that are usually quoted for these models."""
    _, (exit_flops, mainnet_flops) = resnet_by_hand(name, 224)
    assert round(mainnet_flops / 1e9, 2) == mainnet_gflops
    assert round(100 * exit_flops / mainnet_flops, 1) == flops_percent
