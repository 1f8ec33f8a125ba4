# SPDX-License-Identifier: Apache-2.0
"""Write the splits for the results pages as files: SST-2 as in the paper (5,000 / 1,613 / 3,000), CIFAR-10, Banking77.

usage: split_data.py {sst2,cifar10,banking77} DATA_DIR OUTPUT_DIR [SEED]
"""

import sys
from pathlib import Path

from datasets import DatasetDict, load_dataset


def sst2(folder: Path, seed: int) -> DatasetDict:
    """Return all 9,613 sentences, shuffled with `seed` (Morisot, arXiv 2007.13512, §4)."""
    files = [str(folder / "sst2" / f"{name}.tsv") for name in ("train", "dev", "test")]
    columns = {"column_names": ["text", "label"], "delimiter": "\t", "quoting": 3}
    rows = load_dataset("csv", data_files=files, split="train", **columns).shuffle(seed=seed)
    return DatasetDict(
        train=rows.select(range(5000)), validation=rows.select(range(5000, 6613)), test=rows.select(range(6613, 9613))
    )


def cifar10(folder: Path, seed: int) -> DatasetDict:
    """Return CIFAR-10 with a tenth of the 50,000 training rows as validation rows."""
    files = {name: str(folder / "cifar10" / f"{name}.parquet") for name in ("train", "test")}
    rows = load_dataset("parquet", data_files=files)
    halves = rows["train"].train_test_split(0.1, seed=seed)
    return DatasetDict(train=halves["train"], validation=halves["test"], test=rows["test"])


def banking77(folder: Path, seed: int) -> DatasetDict:
    """Return Banking77 with 2,000 of the 10,003 training rows as validation rows."""
    files = {name: str(folder / "banking77" / f"{name}.csv") for name in ("train", "test")}
    rows = load_dataset("csv", data_files=files).rename_column("category", "label")
    halves = rows["train"].train_test_split(2000, seed=seed)
    return DatasetDict(train=halves["train"], validation=halves["test"], test=rows["test"])


DATA = {"sst2": sst2, "cifar10": cifar10, "banking77": banking77}


def main(name: str, data_dir: Path, output_dir: Path, seed: int = 0) -> None:
    splits = DATA[name](data_dir, seed)
    output_dir.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        if name == "sst2":
            # Plain lines, because the sentences contain quotation marks.
            lines = ["text\tlabel", *(f"{row['text']}\t{row['label']}" for row in rows)]
            (output_dir / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        else:
            rows.to_parquet(output_dir / f"{split}.parquet")
        print(f"{output_dir}/{split}: {len(rows):,} rows")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5) or sys.argv[1] not in DATA:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:]))
