# SPDX-License-Identifier: Apache-2.0
"""Compute the numbers in docs/results/attach.md: attach to a MainNet over many random splits of the validation rows.

Features are cached once. For every split, the SideNets are trained and placed again, and every target is calibrated
again on the split's certification rows. With --train_once, the SideNets are trained once, before the splits are drawn,
and no validation row is read for it. With --tune joint, MainNet and SideNets are fine-tuned
together once, on training rows alone, before the splits are drawn. FLOPs are fractions of the plain MainNet's,
including SideNets, on the test rows.

usage: measure_attach.py MAINNET DATA_DIR [--splits 30] [--tune heads|joint] ...
"""

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch

from hf_sidenet.attaching.steps import (
    AttachRun,
    all_candidates,
    at_input_size,
    attached_model,
    load_mainnet,
)
from hf_sidenet.calibration import (
    TESTS,
    Chaining,
    calibrate,
    chained_records,
    cost_model,
    parse_targets,
    place,
    split_rows,
)
from hf_sidenet.data import load_splits
from hf_sidenet.data.rows import prepare_rows
from hf_sidenet.evaluation.provenance import versions
from hf_sidenet.inference.collect import first_batches
from hf_sidenet.measurement import ExitCosts, ExitRecords, accuracy, replay
from hf_sidenet.models.exit_rule import answers
from hf_sidenet.training.features import Candidate
from hf_sidenet.training.heads import HeadTraining
from hf_sidenet.training.joint import JointTraining, tune_jointly
from hf_sidenet.training.pixel_exits import PixelTraining


