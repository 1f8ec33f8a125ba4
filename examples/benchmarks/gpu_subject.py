# SPDX-License-Identifier: Apache-2.0
"""One model of gpu.py: all ways to run it, and their measurements."""

import argparse
from typing import Any

import torch
from gpu_models import Shape
from gpu_timing import allocated, peak, run, stage_milliseconds, take_turns, trace

from hf_sidenet.benchmark.plain import PlainChain, plain_mainnet
from hf_sidenet.inference import Stages
from hf_sidenet.inference.compiled import CompiledStages
from hf_sidenet.inference.engine import PoolingEngine
from hf_sidenet.inference.protocols import StageChain
from hf_sidenet.inference.routings import GATES, PER_BATCH, POOLED, engines_of, full_batch


PLAIN = "plain"
EAGER, COMPILED = "eager", "compiled"
TRACED_BATCHES, TRACED_ROWS = 4, 32


class Subject:
    """One model, all ways to run it, and their measurements."""

    def __init__(self, name: str, shape: Shape, args: argparse.Namespace):
        self.name = name
        self.shape = shape
        self.args = args
        self.dtype = getattr(torch, args.dtype)
        self.device = torch.device(args.device)
        self.model = shape.build(self.dtype, args.device)
        parameters = [*self.model.parameters(), *self.model.buffers()]
        self.weights = sum(each.numel() * each.element_size() for each in parameters)
        self.held: dict[tuple[str, str], int] = {}
        self.lines: list[dict[str, Any]] = []

    def chains(self, engine: str) -> tuple[Any, Any]:
        """Return the stages, and the plain MainNet as one."""
        stages = Stages(self.model)
        plain = PlainChain(plain_mainnet(self.model))
        if engine == EAGER:
            return stages, plain
        options = {} if self.args.backend == "inductor" else {"backend": self.args.backend}
        return CompiledStages(stages, dict(options)), CompiledStages(plain, dict(options))

    @torch.inference_mode()
    def measure(self, engine: str, stages: StageChain, plain: Any, batch_size: int) -> list[dict[str, Any]]:
        """Measure every method at one batch size, one line each."""
        count = self.args.rows or (64 if batch_size == 1 else max(256, 8 * batch_size))
        rows = self.shape.rows(count, self.args.share, self.dtype)
        methods = self._methods(engine, stages, plain, full_batch(batch_size))
        for name, method in methods.items():
            self._warm_up(engine, name, method, rows, batch_size)
        found = take_turns(methods, rows, batch_size, self.args.repeats)
        for answers in (answers for name, (_, answers) in found.items() if name != PLAIN):
            _check(rows, answers)
        first, second = stage_milliseconds(stages, rows[:batch_size])
        (whole,) = stage_milliseconds(plain, rows[:batch_size])
        ideal = first + (1 - self.args.share) * second
        lines = []
        for name, (milliseconds, _) in found.items():
            line = {
                "model": self.name,
                "method": name,
                "engine": engine,
                "batch_size": batch_size,
                "rows": count,
                "ms_per_row": milliseconds,
                "speedup": found[PLAIN][0] / milliseconds,
            }
            if self.device.type == "cuda":
                held = self.weights + self.held[engine, name]
                line["peak_mib"] = (held + peak(methods[name], rows, batch_size, self.device)) / 2**20
                line["memory"] = line["peak_mib"] / (lines[0] if lines else line)["peak_mib"]
            if name != PLAIN:
                line |= {
                    "stage_0_ms": first,
                    "stage_1_ms": second,
                    "whole_over_plain": (first + second) / whole,
                    "ideal_speedup": whole / ideal,
                    "efficiency": ideal / milliseconds,
                }
            lines.append(line)
        self.lines += lines
        return lines

    @torch.inference_mode()
    def copies(self, stages: StageChain, plain: Any) -> tuple[list[str], str]:
        """Return the profiler's view of copies to the host: lines of text, and its table with SideNets."""
        rows = self.shape.rows(TRACED_BATCHES * TRACED_ROWS, self.args.share, self.dtype)
        methods = self._methods(EAGER, stages, plain, 1)
        said, table = [], ""
        for name, exits in ((PLAIN, 1), (PER_BATCH, 2)):
            counts, table = trace(methods[name], rows, TRACED_ROWS, self.device)
            each = counts["copies"] / TRACED_BATCHES / exits
            said.append(
                f"{self.name}, {name}, {TRACED_BATCHES} batches of {TRACED_ROWS}, {exits} exits each: "
                f"{counts['copies']} copies to the host ({each:g} per exit and batch), {counts['pinned']} of them "
                f"asynchronous; waits for a stream {counts['waits']}, for an event {counts['events']}"
            )
        return said, table

    def _methods(self, engine: str, stages: StageChain, plain: Any, pool: int) -> dict[str, Any]:
        in_flight = 1 if self.device.type == "cuda" else 0
        model = self.model if engine == EAGER else None
        makers = engines_of(stages, model, pool_size=pool, num_in_flight=in_flight)
        # Compiled chains are shared by all routings: measuring one shows what its graphs hold.
        names = [GATES, PER_BATCH, POOLED] if engine == EAGER else [POOLED]
        methods = {PLAIN: PoolingEngine(plain, pool_size=1, num_in_flight=in_flight)}
        return methods | {name: makers[name]() for name in names}

    def _warm_up(self, engine: str, name: str, method: Any, rows: list, batch_size: int) -> None:
        """Graphs are compiled in the first run and recorded in the second; their memory is kept."""
        before = allocated(self.device)
        for _ in range(2):
            run(method, rows, batch_size)
        self.held[engine, name] = self.held.get((engine, name), 0) + allocated(self.device) - before


def _check(rows: list, answers: list) -> None:
    """Check that every row is answered at the exit that its θ requires.

    Raises:
        RuntimeError: a row is not.
    """
    exits = {answer.place: answer.exit_index for answer in answers}
    wrong = [row.place for row in rows if exits.get(row.place) != (0 if row.thresholds[0] == 0 else 1)]
    if wrong or len(answers) != len(rows):
        failed = next((answer.error for answer in answers if answer.error is not None), None)
        raise RuntimeError(f"{len(wrong)} of {len(rows)} rows did not exit where their θ requires ({failed}).")
