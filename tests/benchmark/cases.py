# SPDX-License-Identifier: Apache-2.0
"""Rows, methods and measurements for the benchmark's tests."""

import torch

from hf_sidenet.benchmark.measures import MethodResult, SizeResult, StageResult
from hf_sidenet.benchmark.methods import EAGER, PLAIN, PLAIN_MAINNET, Method
from hf_sidenet.inference.rows import Prediction, Row


def rows_of(lengths):
    """Texts of these lengths."""
    return [Row(place, {"input_ids": torch.arange(length) + 3}, length, ()) for place, length in enumerate(lengths)]


class Echo:
    """Answers class 1 at exit 0; rows at odd places wait for the flush.

    Args:
        log (`list`): gets `(name, what, places)` of each call.
    """

    def __init__(self, name="echo", log=None, waits=False):
        self.name = name
        self.log = [] if log is None else log
        self.waits = waits
        self.waiting = []

    def put(self, rows):
        self.log.append((self.name, "put", [row.place for row in rows]))
        stay = [row for row in rows if self.waits and row.place % 2]
        self.waiting += stay
        return [self.answer(row) for row in rows if row not in stay]

    def flush(self):
        self.log.append((self.name, "flush", [row.place for row in self.waiting]))
        done, self.waiting = [self.answer(row) for row in self.waiting], []
        return done

    def answer(self, row):
        return Prediction(row.place, "one", 1, torch.tensor([0.0, 1.0]), 0.7, 0)


def echo_method(kind="echo", group=PLAIN, bucketed=False, answerer=None, **kwargs):
    """A method that makes this [`Echo`]."""
    return Method(
        kind,
        group,
        "float32",
        EAGER,
        bucketed,
        make=lambda *_: Echo(kind) if answerer is None else answerer,
        **kwargs,
    )


def result(kind=PLAIN_MAINNET, group=PLAIN, speed=100.0, precision="float32", engine=EAGER, bucketed=True, **kwargs):
    """A made-up measurement of 1,000 rows."""
    fields = {
        "name": f"{kind}, {precision}, {engine}, {'by length' if bucketed else 'mixed'}",
        "seconds": 1000 / speed,
        "rows_per_second": speed,
        "milliseconds": 1e3 / speed,
        "spread": 0.03,
        "latency_ms": [10.0, 20.0, 30.0],
        "accuracy": 0.9,
        "shares": [1.0],
    }
    return MethodResult(
        kind=kind, group=group, precision=precision, engine=engine, bucketed=bucketed, **{**fields, **kwargs}
    )


def size(batch_size, *methods, stages=()):
    """A made-up batch size."""
    return SizeResult(batch_size, 1000, list(methods), list(stages))


def stage_result(sum_ratio, precision="float32"):
    """Made-up times of three stages."""
    return StageResult(precision, EAGER, True, [1.0, 2.0, 3.0], sum_ratio)