TARGETS = ["accuracy_drop<=0.01", "accuracy_drop<=0.02", "selective_error<=0.10", "disagreement<=0.03", "flops<=0.5"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mainnet", help="folder of a fine-tuned classifier")
    parser.add_argument("data_dir", type=Path, help="folder written by split_data.py")
    parser.add_argument("--splits", type=int, default=30)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--tune", choices=["heads", "joint"], default="heads")
    parser.add_argument("--joint_exits", nargs="+", type=int, default=[1, 2, 3], help="blocks before each SideNet")
    parser.add_argument("--joint_epochs", type=float, default=JointTraining.num_epochs)
    parser.add_argument("--poolings", nargs="+")
    parser.add_argument("--max_length", type=int, help="maximum text length, in tokens")
    parser.add_argument("--chain", action="store_true", help="also with SideNets that build on each other")
    parser.add_argument("--ensemble", action="store_true", help="with --chain: the MainNet builds on them too")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--test_method", choices=TESTS, default="paired")
    parser.add_argument("--head_batch_size", type=int, default=HeadTraining.batch_size)
    parser.add_argument("--head_epochs", type=int, default=HeadTraining.max_epochs)
    parser.add_argument("--pixel_epochs", type=int, default=PixelTraining.num_epochs)
    parser.add_argument("--pixel_flops", nargs="+", type=float, default=PixelTraining.flops)
    parser.add_argument(
        "--train_once",
        action="store_true",
        help="train the SideNets once, on training rows alone: a net on pixels takes minutes",
    )
    parser.add_argument("--cache_dir", type=Path, default=Path("outputs/cache"))
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    if args.ensemble and not args.chain:
        parser.error("--ensemble needs --chain")
    return args


def main() -> None:
    args = arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    seconds = {}

    def timed(name, call):
        start = time.perf_counter()
        result = call()
        seconds[name] = time.perf_counter() - start
        return result

    files = {path.stem: path for path in sorted(args.data_dir.iterdir())}
    splits, columns = load_splits(files=files)
    given, processor = load_mainnet(args.mainnet, None, {})
    rows = prepare_rows(
        splits, given.mainnet.config, processor, modality=given.modality, columns=columns, max_length=args.max_length
    )
    given = at_input_size(given, rows["train"])
    targets = [parse_targets(text) for text in args.targets]
    run = AttachRun(
        rows,
        split_rows(len(rows["validation"]), 0.75, 0),
        targets[0],
        args.cache_dir,
        args.batch_size,
        None,
        True,
        given.task,
        PixelTraining(flops=tuple(args.pixel_flops), num_epochs=args.pixel_epochs),
    )
    candidates = all_candidates(given, None, args.poolings)
    given_features = {
        name: timed(f"features of {name}", lambda n=name: run.features(given, n, candidates)) for name in rows
    }
    features, heads = given_features, None
    if args.tune == "joint":
        # No validation row is read before the splits are drawn: exits are fixed, and SideNets start on training rows.
        model = timed("joint training", lambda: _tuned(run, given, processor, args, given_features["train"]))
        candidates = [Candidate(*pair) for pair in zip(model.config.exit_layers, model.config.pooling, strict=True)]
        features = {name: run.features(model, name, candidates) for name in ("validation", "test")}
        heads = dict(zip(candidates, model.sidenets, strict=True))
    elif args.train_once:
        settings = _head_training(args, 0)
        once = partial(_trained_on_training_rows, run, given, processor, given_features["train"], candidates, settings)
        heads = timed("heads", once).sidenets
    lines = []
    references = {"given": given_features, "tuned": features} if args.tune == "joint" else {"given": given_features}
    (batch,) = first_batches(rows["validation"], args.batch_size, 1)
    for seed in range(args.splits):
        split = split_rows(len(rows["validation"]), 0.75, seed)
        run = replace(run, split=split)
        if seed == 0 or heads is None:
            train = partial(run.train_heads, given, processor, given_features, candidates, _head_training(args, seed))
            trained = heads or timed("heads", train).sidenets
            before = {c: sidenet for c, sidenet in trained.items() if c.exit_layer == 0}
            cost = {name: cost_model(given, batch, [*trained], 32, name, before) for name in ("flops", "params")}
            logits = {
                name: {c: run.logits(sidenet, c, name, features[name]) for c, sidenet in trained.items()}
                for name in ("validation", "test")
            }
        variants = [(True, False), (False, False), *([(True, True)] if args.chain else [])]
        for (reference, beside), target, (reads_input, builds) in product(references.items(), targets, variants):
            usable = {
                name: {c: values for c, values in of.items() if reads_input or c.exit_layer > 0}
                for name, of in logits.items()
            }
            start = time.perf_counter()
            chaining = Chaining(sidenets=builds, mainnet=builds and args.ensemble)
            line = _one(split, features, beside, usable, cost, target, args.test_method, chaining)
            seconds.setdefault("placement and calibration", time.perf_counter() - start)
            about = {"seed": seed, "reference": reference, "target": str(target[0]), "reads_input": reads_input}
            about["chain"] = builds
            lines.append({**about, **line})
            print(json.dumps(lines[-1]), flush=True)
    named = next(line["exits"] for line in reversed(lines) if line["target"] == str(targets[0][0]))
    chosen = [candidate for candidate in trained if candidate.name in named]
    parts = [
        ExitRecords(
            torch.stack([*(logits[name][c] for c in chosen), features[name].mainnet_logits], dim=1),
            features[name].labels,
            features[name].mainnet_logits.clone(),
            given.task,
        )
        for name in ("validation", "test")
    ]
    _joined(*parts).save(args.output_dir / "records.safetensors")
    report = {
        "arguments": {name: str(value) for name, value in vars(args).items()},
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "test_accuracy": {
            name: accuracy(of["test"].mainnet_logits, of["test"].labels) for name, of in references.items()
        },
        "lines": lines,
    }
    (args.output_dir / "attach.json").write_text(json.dumps(report, indent=1))
    text = table(report)
    (args.output_dir / "attach.md").write_text(text + "\n")
    print(text)


def _head_training(args, seed):
    return HeadTraining(seed=seed, batch_size=args.head_batch_size, max_epochs=args.head_epochs)


def _trained_on_training_rows(run, given, processor, features, candidates, settings):
    """Train SideNets on nine tenths of the training rows; the others stop them."""
    held = torch.arange(len(features)) % 10 == 0
    learning, stopping = (run.some("train", which.nonzero().squeeze(1)) for which in (~held, held))
    return run.train_heads(
        given, processor, {"train": features}, candidates, settings, learning=learning, stopping=stopping
    )


def _tuned(run, given, processor, args, features):
    poolings = args.poolings and args.poolings[:1]
    # The first pooling of each exit layer.
    by_layer = {c.exit_layer: c for c in reversed(all_candidates(given, args.joint_exits, poolings))}
    chosen = [by_layer[layer] for layer in args.joint_exits]
    heads = _trained_on_training_rows(run, given, processor, features, chosen, HeadTraining())
    model = attached_model(given, args.mainnet, chosen, heads, HeadTraining(), own_mainnet=True)
    settings = JointTraining(num_epochs=args.joint_epochs, batch_size=args.batch_size)
    rows = run.rows["train"]
    tune_jointly(model, rows.dataset, rows.collate_fn, features.mainnet_logits, settings)
    return model


def _placed(logits, mainnet_logits, labels, costs, target, split, test, chaining):
    budget = None if target[0].is_risk else target[0].limit
    return place(
        logits,
        mainnet_logits,
        labels,
        costs,
        target,
        num_certification_rows=len(split.certification),
        level=0.05,
        test=test,
        budget=budget,
        chaining=chaining,
    )[0]


def _one(split, features, beside, logits, cost, target, test, chaining) -> dict:
    """Place and calibrate on one split, and evaluate on the test rows."""
    design = split.design
    validation = features["validation"]
    best = _placed(
        {c: values[design] for c, values in logits["validation"].items()},
        validation.mainnet_logits[design],
        validation.labels[design],
        cost["flops"],
        target,
        split,
        test,
        chaining,
    )

    def records(name):
        columns = [*(logits[name][c] for c in best.candidates), features[name].mainnet_logits]
        return ExitRecords(torch.stack(columns, dim=1), features[name].labels, beside[name].mainnet_logits)

    flops, params = cost["flops"].exits(best.candidates), cost["params"].exits(best.candidates)
    costs = ExitCosts([round(1e9 * share) for share in params], flops, flops, 10**9, 1.0, 1.0, 1, "cpu")
    rows = records("validation")
    chain = chaining.fit(rows.select(design))
    rows = chained_records(rows, chain)
    made = calibrate(rows.select(design), rows.select(split.certification), costs, target, test=test)
    names = [candidate.name for candidate in best.candidates]
    if made.selection.chosen is None:
        return {
            "exits": names,
            "flops": 1.0,
            "params": 1.0,
            "drop": 0.0,
            "risk": None,
            "refused": True,
            "weights": chain,
        }
    thresholds = made.selection.chosen.thresholds
    rows = chained_records(records("test"), chain)
    exit_index = replay(rows.exit_logits, thresholds, made.temperatures)
    routed = accuracy(answers(rows.exit_logits, exit_index), rows.labels)
    left = exit_index < rows.num_exits - 1
    answered = answers(rows.exit_logits, exit_index)
    drop = accuracy(rows.mainnet_logits, rows.labels) - routed
    risk = {
        "accuracy_drop": drop,
        "selective_error": 1 - accuracy(answered[left], rows.labels[left]),
        "disagreement": (answered.argmax(-1) != rows.mainnet_logits.argmax(-1)).double().mean().item(),
        "flops": costs.average(exit_index, "flops"),
    }[target[0].name]
    return {
        "exits": names,
        "flops": costs.average(exit_index, "flops"),
        "params": costs.average(exit_index, "params"),
        "drop": drop,
        "risk": risk,
        "refused": False,
        "weights": chain,
    }


def _joined(*parts: ExitRecords) -> ExitRecords:
    tensors = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("exit_logits", "labels", "mainnet_logits")
    }
    return ExitRecords(**tensors, task=parts[0].task)


