# SPDX-License-Identifier: Apache-2.0
"""Do the savings of SideNets and of compression multiply? (Morisot, arXiv 2007.13512, §5, leaves it open.)

One trained model with SideNets, in float32, in bfloat16, in int8 (ONNX Runtime), and truncated after its last
SideNet, which then answers the remaining rows. Each version has its own θ, chosen on validation rows for at
most `--target_drop` less accuracy than its own last exit. All are timed side by side, with and without SideNets, on
one thread.

usage: compression.py RUN_FOLDER --config configs/cpu/sst2-distilled-1-2-3.yaml [--output_dir docs/results/paper]
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from compressed import Version, versions_of
from compressed_times import first_rows, timed
from csv_tables import write_table
from experiments import Experiment, load_experiment
from found import Run, load_run
from rows import longest_first, rows_of

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.benchmark.interleave import MethodClock
from hf_sidenet.data.rows import Rows
from hf_sidenet.evaluation import DEFAULT_THRESHOLDS, CurvePoint, cheapest, sweep
from hf_sidenet.inference import collect_stages
from hf_sidenet.measurement import ExitRecords, accuracy, replay
from hf_sidenet.models.exit_rule import answers
from hf_sidenet.models.modeling_base import SideNetPreTrainedModel


SPLITS = ("validation", "test")


@dataclass(frozen=True, eq=False)
class Trained:
    """A model to compress.

    Args:
        run ([`Run`]): the training run.
        model ([`SideNetPreTrainedModel`]): in float32.
        rows (`dict[str, Rows]`): by split.
    """

    run: Run
    model: SideNetPreTrainedModel
    rows: dict[str, Rows]


def trained(folder: Path, experiment: Experiment) -> Trained:
    """Read a run.

    Raises:
        ValueError: the run is unfinished, from another experiment or not of such a model, or its data have changed.
    """
    if not experiment.modality.has_tokens:
        raise ValueError(f"--config must be an experiment on texts, got {experiment.name!r} on images.")
    run = load_run(folder, experiment.name)
    rows = rows_of(experiment, run.about["arguments"], folder)
    changed = [split for split in ("train", *SPLITS) if rows[split].fingerprint != run.about["fingerprints"][split]]
    if changed:
        raise ValueError(f"the data must be those of {folder}, but the {' and '.join(changed)} rows have changed.")
    model, _ = load_checkpoint(folder, dtype=torch.float32)
    return Trained(run, model, rows)


def records_of(version: Version, found: Trained, split: str, batch_size: int) -> ExitRecords:
    """Record the answers of every exit of a version."""
    if version.as_recorded:
        recorded = getattr(found.run, split)
        exit_logits = recorded.exit_logits[:, : len(version.chain)]
        return ExitRecords(exit_logits, recorded.labels, exit_logits[:, -1].clone())
    loader, back = longest_first(found.rows[split], batch_size)
    print(f"{version.name}, {split} rows", flush=True)
    return collect_stages(version.chain, loader, progress=True).select(back)


def choose(version: Version, records: ExitRecords, target_drop: float) -> float:
    """Return the cheapest θ that keeps the accuracy of the version's last exit, up to a drop."""
    return cheapest(records, version.costs, DEFAULT_THRESHOLDS, target_drop, version.chain.config.temperatures)


def milliseconds(clock: MethodClock, num_rows: int) -> float:
    """Return the time per row, the median of the rounds."""
    return 1e3 * median(map(sum, clock.rounds)) / num_rows


def same_answers(clock: MethodClock, records: ExitRecords, version: Version, threshold: float) -> float:
    """Return the share of timed rows with the same class as in the records."""
    said = records.select(list(range(len(clock.answers))))
    exit_index = replay(said.exit_logits, threshold, version.chain.config.temperatures)
    expected = answers(said.exit_logits, exit_index).argmax(-1)
    given = torch.tensor([clock.answers[place].label_id for place in range(len(said))])
    return (given == expected).double().mean().item()


