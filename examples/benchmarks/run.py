# SPDX-License-Identifier: Apache-2.0
"""The big tables: everything that `hf-sidenet benchmark` compares, and earlyon beside it, on the same rows in turns.

usage: run.py CHECKPOINT DATA_DIR --output_dir FOLDER [--truncated FOLDER] [--small_model FOLDER] [--earlyon FOLDER]
"""

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from aims import aims_text
from earlyon_method import earlyon_methods

from hf_sidenet.benchmark import run_benchmark
from hf_sidenet.benchmark.catalog import Catalog, Settings
from hf_sidenet.benchmark.methods import COMPILED, EAGER, ONNX, Method
from hf_sidenet.benchmark.reading import read_rows
from hf_sidenet.benchmark.result import BENCHMARK
from hf_sidenet.data import load_processor, load_splits
from hf_sidenet.data.rows import Rows, prepare_rows
from hf_sidenet.inference import Stages
from hf_sidenet.io.folders import check_free


ENGINES = {"eager": EAGER, "compiled": COMPILED, "onnx": ONNX}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="with SideNets, of hf-sidenet attach")
    parser.add_argument("data_dir", type=Path, help="folder with a file of test rows")
    parser.add_argument("--also", nargs="+", default=[], help="the checkpoint, calibrated again in other precisions")
    parser.add_argument("--truncated", help="folder of truncate.py")
    parser.add_argument("--small_model", help="folder of a smaller classifier, for the cascade")
    parser.add_argument("--earlyon", type=Path, help="folder of earlyon_model.py")
    parser.add_argument("--precisions", nargs="+", default=["float32"])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=["eager"])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max_length", type=int, help="of texts, in tokens")
    parser.add_argument("--memory", action="store_true", help="also peak memory, a process for each method")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--output_dir", type=Path, required=True)
    return parser.parse_args()


def test_rows(args: argparse.Namespace, catalog: Catalog) -> Rows:
    """All test rows, as the MainNet takes them."""
    model = catalog.base.model
    files = {path.stem: path for path in sorted(args.data_dir.iterdir()) if path.stem == "test"}
    splits, columns = load_splits(files=files, splits=("test",), required=("test",))
    processor = load_processor(args.checkpoint, model.is_text)
    return prepare_rows(
        splits, model.config, processor, is_text=model.is_text, columns=columns, max_length=args.max_length
    )["test"]


def all_methods(args: argparse.Namespace, catalog: Catalog) -> list[Method]:
    """Those of the catalogue, and earlyon's two."""
    if args.earlyon is None:
        return catalog.methods()
    # Processes that measure memory find the scripts of this folder.
    known = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent.resolve()), known]))
    return [*catalog.methods(), *earlyon_methods(args.earlyon)]


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
            truncated=args.truncated,
            small_model=args.small_model,
            device=args.device,
        )
    )
    prepared = test_rows(args, catalog)
    rows, labels = read_rows(Stages(catalog.base.model), prepared, args.rows, args.seed)
    if args.small_model is not None:
        catalog = catalog.with_cascade(rows, labels)
    with TemporaryDirectory() as scratch:
        result = run_benchmark(
            all_methods(args, catalog.with_onnx(scratch, rows)),
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
            },
        )
    files = result.save(args.output_dir, overwrite=args.overwrite)
    said = [result.text(), aims_text(result), "\n".join(str(path) for path in files)]
    print("\n\n".join(filter(None, said)))


if __name__ == "__main__":
    main()
