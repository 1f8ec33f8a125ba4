# SPDX-License-Identifier: Apache-2.0
"""Is a leak told from natural repetition? Split texts repeatedly at random into earlier and fresh ones.

Fresh ones repeat naturally, and none should be rejected; then some of them are replaced by copies of earlier
ones, in different case, and all should be.

usage: repeats.py FILE [FILE ...] [--column NAME] [--fresh 0.25] [--splits 20]
"""

import argparse
import random
from pathlib import Path

from hf_sidenet.calibration import Repeats, find_repeats
from hf_sidenet.data.loading import read_file
from hf_sidenet.io.fingerprint import content_keys


LEAKED = (0.05, 0.2, 0.5)


def split(texts: list[str], fresh: float, seed: int, leaked: float = 0.0) -> Repeats:
    """Return the result for one random split, with a share of the fresh rows replaced."""
    chance = random.Random(seed)
    mixed = chance.sample(texts, len(texts))
    count = round(fresh * len(texts))
    earlier, rows = mixed[count:], mixed[:count]
    copies = [text.upper() for text in chance.sample(earlier, round(leaked * count))]
    return find_repeats(content_keys(earlier), content_keys([*copies, *rows[len(copies) :]]))


def line(path: Path, column: str | None, fresh: float, splits: int) -> list[str]:
    """Return one row of the table."""
    names = None if column else ["text", "label"]
    texts = read_file("FILE", path, names)[column or "text"][:]
    found = [split(texts, fresh, seed) for seed in range(splits)]
    cells = [
        f"{path.parent.name}/{path.name}",
        f"{len(texts):,}",
        f"{sum(each.expected for each in found) / splits:.4f}",
        f"{sum(each.num_repeated / each.num_rows for each in found) / splits:.4f}",
        str(sum(each.too_many for each in found)),
    ]
    return cells + [str(sum(split(texts, fresh, seed, share).too_many for seed in range(splits))) for share in LEAKED]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="csv or tsv files of texts")
    parser.add_argument("--column", metavar="NAME", help="with the texts; without it, files of text and class alone")
    parser.add_argument("--fresh", type=float, default=0.25, help="share of the rows that are fresh")
    parser.add_argument("--splits", type=int, default=20)
    args = parser.parse_args()
    header = ["file", "texts", "expected", "found", f"of {args.splits} refused"]
    header += [f"{share:.0%} leaked: refused" for share in LEAKED]
    lines = [header, [":--", *["--:"] * (len(header) - 1)]]
    lines += [line(path, args.column, args.fresh, args.splits) for path in args.files]
    print("\n".join(f"| {' | '.join(each)} |" for each in lines))


if __name__ == "__main__":
    main()
