# SPDX-License-Identifier: Apache-2.0
"""The share of rows that each exit answers is among what the stock `Trainer` sends to a tracker."""

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.medium


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """(folder with what was logged, what the model's own `exit_index` says about each exit)."""
    folder = tmp_path_factory.mktemp("trackers")
    trackers = [name for name in ("tensorboard", "trackio") if importlib.util.find_spec(name) is not None]
    places = {"TENSORBOARD_LOGGING_DIR": str(folder / "events"), "TRACKIO_DIR": str(folder / "trackio")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.integrations.log_shares", str(folder / "trainer"), *trackers],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **places},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("shares ")]
    shares = list(map(float, line.split()[1:]))
    assert 0 < shares[0] < 1
    return folder, shares


def check(logged, shares):
    """After training with `compute_exit_metrics`, the model's own exits were on with `routed_exit_metrics`."""
    assert [logged[f"test/exit_{i}_share"] for i in range(3)] == pytest.approx(shares)
    assert "test/exit_0_routed_accuracy" in logged
    during = [logged[f"eval/exit_{i}_share"] for i in range(3)]
    assert sum(during) == pytest.approx(1)
    assert 0 < during[0] < 1
    assert {f"eval/exit_{i}_accuracy" for i in range(3)} < logged.keys()


def test_tensorboard(logged):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder, shares = logged
    values = {}
    for file in (folder / "events").rglob("events.out.tfevents.*"):
        events = reader.EventAccumulator(str(file)).Reload()
        values |= {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    check(values, shares)


def test_trackio(logged):
    pytest.importorskip("trackio")
    folder, shares = logged
    (file,) = (folder / "trackio").glob("*.db")
    with sqlite3.connect(file) as database:
        rows = [json.loads(text) for (text,) in database.execute("select metrics from metrics order by id")]
    check({name: value for row in rows for name, value in row.items()}, shares)
