# SPDX-License-Identifier: Apache-2.0
"""Truncate and fine-tune a MainNet: a model without SideNets at the same cost; also the small model of a cascade. The
MainNet teaches it, in addition to the labels. The result is a plain classifier.

usage: truncate.py MAINNET DATA_DIR (--keep K [K ...] | --flops SHARE) --output_dir FOLDER
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from cuts import cut, cut_config, cuts_of, flops_of
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed

from hf_sidenet.attaching.steps import load_mainnet
from hf_sidenet.data import load_splits
from hf_sidenet.data.rows import Rows, prepare_rows
from hf_sidenet.inference.collect import first_batches
from hf_sidenet.measurement.inputs import model_inputs
from hf_sidenet.models.tasks import SINGLE_LABEL


SHIFT = 8  # 1 / SHIFT of a picture's height is the largest shift in training
COUNTED_ROWS = 4


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mainnet", help="folder or Hub id of a fine-tuned classifier")
    parser.add_argument("data_dir", type=Path, help="folder with train, validation and test rows, one file each")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--keep", nargs="+", type=int, help="blocks to keep; for a CNN, the layers of each stage")
    size.add_argument("--flops", type=float, help="choose the cut whose share of the MainNet's FLOPs is nearest")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning_rate", type=float, help="by default 5e-5 for texts and 1e-3 for images")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--max_length", type=int, help="maximum text length, in tokens")
    parser.add_argument("--distillation_weight", type=float, default=0.7, help="0 for labels alone")
    parser.add_argument("--distillation_temperature", type=float, default=2.0)
    parser.add_argument("--max_train_rows", type=int, help="use only the first rows")
    parser.add_argument("--no_header", action="store_true", help="csv and tsv files begin with a row: text, label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    if not 0 <= args.distillation_weight <= 1:
        parser.error(f"--distillation_weight must be in [0, 1], got {args.distillation_weight}")
    return args


class Taught(nn.Module):
    """A student whose training loss is partly a teacher's.

    Args:
        student (`PreTrainedModel`): is trained.
        teacher (`PreTrainedModel`): is not changed; gets the student's inputs.
        weight (`float`): w in `(1 − w) · CE + w · T² · KL`.
        temperature (`float`): T.
    """

    # Otherwise the Trainer would pass on arguments that no classifier accepts.
    accepts_loss_kwargs = False

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel, weight: float, temperature: float):
        super().__init__()
        self.student = student
        self.teacher = teacher.requires_grad_(False)
        self.weight = weight
        self.temperature = temperature

    def train(self, mode: bool = True) -> "Taught":
        """Set the student's mode; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, labels: torch.Tensor, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.training and "pixel_values" in inputs:
            inputs["pixel_values"] = moved(inputs["pixel_values"])
        logits = self.student(**inputs).logits
        loss = SINGLE_LABEL.loss(logits, labels)
        if self.training and self.weight > 0:
            with torch.no_grad():
                taught = self.teacher(**inputs).logits
            loss = (1 - self.weight) * loss + self.weight * SINGLE_LABEL.distillation(logits, taught, self.temperature)
        return {"loss": loss, "logits": logits}


def moved(pixels: torch.Tensor) -> torch.Tensor:
    """Flip pictures at random, and shift them by up to an eighth, extending their edges.

    Args:
        pixels (`torch.Tensor` of shape `(rows, channels, height, width)`): a batch.
    """
    rows, _, height, width = pixels.shape
    reach = height // SHIFT
    padded = nn.functional.pad(pixels, (reach,) * 4, mode="replicate")
    starts = torch.randint(0, 2 * reach + 1, (rows, 2)).tolist()
    cropped = [picture[:, y : y + height, x : x + width] for picture, (y, x) in zip(padded, starts, strict=True)]
    flips = torch.rand(rows).lt(0.5).tolist()
    return torch.stack([each.flip(-1) if flip else each for each, flip in zip(cropped, flips, strict=True)])


def load_rows(args: argparse.Namespace, given: PreTrainedModel, processor: Any) -> dict[str, Rows]:
    """Return the rows of each split as MainNet inputs."""
    files = {path.stem: path for path in sorted(args.data_dir.iterdir())}
    splits, columns = load_splits(files=files, no_header=args.no_header, required=("train", "test"))
    if args.max_train_rows is not None:
        splits["train"] = splits["train"].select(range(min(args.max_train_rows, len(splits["train"]))))
    return prepare_rows(
        splits, given.mainnet.config, processor, modality=given.modality, columns=columns, max_length=args.max_length
    )


def choose(mainnet: PreTrainedModel, rows: Rows, keep: list[int] | None, share: float | None) -> tuple[tuple, float]:
    """Return the cut to make, and its share of the MainNet's FLOPs."""
    (batch,) = first_batches(rows, COUNTED_ROWS, 1)
    inputs = model_inputs(batch, "cpu", torch.float32)
    whole = flops_of(type(mainnet), mainnet.config, inputs)
    cuts = [tuple(keep)] if keep is not None else cuts_of(mainnet.config)
    shares = {each: flops_of(type(mainnet), cut_config(mainnet.config, each), inputs) / whole for each in cuts}
    best = min(shares, key=lambda each: abs(shares[each] - (share or 0)))
    return best, shares[best]


def main() -> None:
    args = arguments()
    set_seed(args.seed)
    given, processor = load_mainnet(args.mainnet, None, {})
    rows = load_rows(args, given, processor)
    mainnet = given.mainnet.eval()
    keep, share = choose(mainnet, rows["train"], args.keep, args.flops)
    student, new = cut(mainnet, keep)
    print(f"kept {list(keep)}, {share:.3f} of the FLOPs; new weights: {', '.join(new) or 'none'}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            num_train_epochs=args.epochs,
            learning_rate=args.learning_rate or (5e-5 if given.modality.has_tokens else 1e-3),
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=64,
            warmup_steps=0.1,
            seed=args.seed,
            logging_strategy="epoch",
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
        )
        trainer = Trainer(
            Taught(student, mainnet, args.distillation_weight, args.distillation_temperature),
            settings,
            train_dataset=rows["train"].dataset,
            data_collator=rows["train"].collate_fn,
            compute_metrics=lambda said: {"accuracy": float((said.predictions.argmax(-1) == said.label_ids).mean())},
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        accuracy = {
            name: trainer.predict(rows[name].dataset).metrics["test_accuracy"]
            for name in ("validation", "test")
            if name in rows
        }
    student.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    about = {"mainnet": args.mainnet, "keep": keep, "flops": share, "new": new, "accuracy": accuracy}
    options = {name: str(value) for name, value in vars(args).items()}
    (args.output_dir / "truncate.json").write_text(
        json.dumps({**about, "seconds": seconds, "arguments": options}, indent=1)
    )
    said = ", ".join(f"{100 * value:.2f} % of {name} rows" for name, value in accuracy.items())
    print(f"right: {said}; trained in {seconds:.0f} s; {args.output_dir}")


if __name__ == "__main__":
    main()
