# SPDX-License-Identifier: Apache-2.0
"""Print the cost of an answer at the paper's exits, in three currencies: full-size models, random weights, no data.

Costs do not depend on the weights, so nothing is downloaded. Each model has one SideNet, at the placement used in
the paper (Morisot, arXiv 2007.13512).
"""

import argparse
import gc
import platform
import shlex
import sys

import torch
import transformers
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    PretrainedConfig,
    ResNetConfig,
)

from hf_sidenet import SideNetForImageClassification, SideNetForSequenceClassification
from hf_sidenet.measurement import measure_costs


LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
BASIC = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
CIFAR10 = {"num_labels": 10}
# The MainNet, and the number of blocks before the SideNet.
MODELS: dict[str, tuple[PretrainedConfig, int]] = {
    "bert-base": (BertConfig(), 4),
    "bert-large": (BertConfig(**LARGE), 8),
    "distilbert": (DistilBertConfig(), 1),
    "resnet-18": (ResNetConfig(**CIFAR10, **BASIC, depths=[2, 2, 2, 2]), 1),
    "resnet-34": (ResNetConfig(**CIFAR10, **BASIC, depths=[3, 4, 6, 3]), 1),
    "resnet-50": (ResNetConfig(**CIFAR10, depths=[3, 4, 6, 3]), 1),
    "resnet-152": (ResNetConfig(**CIFAR10, depths=[3, 8, 36, 3]), 1),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="NAME")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--length", type=int, default=32, help="tokens per text")
    parser.add_argument("--pixels", type=int, default=32, help="height and width of the images")
    parser.add_argument("--pooling", default="auto", help="how the SideNets read images: gap (auto) or flatten")
    parser.add_argument("--repeats", type=int, default=5, help="timed passes; the median is reported")
    return parser.parse_args()


def build(config: PretrainedConfig, exit_layer: int, args: argparse.Namespace):
    """Build a MainNet with one SideNet, and one batch for it."""
    if isinstance(config, ResNetConfig):
        mainnet = AutoModelForImageClassification.from_config(config)
        kwargs = {"input_size": [3, args.pixels, args.pixels], "pooling": args.pooling}
        model = SideNetForImageClassification.from_mainnet(mainnet, exit_layers=[exit_layer], **kwargs)
        return model, {"pixel_values": torch.randn(args.batch_size, 3, args.pixels, args.pixels)}
    mainnet = AutoModelForSequenceClassification.from_config(config)
    model = SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[exit_layer])
    return model, {"input_ids": torch.randint(3, config.vocab_size, (args.batch_size, args.length))}


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    print("| MainNet | exit after | blocks | parameters | FLOPs | milliseconds | parameters of the SideNet |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models:
        config, exit_layer = MODELS[name]
        model, batch = build(config, exit_layer, args)
        costs = measure_costs(model, [batch], repeats=args.repeats)
        num_blocks = len(model.config.block_shapes) + 1
        params, flops, milliseconds = (
            costs.fractions(currency)[0] for currency in ("params", "flops", "milliseconds")
        )
        overhead = costs.params[-1] / costs.mainnet_params - 1
        print(
            f"| {name} | {exit_layer} of {num_blocks} | {exit_layer / num_blocks:.1%} | {params:.1%} | {flops:.1%} | "
            f"{milliseconds:.1%} | {overhead:.3%} |",
            flush=True,
        )
        del model
        gc.collect()
    print(
        f"\nBatch {args.batch_size}, {args.length} tokens or {args.pixels} × {args.pixels} pixels, "
        f"{costs.num_threads} thread{'s' if costs.num_threads > 1 else ''}, {costs.device}, {platform.machine()}; "
        f"torch {torch.__version__}, transformers {transformers.__version__}. "
        f"Command: `{shlex.join(['python', *sys.argv])}`."
    )


if __name__ == "__main__":
    main()
