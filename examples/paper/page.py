# SPDX-License-Identifier: Apache-2.0
"""Write the page and the figures of docs/results/paper from the tables there: no number is entered by hand.

usage: page.py [FOLDER]
"""

import argparse
from pathlib import Path

from csv_tables import PROVENANCE, read_table
from figures import draw
from page_beyond import (
    attack_section,
    compression_section,
    full_size_section,
    guarantee_section,
    policies_section,
    published_section,
)
from page_paper import (
    aims_section,
    calibration_section,
    curves_section,
    ensemble_section,
    harm_section,
    modes_section,
    parameters_section,
    rivals_section,
    runs_section,
    theta_section,
)
from page_text import table

from hf_sidenet.io.files import replacing


# Section → the tables it reads.
SECTIONS = {
    runs_section: ["runs"],
    aims_section: ["aims", "calibration"],
    curves_section: ["runs", "chosen", "curves"],
    parameters_section: ["chosen"],
    calibration_section: ["calibration"],
    theta_section: ["theta"],
    harm_section: ["differences"],
    modes_section: ["runs", "differences"],
    rivals_section: ["rivals"],
    ensemble_section: ["differences"],
    policies_section: ["policies"],
    guarantee_section: ["guarantee"],
    compression_section: ["compression"],
    attack_section: ["attack"],
    full_size_section: ["full_size"],
    published_section: ["published", "chosen"],
}
TITLE = "# The paper, reproduced and extended"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs/results/paper"))
    args = parser.parse_args()
    try:
        print("\n".join(str(path) for path in write_page(args.folder)))
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")


def write_page(folder: Path) -> list[Path]:
    """Write `index.md` and the figures; sections whose tables are missing are left out.

    Args:
        folder (`Path`): with the tables; also receives `index.md` and the figures.

    Returns:
        `list[Path]`: the written files.

    Raises:
        ValueError: there are no tables.
    """
    origins = read_table(folder, PROVENANCE)
    tables = {row["table"]: read_table(folder, row["table"]) for row in origins}
    tables["published"] = read_table(Path(__file__).parent, "published")
    sections = [make(tables) for make, needed in SECTIONS.items() if all(name in tables for name in needed)]
    columns = ["command", "date", "commit", "versions", "hardware"]
    made = table(
        ["table", *columns],
        [[f"[{row['table']}.csv]({row['table']}.csv)", *(str(row[key]) for key in columns)] for row in origins],
    )
    introduction = (Path(__file__).parent / "introduction.md").read_text(encoding="utf-8").strip()
    parts = [TITLE, introduction, *sections, f"## Where every number comes from\n\n{made}"]
    page = folder / "index.md"
    with replacing(page) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return [page, *draw(tables, folder)]


if __name__ == "__main__":
    main()
