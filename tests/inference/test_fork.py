# SPDX-License-Identifier: Apache-2.0
"""A process that is forked from one with a runner answers too, or says why not."""

import json
import os
import subprocess
import sys

import pytest

from hf_sidenet import SideNetRunner
from hf_sidenet.export import OnnxStages, export_onnx
from tests.models.tiny import bert_with_sidenets


pytestmark = [
    pytest.mark.medium,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system whose processes fork"),
]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_process_answers(threads):
    command = [sys.executable, "-m", "tests.inference.run_forked", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    child, parent = map(json.loads, done.stdout.splitlines())
    assert child == {"right": True, "threads": 1}
    assert parent == {"right": True, "status": 0}
    assert ("without torch's 2 threads" in done.stderr) == (threads == 2)


def answers_in_a_fork(runner):
    """What a forked process finds: the error of each row."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        found = [str(answer.error) for answer in runner.predict([{"input_ids": [5, 6]}, {"input_ids": [7]}])]
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        found = json.loads(file.read())
    os.wait()
    return found


def test_onnx_runtime(tmp_path):
    pytest.importorskip("onnxruntime", reason='needs pip install "hf_sidenet[onnx]"')
    export_onnx(bert_with_sidenets((1,)), tmp_path / "onnx", progress=False)
    alone, several = (SideNetRunner(OnnxStages.load(tmp_path / "onnx", num_threads=n)) for n in (1, 2))
    assert answers_in_a_fork(alone) == ["None", "None"]
    for error in answers_in_a_fork(several):
        assert "this process was forked after the stages were opened" in error
