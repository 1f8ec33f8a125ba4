# SPDX-License-Identifier: Apache-2.0
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
