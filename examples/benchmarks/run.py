# SPDX-License-Identifier: Apache-2.0
"""Print the full tables: everything in `hf-sidenet benchmark`, and more rivals, on the same rows, interleaved.

usage: run.py CHECKPOINT DATA_DIR --output_dir FOLDER [--truncated MAINNET] [--small_model MAINNET] [--earlyon FOLDER]
              [--alone NAME=CHECKPOINT ...] [--without_input CHECKPOINT]
"""

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from aims import aims_text
from earlyon_method import earlyon_methods
from rivals import Rivals, check_rivals, rival_methods, with_threshold

from hf_sidenet.benchmark import run_benchmark
from hf_sidenet.benchmark.catalog import Catalog, Settings
from hf_sidenet.benchmark.methods import COMPILED, EAGER, GROUPS, ONNX_RUNTIME, Method
from hf_sidenet.benchmark.result import BENCHMARK
from hf_sidenet.benchmark.rows import read_rows
from hf_sidenet.data import load_processor, load_splits
from hf_sidenet.data.rows import Rows, prepare_rows
from hf_sidenet.inference import Stages
from hf_sidenet.io.folders import check_free


ENGINES = {"eager": EAGER, "compiled": COMPILED, "onnx": ONNX_RUNTIME}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="with SideNets, from hf-sidenet attach")
    parser.add_argument("data_dir", type=Path, help="folder with a file of test rows")
    parser.add_argument("--also", nargs="+", default=[], help="the checkpoint, calibrated again in other precisions")
    parser.add_argument("--truncated", help="a truncated, fine-tuned classifier: folder from truncate.py")
    parser.add_argument(
        "--small_model", help="a cascade: this classifier answers if it is confident, else the MainNet"
    )
    parser.add_argument(
        "--small_threshold",
        type=float,
        help="confidence above which the small model answers; by default the lowest at which the cascade is as "
        "accurate as the checkpoint on these very rows, which favors the cascade",
    )
    parser.add_argument(
        "--alone",
        nargs="+",
        default=[],
        metavar="NAME=CHECKPOINT",
        help="the first SideNet of this checkpoint answers every row, under this name",
    )
    parser.add_argument(
        "--without_input", help="the same MainNet, calibrated without a SideNet before its first block"
    )
    parser.add_argument("--earlyon", type=Path, help="folder from earlyon_model.py")
    parser.add_argument("--precisions", nargs="+", default=["float32"])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=["eager"])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max_length", type=int, help="maximum text length, in tokens")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory, with one process per method")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    if args.small_threshold is not None and args.small_model is None:
        parser.error(f"--small_threshold needs --small_model, got {args.small_threshold} without it")
    for each in args.alone:
        if not all(each.partition("=")):
            parser.error(f"--alone must have the form NAME=CHECKPOINT, got {each!r}")
    return args


def test_rows(args: argparse.Namespace, catalog: Catalog) -> Rows:
    """Return all test rows as MainNet inputs."""
    model = catalog.base.model
    files = {path.stem: path for path in sorted(args.data_dir.iterdir()) if path.stem == "test"}
    splits, columns = load_splits(files=files, splits=("test",), required=("test",))
    processor = load_processor(args.checkpoint, model.modality)
    return prepare_rows(
        splits, model.config, processor, modality=model.modality, columns=columns, max_length=args.max_length
    )["test"]


def all_methods(catalog: Catalog, rivals: Rivals, earlyon: Path | None) -> list[Method]:
    """Return the methods of the catalog and the rivals, in the order of the table: plain, rivals, ours."""
    # Processes that measure memory import the scripts in this folder.
    known = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent.resolve()), known]))
    found = [*catalog.methods(), *rival_methods(rivals, catalog)]
    if earlyon is not None:
        found += earlyon_methods(earlyon)
    return sorted(found, key=lambda method: GROUPS.index(method.group))


def main() -> None:
    args = arguments()
    check_free(args.output_dir, BENCHMARK, overwrite=args.overwrite)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    catalog = Catalog(
        Settings(
            directory=args.checkpoint,
            precisions=args.precisions,
            engines=[ENGINES[name] for name in args.engines],
            also=args.also,
            device=args.device,
        )
    )
    alone = dict(each.split("=", 1) for each in args.alone)
    rivals = Rivals(args.truncated, args.small_model, args.small_threshold, alone, args.without_input)
    check_rivals(rivals, catalog)
    prepared = test_rows(args, catalog)
    rows, labels = read_rows(Stages(catalog.base.model), prepared, args.rows, args.seed)
    rivals = with_threshold(rivals, catalog, rows, labels)
    with TemporaryDirectory() as scratch:
        result = run_benchmark(
            all_methods(catalog.with_onnx(scratch, rows), rivals, args.earlyon),
            rows,
            labels,
            batch_sizes=args.batch_sizes,
            repeats=args.repeats,
            memory=args.memory,
            device=args.device,
            seed=args.seed,
            about={
                "model": Path(args.checkpoint).name,
                "data": args.data_dir.name,
                "rows": f"{len(rows):,} of {len(prepared):,}, in random order (seed {args.seed})",
                "fingerprint of the data": prepared.fingerprint,
            },
        )
    files = result.save(args.output_dir, overwrite=args.overwrite)
    said = [result.text(), aims_text(result), "\n".join(str(path) for path in files)]
    print("\n\n".join(filter(None, said)))


if __name__ == "__main__":
    main()
