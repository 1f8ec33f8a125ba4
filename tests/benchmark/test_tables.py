# SPDX-License-Identifier: Apache-2.0
"""Tables and text, from made-up measurements."""

from hf_sidenet.benchmark.methods import OURS, RIVAL, RUNNER
from hf_sidenet.benchmark.tables import method_table, stage_table, text_of
from hf_sidenet.benchmark.verdict import verdict_of

from .cases import result, size, stage_result


SETTINGS = {"repeats": 3, "num_threads": 2, "device": "cpu", "max_accuracy_drop": 0.01}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def runner(**kwargs):
    fields = {
        "speed": 1234.5,
        "shares": [0.5, 0.25, 0.25],
        "twin": result().name,
        "ratio": 1.7,
        "best_ratio": 1.2,
        "ideal_milliseconds": 0.7,
        "efficiency": 0.987,
        "other_labels": 1,
        "other_exits": 3,
    }
    return result(RUNNER, OURS, **{**fields, **kwargs})


def test_method_table():
    header, _, plain, mine = method_table([result(), runner()]).splitlines()
    by_name = dict(zip(cells(header), cells(mine), strict=True))
    assert by_name == {
        "method": "runner, float32, eager, by length",
        "rows/s": "1,234",
        "ms/row": "0.810",
        "p50 ms": "10.0",
        "p95": "20.0",
        "p99": "30.0",
        "accuracy %": "90.0",
        "exits %": "50/25/25",
        "ideal ms/row": "0.700",
        "of ideal": "0.99",
        "× twin": "1.70",
        "× its best": "1.20",
        "other": "1/3",
    }
    assert dict(zip(cells(header), cells(plain), strict=True))["× twin"] == "–"
    assert "peak MB" in method_table([result(memory_mb=512.3)])
    assert "| 512 |" in method_table([result(memory_mb=512.3)]).replace("    ", " ").replace("   ", " ").replace(
        "  ", " "
    )
    # No method has these.
    assert not {"exits %", "× twin", "other"} & set(cells(method_table([result()]).splitlines()[0]))


def test_stage_table():
    header, _, line, empty = stage_table([stage_result(1.034), stage_result(None, "bfloat16")]).splitlines()
    assert cells(header) == ["stages alone, ms/row", "t0", "t1", "t2", "(t0 + t1 + …) / plain"]
    assert cells(line) == ["float32, eager, by length", "1.000", "2.000", "3.000", "1.03"]
    assert cells(empty)[-1] == "–"


def test_text():
    slow = result("cascade", RIVAL, 50, accuracy=0.6)
    sizes = [
        size(8, result(speed=700), slow, runner(notes=["θ by hand", "took 'gates'"]), stages=[stage_result(1.0)]),
        size(32, result(speed=600, spread=0.07), runner(notes=["θ by hand", "took 'pooled'"])),
    ]
    verdict = verdict_of(sizes, 0.01)
    text = text_of(sizes, verdict, SETTINGS, {"model": "a-model", "data": "rows.tsv"})
    lines = text.splitlines()
    assert lines[:2] == ["- model: a-model", "- data: rows.tsv"]
    assert lines[3].startswith(
        "Worth it here: runner, float32, eager, by length at batch size 8 answers 1.70× its twin"
    )
    assert lines[5].startswith("- Batch size 8: worth it here: ")
    assert lines[6].startswith("- Batch size 32: worth it here: ")
    assert (
        "Not counted, since their accuracy is lower by more than 1 % of the rows: cascade, float32, eager, by length "
        "(batch size 8)."
    ) in lines
    assert [line for line in lines if line.startswith("## ")] == [
        "## Batch size 8, 1,000 rows",
        "## Batch size 32, 1,000 rows",
    ]
    assert text.count("stages alone") == 1
    assert "in 3 rounds after a warm-up" in text
    assert "2 CPU threads, device cpu" in text
    assert "7 % of its median" in text
    assert lines[-1] == (
        "- runner, float32, eager, by length: θ by hand; took 'gates' at batch size 8; took 'pooled' at batch size 32"
    )
