# SPDX-License-Identifier: Apache-2.0
"""A peer for the benchmark of a ResNet-18: earlyon 0.3.0 on the same MainNet.

Its backbone is torchvision's ResNet-18 with the MainNet's weights, so that both start from the same classifier. Its
exits (after stages 2 and 3) are trained by earlyon's own `stage2_train_exits` on the training rows, and its thresholds
are found by earlyon's own `calibrate_thresholds` on the validation rows, with temperatures fitted on half of them.

usage: earlyon_model.py MAINNET DATA_DIR --output_dir FOLDER
"""

import argparse
import json
import re
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification, PreTrainedModel

from hf_sidenet.data import load_processor, load_splits
from hf_sidenet.data.rows import Rows, prepare_rows
from hf_sidenet.models.modalities import IMAGE


FILE = "earlyon.pt"
CLASSES = "classes.json"
# transformers' names → torchvision's.
NAMES = (
    (r"^resnet\.embedder\.embedder\.convolution", "conv1"),
    (r"^resnet\.embedder\.embedder\.normalization", "bn1"),
    (r"^classifier\.1", "fc"),
    (r"\.shortcut\.convolution", ".downsample.0"),
    (r"\.shortcut\.normalization", ".downsample.1"),
    (r"\.layer\.(\d)\.convolution", lambda found: f".conv{int(found[1]) + 1}"),
    (r"\.layer\.(\d)\.normalization", lambda found: f".bn{int(found[1]) + 1}"),
    (r"^resnet\.encoder\.stages\.(\d)\.layers", lambda found: f"layer{int(found[1]) + 1}"),
)


def require_earlyon() -> ModuleType:
    """Import earlyon.

    Raises:
        ImportError: earlyon is not installed.
    """
    try:
        import earlyon
    except ModuleNotFoundError as error:
        if error.name != "earlyon":
            raise
        raise ImportError(
            "This needs earlyon: pip install -r examples/benchmarks/requirements.txt", name="earlyon"
        ) from error
    return earlyon


def torchvision_name(name: str) -> str:
    """Map the name of a weight in transformers' ResNet to torchvision's name."""
    for pattern, new in NAMES:
        name = re.sub(pattern, new, name)
    return name


@torch.no_grad()
def with_weights_of(mainnet: PreTrainedModel, size: int) -> Any:
    """Build earlyon's ResNet-18 on the MainNet's weights, with untrained exits.

    Args:
        mainnet (`PreTrainedModel`): a transformers ResNet-18.
        size (`int`): height and width of the pictures.

    Raises:
        ImportError: earlyon is not installed.
        ValueError: the MainNet is a different network.
    """
    require_earlyon()
    from earlyon.models import resnet18_ee

    wrapper = resnet18_ee(mainnet.config.num_labels, pretrained=False)
    refusal = "`mainnet` must be a ResNet-18 with basic layers, as torchvision has it"
    try:
        wrapper.backbone.load_state_dict({torchvision_name(name): each for name, each in mainnet.state_dict().items()})
    except RuntimeError as error:
        raise ValueError(f"{refusal}, got {mainnet.config.model_type!r}: {str(error)[:200]}") from error
    pixels = torch.randn(4, 3, size, size)
    expected, found = mainnet.eval()(pixel_values=pixels).logits, wrapper.eval().backbone(pixels)
    difference = (expected - found).abs().max()
    if not difference <= 1e-4 * expected.abs().max():
        raise ValueError(f"{refusal}, but its answers differ by {difference:.2g}.")
    return wrapper


def tensors(rows: Rows, name: str) -> TensorDataset:
    """Load pictures and classes into memory, because the exits train for a few fast epochs."""
    loader = DataLoader(rows.dataset, 256, collate_fn=rows.collate_fn)
    batches = [(each["pixel_values"], each["labels"]) for each in tqdm(loader, desc=f"Reading {name} rows")]
    return TensorDataset(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mainnet", help="folder of a fine-tuned ResNet-18")
    parser.add_argument("data_dir", type=Path, help="folder with train, validation and test rows, one file each")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--accuracy_drop", type=float, default=0.01, help="on the validation rows; earlyon's default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    require_earlyon()
    from earlyon.core.thresholds import calibrate_thresholds
    from earlyon.training import stage2_train_exits
    from earlyon.utils import save_wrapper

    torch.manual_seed(args.seed)
    mainnet = AutoModelForImageClassification.from_pretrained(args.mainnet)
    processor = load_processor(args.mainnet, modality=IMAGE)
    splits, columns = load_splits(files={path.stem: path for path in sorted(args.data_dir.iterdir())})
    rows = prepare_rows(splits, mainnet.config, processor, modality=IMAGE, columns=columns)
    data = {name: tensors(rows[name], name) for name in ("train", "validation")}
    wrapper = with_weights_of(mainnet, data["train"].tensors[0].shape[-1])

    start = time.perf_counter()
    stage2_train_exits(
        wrapper,
        DataLoader(data["train"], args.batch_size, shuffle=True),
        epochs=args.epochs,
        lr=args.learning_rate,
    )
    seconds = time.perf_counter() - start
    halves = [
        DataLoader(TensorDataset(*(each[first::2] for each in data["validation"].tensors)), 256) for first in (0, 1)
    ]
    found = calibrate_thresholds(
        wrapper, halves[0], args.accuracy_drop, fit_temperature=True, temperature_loader=halves[1]
    )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    save_wrapper(wrapper, args.output_dir / FILE)
    names = [mainnet.config.id2label[i] for i in range(mainnet.config.num_labels)]
    (args.output_dir / CLASSES).write_text(json.dumps(names))
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found.exit_distribution.items())
    print(
        f"exits trained in {seconds:.0f} s; thresholds {found.thresholds}, in use {found.enabled_exits}; on "
        f"{found.num_samples} validation rows {found.baseline_accuracy:.2%} → {found.final_accuracy:.2%}, by {shares}"
    )


if __name__ == "__main__":
    main()
