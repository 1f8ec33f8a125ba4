# SPDX-License-Identifier: Apache-2.0
"""Make the tables of docs/results/paper from finished runs. Reads only logits and costs; no model is loaded.

usage: make_tables.py [RUNS] [--output_dir docs/results/paper]
"""

import argparse
from pathlib import Path

from csv_tables import write_table
from found import load_runs
from tables_accuracy import aims_table, chosen_table, curves_table, differences_table, rivals_table, runs_table
from tables_beyond import guarantee_table, policies_table
from tables_confidence import calibration_table, reliability_table, theta_table
from transformers.utils import logging


TABLES = {
    "runs": runs_table,
    "curves": curves_table,
    "chosen": chosen_table,
    "aims": aims_table,
    "differences": differences_table,
    "rivals": rivals_table,
    "calibration": calibration_table,
    "reliability": reliability_table,
    "theta": theta_table,
    "policies": policies_table,
    "guarantee": guarantee_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=Path, default=Path("outputs/paper"), help="folder written by train.py")
    parser.add_argument("--output_dir", type=Path, default=Path("docs/results/paper"))
    args = parser.parse_args()
    try:
        runs = load_runs(args.runs)
        for name, make in logging.tqdm(TABLES.items(), desc="Tables"):
            rows = make(runs)
            if rows:
                write_table(args.output_dir, name, rows)
            else:
                print(f"{name}: these runs have no data for it")
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
