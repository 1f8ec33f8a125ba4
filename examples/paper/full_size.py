# SPDX-License-Identifier: Apache-2.0
"""Parameters, FLOPs and time at the exits of the paper's own models, full size with random weights: no download.

Costs do not depend on the weights. Each model has one SideNet, at the placement used in the paper (Morisot, arXiv
2007.13512, §4), with each pooling in turn.

usage: full_size.py [--models distilbert resnet-18] [--output_dir docs/results/paper]
"""

import argparse
import gc
import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from csv_tables import write_table
from experiments import EXAMPLES
from transformers.utils import logging

from hf_sidenet.measurement import measure_costs


sys.path.append(str(EXAMPLES / "costs"))
print_costs = importlib.import_module("print_costs")

# The paper's first, then this package's default.
TEXT_POOLINGS, IMAGE_POOLINGS = ("cls", "mean"), ("flatten", "gap")
INPUTS = argparse.Namespace(batch_size=8, length=32, pixels=32, pooling="auto")
REPEATS = 3


def measured(name: str) -> list[dict[str, Any]]:
    """Measure the cost of an answer at a model's exit, one line per pooling.

    Args:
        name (`str`): of the model.
    """
    config, exit_layer = print_costs.MODELS[name]
    given, batch = print_costs.build(config, exit_layer, INPUTS)
    lines = []
    for pooling in TEXT_POOLINGS if given.modality.has_tokens else IMAGE_POOLINGS:
        model = type(given).from_mainnet(
            given.mainnet, exit_layers=[exit_layer], pooling=pooling, input_size=given.config.input_size
        )
        costs = measure_costs(model, [batch], repeats=REPEATS, timed_batches=1)
        sidenet_params = sum(parameter.numel() for parameter in model.sidenets.parameters())
        lines.append(
            {
                "model": name,
                "exit_layer": exit_layer,
                "num_blocks": len(model.config.block_shapes) + 1,
                "mainnet_params": costs.mainnet_params,
                "sidenet_params": sidenet_params,
                "overhead": sidenet_params / costs.mainnet_params,
                "params_at_exit": costs.fractions("params")[0],
                "flops_at_exit": costs.fractions("flops")[0],
                "milliseconds_at_exit": costs.fractions("milliseconds")[0],
                "mainnet_mflops": costs.mainnet_flops / 1e6,
                "mainnet_milliseconds": costs.mainnet_milliseconds,
                "batch_size": INPUTS.batch_size,
                "pooling": pooling,
            }
        )
    return lines


def main() -> None:
    models = list(print_costs.MODELS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=models, choices=models, metavar="NAME", help=", ".join(models))
    parser.add_argument("--output_dir", type=Path, default=Path("docs/results/paper"))
    args = parser.parse_args()
    torch.manual_seed(0)
    lines = []
    for name in logging.tqdm(args.models, desc="Measuring models"):
        lines += measured(name)
        # Gates and hooks refer to each other, and the largest model takes 1.3 GB.
        gc.collect()
    write_table(args.output_dir, "full_size", lines)
    for line in lines:
        print(
            f"{line['model']}, {line['pooling']}: {line['params_at_exit']:.1%} of the parameters, "
            f"{line['flops_at_exit']:.1%} of the FLOPs, {line['milliseconds_at_exit']:.1%} of the time; the SideNet "
            f"has {line['overhead']:.3%} of the parameters"
        )


if __name__ == "__main__":
    main()
