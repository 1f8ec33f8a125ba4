# SPDX-License-Identifier: Apache-2.0
from hypothesis import given
from hypothesis import strategies as st

from hf_sidenet.io.tables import aligned, markdown_table


ROWS = [["SideNet 0", "mean", "0.9"], ["MainNet", "", "12.25"]]


def test_aligned():
    assert aligned(["exit", "pooling", "θ"], ROWS).splitlines() == [
        "exit       pooling      θ",
        "SideNet 0     mean    0.9",
        "MainNet             12.25",
    ]


def test_markdown():
    assert markdown_table(["exit", "pooling", "θ"], ROWS, left=(0, 1)).splitlines() == [
        "| exit | pooling | θ |",
        "| :-- | :-- | --: |",
        "| SideNet 0 | mean | 0.9 |",
        "| MainNet |  | 12.25 |",
    ]
    assert markdown_table(["a", "b"], []).splitlines()[1] == "| :-- | --: |"


@given(st.lists(st.lists(st.sampled_from(["", "a", "θ ≥ 1", "1,234"]), min_size=3, max_size=3), max_size=4))
def test_tables_line_up(lines):
    table = markdown_table(["method", "b", "×"], lines, padded=True).splitlines()
    assert len(table) == len(lines) + 2
    assert len({len(line) for line in table}) == 1
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]] == lines
