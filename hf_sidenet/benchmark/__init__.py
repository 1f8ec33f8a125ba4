# SPDX-License-Identifier: Apache-2.0
"""The benchmark: several methods timed on the same real rows, interleaved batch by batch."""

from .methods import Answerer, Method
from .run import BenchmarkResult, run_benchmark


__all__ = ["Answerer", "BenchmarkResult", "Method", "run_benchmark"]
