# SPDX-License-Identifier: Apache-2.0
"""The honest benchmark: every way to answer the same real rows, interleaved batch by batch."""

from .methods import Answering, Method
from .run import BenchmarkResult, run_benchmark


__all__ = ["Answering", "BenchmarkResult", "Method", "run_benchmark"]