def table_row(
    version: Version,
    point: CurvePoint,
    records: dict[str, ExitRecords],
    float32: dict[str, Any] | None,
    clocks: tuple[MethodClock, MethodClock],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Return a line of the table; `float32` is its first line, or `None` for that line itself."""
    plain_accuracy = accuracy(records["test"].exit_logits[:, -1], records["test"].labels)
    ms_plain, ms_routed = (milliseconds(clock, len(clock.answers)) for clock in clocks)
    ms_first = ms_plain if float32 is None else float32["ms_plain"]
    sidenet = ms_plain / ms_routed
    product = ms_first / ms_plain * (sidenet if float32 is None else float32["speedup_sidenet"])
    threshold = point.thresholds[0]
    return {
        "version": version.name,
        "plain_accuracy": plain_accuracy,
        "routed_accuracy": point.accuracy,
        "accuracy_drop": (plain_accuracy if float32 is None else float32["plain_accuracy"]) - point.accuracy,
        "threshold": threshold,
        "flops_routed": point.flops,
        "ms_plain": ms_plain,
        "ms_routed": ms_routed,
        "speedup_plain": ms_first / ms_plain,
        "speedup_sidenet": sidenet,
        "speedup_both": ms_first / ms_routed,
        "product_of_parts": product,
        "multiplies": ms_first / ms_routed / product,
        "rows_validation": len(records["validation"]),
        "rows_test": len(records["test"]),
        "rows_timed": len(clocks[1].answers),
        "engine": version.engine,
        "routing": clocks[1].answerer.note.removeprefix("took ").strip("'"),
        "same_answers": same_answers(clocks[1], records["test"], version, threshold),
        **settings,
    }


def compress(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the lines of the table."""
    found = trained(args.run_folder, load_experiment(args.config))
    with TemporaryDirectory() as folder:
        versions = versions_of(found.model, found.rows, found.run.costs, Path(folder))
        records = [{split: records_of(each, found, split, args.batch_size) for split in SPLITS} for each in versions]
        thresholds = [choose(v, of["validation"], args.target_drop) for v, of in zip(versions, records, strict=True)]
        shown = first_rows(versions[0], found.rows["test"], args.rows)
        clocks = timed(versions, thresholds, shown, args.batch_size, args.rounds)
    settings = {"target_drop": args.target_drop, "batch_size": args.batch_size, "rounds": args.rounds}
    lines: list[dict[str, Any]] = []
    for version, of, threshold, pair in zip(versions, records, thresholds, clocks, strict=True):
        (point,) = sweep(of["test"], version.costs, [threshold], version.chain.config.temperatures)
        lines.append(table_row(version, point, of, lines[0] if lines else None, pair, settings))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path, help="of train.py: outputs/paper/sst2-distilled-1-2-3/seed-0")
    parser.add_argument("--config", type=Path, required=True, help="the file under configs/ that it was trained with")
    parser.add_argument("--target_drop", type=float, default=0.005, help="below a version's own last exit, 0 to 1")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=512, help="number of test rows to time, from the start")
    parser.add_argument("--rounds", type=int, default=3, help="timed passes; the median is reported")
    parser.add_argument("--output_dir", type=Path, default=Path("docs/results/paper"))
    args = parser.parse_args()
    for name in ("batch_size", "rows", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if not 0 <= args.target_drop < 1:
        parser.error(f"--target_drop must be in [0, 1), got {args.target_drop}")
    # Before anything is loaded: ONNX Runtime takes torch's number of threads at that time.
    torch.set_num_threads(1)
    try:
        lines = compress(args)
        write_table(args.output_dir, "compression", lines)
    except (ValueError, RuntimeError, ImportError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    for line in lines:
        print(
            f"{line['version']}: {line['routed_accuracy']:.4f} at θ = {line['threshold']:g} (plain "
            f"{line['plain_accuracy']:.4f}); × {line['speedup_plain']:.2f} plain, × {line['speedup_sidenet']:.2f} by "
            f"SideNets, × {line['speedup_both']:.2f} both, {line['multiplies']:.2f} of the product"
        )


if __name__ == "__main__":
    main()
