# SPDX-License-Identifier: Apache-2.0
"""What another precision costs, with the SideNets as trained in float32 and with SideNets retrained for it: mean FLOPs
and drop in accuracy on test rows, over several splits of the validation rows. And which part costs it: SideNets that
read this precision and a MainNet in float32, or the reverse.

Each split trains SideNets anew at the checkpoint's exits, in float32 and in each other precision, and calibrates them.
A SideNet before the first block stays the checkpoint's.

usage: other_precision.py CHECKPOINT DATA_DIR [--int8 FOLDER] [--dtype bfloat16] [--splits 10]
"""

import argparse
import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.attaching.retraining import places_after_blocks, read_stages
from hf_sidenet.calibration import calibrate, parse_targets, split_rows
from hf_sidenet.data import load_splits
from hf_sidenet.data.rows import Rows, SomeRows, prepare_rows
from hf_sidenet.export import OnnxStages
from hf_sidenet.inference.collect import row_costs
from hf_sidenet.inference.precision import cast_copy
from hf_sidenet.inference.protocols import StageChain
from hf_sidenet.inference.stages import Stages
from hf_sidenet.io.tables import markdown_table
from hf_sidenet.measurement import ExitCosts, ExitRecords
from hf_sidenet.models.sidenet import SideNet
from hf_sidenet.training.features import Candidate
from hf_sidenet.training.heads import HeadData, HeadTraining, sidenet_logits, train_heads


FLOAT = "float32"
FRACTION = 0.75
Features = Mapping[Candidate, torch.Tensor]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="checkpoint of attach, in float32")
    parser.add_argument("data_dir", type=Path, help="folder with train, validation and test rows, one file each")
    parser.add_argument("--int8", type=Path, help="folder of `hf-sidenet export CHECKPOINT --int8`")
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), help="a precision of PyTorch")
    parser.add_argument("--target", default="accuracy_drop<=0.01")
    parser.add_argument("--max_length", type=int, help="maximum text length, in tokens")
    parser.add_argument("--splits", type=int, default=10)
    args = parser.parse_args()
    if args.int8 is None and args.dtype is None:
        parser.error("--int8 or --dtype must be given")
    return args


class Measured:
    """A chain's features and answers on all rows, computed once.

    Args:
        stages ([`StageChain`]): the chain.
        rows (`Mapping[str, Rows]`): rows of each split.
        original ([`Measured`], *optional*): that of the reference; by default itself.
    """

    def __init__(self, stages: StageChain, rows: Mapping[str, Rows], original: "Measured | None" = None):
        self.features: dict[str, Features] = {}
        self.records: dict[str, ExitRecords] = {}
        self.places = places_after_blocks(stages)
        for name, part in rows.items():
            learning = SomeRows(part, name)
            self.features[name], logits = read_stages(stages, learning, every_exit=True)
            reference = logits[-1] if original is None else original.records[name].mainnet_logits
            labels = torch.tensor(part.labels)
            self.records[name] = ExitRecords(torch.stack(logits, 1).float(), labels, reference.clone(), stages.task)

    def heads(self, design: torch.Tensor, settings: HeadTraining) -> dict[Candidate, SideNet]:
        """Train SideNets on this chain's features; design rows stop the training."""
        learn, stop = self._data("train", None), self._data("validation", design)
        return train_heads(learn, stop, settings, progress=False)

    def with_heads(self, heads: Mapping[Candidate, SideNet], split: str) -> ExitRecords:
        """Return the answers to the rows of a split with these SideNets after blocks."""
        records = self.records[split]
        logits = records.exit_logits.clone()
        for index, candidate in self.places.items():
            logits[:, index] = sidenet_logits(heads[candidate], self.features[split][candidate]).to(logits)
        return replace(records, exit_logits=logits)

    def with_mainnet(self, other: "Measured") -> "Measured":
        """Return a copy with the final answers of another chain."""
        made = copy.copy(self)
        made.records = {}
        for name, records in self.records.items():
            logits = torch.cat([records.exit_logits[:, :-1], other.records[name].exit_logits[:, -1:]], dim=1)
            made.records[name] = replace(records, exit_logits=logits)
        return made

    def _data(self, split: str, which: torch.Tensor | None) -> HeadData:
        rows = slice(None) if which is None else which
        records = self.records[split]
        features = {candidate: values[rows] for candidate, values in self.features[split].items()}
        return HeadData(features, records.mainnet_logits[rows].float(), records.labels[rows], records.task)


