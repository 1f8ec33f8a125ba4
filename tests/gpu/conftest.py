# SPDX-License-Identifier: Apache-2.0
"""What is true on a GPU: `make test-gpu` runs these tests and ends with a table. Without a CUDA device they skip."""

import os
import platform

import pytest
import torch
import transformers

from . import cases


# Read when cuBLAS is first used; without it, resuming could not be compared exactly.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

COLUMNS = ("property", "model", "value", "result")


@pytest.fixture(autouse=True)
def device():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    # In TF32, the default of convolutions, fp32 has 10 bits.
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield torch.device("cuda")
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.fixture(params=list(cases.CASES))
def case(request):
    return cases.CASES[request.param]


@pytest.fixture(params=["tiny BERT", "tiny ResNet"])
def tiny_case(request):
    return cases.CASES[request.param]


@pytest.fixture
def record(record_property):
    """`record(property, model, value)` puts a line into the table at the end."""

    def add(name, model, value):
        record_property("gpu", [name, model, str(value)])

    return add


def pytest_terminal_summary(terminalreporter):
    rows = table(terminalreporter.stats)
    if not rows:
        return
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    terminalreporter.section(f"on {name}")
    terminalreporter.line(f"{versions}, transformers {transformers.__version__}, Python {platform.python_version()}")
    for line in aligned([COLUMNS, *rows]):
        terminalreporter.line(line)


def table(stats):
    """A row for each line that a test here recorded, or for the test if it recorded none."""
    rows = []
    for outcome in ("passed", "failed", "error"):
        for report in stats.get(outcome, []):
            if "tests/gpu/" not in report.nodeid or (outcome == "passed" and report.when != "call"):
                continue
            lines = [value for key, value in report.user_properties if key == "gpu"]
            rows += [(*line, outcome) for line in lines or [[report.nodeid.rpartition("::")[2], "", ""]]]
    return sorted(rows)


def aligned(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
