# SPDX-License-Identifier: Apache-2.0
"""Run the README's first Python block on real data, and print its output.

usage: readme_numbers.py MAINNET DATA_FOLDER

MAINNET is a fine-tuned text classifier. DATA_FOLDER has train.tsv, validation.tsv and test.tsv, each with a header
line.
"""

import argparse
import os
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import set_seed

from hf_sidenet.data import load_splits
from hf_sidenet.evaluation.provenance import hardware


README = Path(__file__).parents[2] / "README.md"
SPLITS = ("train", "validation", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mainnet", type=Path, help="folder")
    parser.add_argument("data_folder", type=Path)
    args = parser.parse_args()
    block = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)[1]
    files = {split: str(args.data_folder / f"{split}.tsv") for split in SPLITS}
    rows, _ = load_splits(files=files, splits=SPLITS, required=SPLITS)
    set_seed(0)
    with TemporaryDirectory() as folder:
        shutil.copytree(args.mainnet, Path(folder) / "my-classifier")
        os.chdir(folder)
        exec(compile(block, str(README), "exec"), dict(rows))
    print(", ".join(f"{len(found):,} {split} rows" for split, found in rows.items()))
    print(hardware())


if __name__ == "__main__":
    main()