def result(chain: Measured, heads: Mapping[Candidate, SideNet], costs: ExitCosts, target: str, seed: int):
    """Calibrate on one split; return mean FLOPs and drop in accuracy on the test rows (nothing saved, none lost if no
    threshold is found)."""
    validation, test = (chain.with_heads(heads, name) for name in ("validation", "test"))
    split = split_rows(len(validation), FRACTION, seed)
    design, certification = validation.select(split.design), validation.select(split.certification)
    chosen = calibrate(design, certification, costs, parse_targets(target)).chosen_setting
    if chosen is None:
        return 1.0, 0.0
    exits = test.route(*chosen)
    routed = test.exit_logits[torch.arange(len(test)), exits]
    drop = test.accuracy(test.mainnet_logits) - test.accuracy(routed)
    return float(torch.tensor(costs.fractions("flops"))[exits].mean()), drop


def changed(exact: Measured, chain: Measured, name: str) -> str:
    """Say how a precision changes the MainNet's answers to validation and test rows."""
    task = exact.records["test"].task
    pairs = [[each.records[split] for split in ("validation", "test")] for each in (exact, chain)]
    expected, found = (torch.cat([each.exit_logits[:, -1] for each in records]) for records in pairs)
    labels = torch.cat([each.labels for each in pairs[0]])
    right, now = (task.correct(logits, labels) for logits in (expected, found))
    error = float((found - expected).square().mean().sqrt())
    return (
        f"{name}: the MainNet answers {int((task.answer(found) != task.answer(expected)).sum())} of {len(labels):,} "
        f"rows otherwise, {int((right & ~now).sum())} harmed and {int((now & ~right).sum())} helped; error of its "
        f"logits {error:.4f} (root mean square)."
    )


def main() -> None:
    args = arguments()
    model, processor = load_checkpoint(args.checkpoint)
    files = {name: str(next(args.data_dir.glob(f"{name}.*"))) for name in ("train", "validation", "test")}
    splits, columns = load_splits(files=files, splits=tuple(files), required=tuple(files))
    rows = prepare_rows(
        splits, model.config, processor, modality=model.modality, columns=columns, max_length=args.max_length
    )
    costs = row_costs(model, rows["validation"], 32, quick=True)
    chains: dict[str, StageChain] = {FLOAT: Stages(model)}
    if args.dtype is not None:
        chains[args.dtype] = Stages(cast_copy(model, args.dtype))
    if args.int8 is not None:
        chains["int8"] = OnnxStages.load(args.int8)
    measured = {FLOAT: Measured(chains.pop(FLOAT), rows)}
    measured |= {name: Measured(chain, rows, measured[FLOAT]) for name, chain in chains.items()}
    for name, chain in measured.items():
        if name != FLOAT:
            print(changed(measured[FLOAT], chain, name))
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(args.splits):
        design = split_rows(len(rows["validation"]), FRACTION, seed).design
        settings = HeadTraining(hidden_size=model.config.sidenet_hidden_size, seed=seed)
        exact = measured[FLOAT]
        old = exact.heads(design, settings)
        arms = {FLOAT: (exact, old)}
        for name, chain in measured.items():
            if name != FLOAT:
                arms[name] = chain, old
                arms[f"{name}, retrained SideNets"] = chain, chain.heads(design, settings)
                arms[f"SideNets on {name}, MainNet in {FLOAT}"] = chain.with_mainnet(exact), old
                arms[f"SideNets on {FLOAT}, MainNet in {name}"] = exact.with_mainnet(chain), old
        for arm, (chain, heads) in arms.items():
            found.setdefault(arm, []).append(result(chain, heads, costs, args.target, seed))
            print(seed, arm, *(f"{value:.4f}" for value in found[arm][-1]), flush=True)
    base = mean(flops for flops, _ in found[FLOAT])
    table = []
    for arm, results in found.items():
        flops, drops = zip(*results, strict=True)
        ratio = mean(flops) / base
        spread = stdev(flops) if len(flops) > 1 else 0.0
        nothing = sum(each == 1.0 for each in flops)
        table.append(
            [arm, f"{mean(flops):.3f}", f"{spread:.3f}", f"{ratio:.2f}", f"{100 * mean(drops):.2f}", str(nothing)]
        )
    header = ["", "FLOPs", "standard deviation", "of float32's", "accuracy drop, points", "splits without θ"]
    print(
        f"\n{args.splits} splits, {args.target}, {len(rows['test']):,} test rows:\n\n{markdown_table(header, table)}"
    )


if __name__ == "__main__":
    main()
