# SPDX-License-Identifier: Apache-2.0
"""The benchmark: every way to answer the same real rows, timed in turns, batch by batch."""

from .methods import Answerer, Method
from .run import BenchmarkResult, run_benchmark


__all__ = ["Answerer", "BenchmarkResult", "Method", "run_benchmark"]