def table(report: dict) -> str:
    """Return medians over the splits, and how often the test rows miss the target."""
    header = [
        "reference",
        "target",
        "exit 0",
        "chain",
        "FLOPs",
        "10 %–90 %",
        "params",
        "drop, points",
        "largest",
        "risk",
        "missed",
        "refused",
    ]
    out = [header, [*[":--"] * 4, *["--:"] * 8]]
    names = ("reference", "target", "reads_input", "chain")
    keys = list(dict.fromkeys(tuple(line[name] for name in names) for line in report["lines"]))
    for key in keys:
        reference, target, reads_input, chain = key
        lines = [line for line in report["lines"] if tuple(line[name] for name in names) == key]
        limit = parse_targets(target)[0].limit
        column = {name: torch.tensor([line[name] for line in lines]) for name in ("flops", "params", "drop")}
        risks = torch.tensor([line["risk"] for line in lines if not line["refused"]])
        low, high = column["flops"].quantile(torch.tensor([0.1, 0.9])).tolist()
        out.append(
            [
                reference,
                f"`{target}`",
                "allowed" if reads_input else "no",
                "yes" if chain else "no",
                f"{column['flops'].quantile(0.5):.3f}",
                f"{low:.3f}–{high:.3f}",
                f"{column['params'].quantile(0.5):.3f}",
                f"{100 * column['drop'].quantile(0.5):.2f}",
                f"{100 * column['drop'].max():.2f}",
                f"{risks.quantile(0.5):.4f}" if len(risks) else "–",
                f"{int((risks > limit).sum())} of {len(lines)}",
                f"{sum(line['refused'] for line in lines)}",
            ]
        )
    lines = [f"| {' | '.join(row)} |" for row in out]
    times = [f"- {name}: {value:.1f} s" for name, value in report["seconds"].items()]
    accuracies = [
        f"- test accuracy, {name} MainNet: {100 * value:.2f} %" for name, value in report["test_accuracy"].items()
    ]
    return "\n".join([*lines, "", *accuracies, *times])


if __name__ == "__main__":
    main()
