# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet push` with the real client over HTTP, to a Hub on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from hf_sidenet.hub import check_shareable

from ..cli.test_cli import run, run_json
from ..hub_server import hub_server
from .folder import change_json


REPO = "me/mine"
# As long as real ones.
GOOD, WRONG, READER = (f"hf_{letter * 34}" for letter in "gwr")


@pytest.fixture
def hub(monkeypatch):
    """A Hub where one token may write, and this process talking to it."""
    with hub_server() as server:
        server.tokens = {GOOD: True, READER: False}
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", GOOD)
        yield server
        assert not server.unknown


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(done, start, *parts, code=2):
    """Errors are one line that says what to do."""
    assert (done.code, done.out) == (code, ""), done.err[-2000:]
    assert done.last.startswith(f"Error: {start}"), done.last
    assert "Traceback" not in done.err
    for part in parts:
        assert part in done.last
    for token in (GOOD, WRONG, READER):
        assert token not in done.err


def test_everything_arrives(hub, folder):
    (folder / "training_args.bin").write_bytes(b"\x80x")
    before = contents(folder)
    done = run("push", folder, REPO, "--private", "--message", "First")
    assert done.code == 0, done.err[-2000:]
    assert contents(folder) == before
    assert hub.files(REPO) == {name: data for name, data in before.items() if name != "training_args.bin"}
    assert (hub.private[REPO], hub.messages[REPO]) == (True, ["First"])
    lines = done.out.splitlines()
    assert lines[-2] == f"Pushed to {hub.endpoint}/{REPO}"
    assert lines[-1].endswith(f'trust_remote_code=True, revision="{hub.sha(REPO)}"')
    assert check_shareable(folder).text() in done.out
    assert "Not uploaded: training_args.bin" in done.out


@pytest.mark.medium
def test_private_is_not_what_exists_and_is_public(hub, folder):
    assert run("push", folder, REPO).code == 0
    change_json(folder / "config.json", alpha=[0.9, 0.9])
    done = run("push", folder, REPO, "--private", "--revision", "try")
    refused(done, "REPO: must be private", "'me/mine' exists and is public", "Nothing was uploaded")
    assert (len(hub.commits[REPO]), set(hub.heads[REPO])) == (1, {"main"})
    hub.private[REPO] = True
    for more in (["--private"], []):
        assert run("push", folder, REPO, *more).code == 0
    assert len(hub.commits[REPO]) == 2


def test_names_that_look_like_patterns(hub, folder):
    for name in ("a[1].json", "b*.json", "w.PKL", "b1.pth.tar"):
        (folder / name).write_text("1")
    assert run("push", folder, REPO).code == 0
    assert set(hub.files(REPO)) == set(contents(folder)) - {"w.PKL", "b1.pth.tar"}


def test_json(hub, folder):
    found = run_json("push", folder, REPO, "--token", GOOD)
    assert found["pushed"]["commit"] == hub.sha(REPO)
    assert found["pushed"]["repo_id"] == REPO
    assert found["code"] == check_shareable(folder).code
    assert (found["errors"], found["dry_run"], found["revision"]) == ([], False, None)
    assert not [body for body in hub.bodies if GOOD.encode() in body]


def test_a_second_push_sends_what_changed(hub, folder):
    assert run("push", folder, REPO).code == 0
    change_json(folder / "config.json", alpha=[0.9, 0.9])
    hub.bodies.clear()
    assert run("push", folder, REPO).code == 0
    assert json.loads(hub.files(REPO)["config.json"])["alpha"] == [0.9, 0.9]
    assert json.loads(hub.commits[REPO][0]["config.json"])["thresholds"] == [0.4, 0.6]
    assert not [body for body in hub.bodies if len(body) > 50_000]
    # Nothing changed: no empty commit.
    assert run("push", folder, REPO).code == 0
    assert len(hub.commits[REPO]) == 2


def test_weights_of_an_earlier_push_go(hub, folder):
    for name in ("model-00001-of-00001.safetensors", "adapter.safetensors"):
        save_file({"x": torch.zeros(1)}, folder / name)
    assert run("push", folder, REPO).code == 0
    assert "model-00001-of-00001.safetensors" in hub.files(REPO)
    for name in ("model-00001-of-00001.safetensors", "adapter.safetensors"):
        (folder / name).unlink()
    assert run("push", folder, REPO).code == 0
    # Files other than the weights may belong to somebody else.
    assert set(hub.files(REPO)) == {*contents(folder), "adapter.safetensors"}


def test_a_branch(hub, folder):
    assert run("push", folder, REPO).code == 0
    change_json(folder / "config.json", alpha=[0.9, 0.9])
    for _ in range(2):
        assert run("push", folder, REPO, "--revision", "try/one").code == 0
    assert json.loads(hub.files(REPO)["config.json"])["thresholds"] == [0.4, 0.6]
    assert json.loads(hub.files(REPO, "try/one")["config.json"])["alpha"] == [0.9, 0.9]
    assert set(hub.heads[REPO]) == {"main", "try/one"}


def test_what_does_not_load_elsewhere_is_not_pushed(hub, folder):
    (folder / "gate.py").unlink()
    change_json(folder / "config.json", _name_or_path="/data/secret")
    done = run("push", folder, REPO)
    assert done.code == 2
    assert done.last.startswith("Error: DIRECTORY: would not load elsewhere. First of 2 errors: gate.py is missing")
    assert "Error: config.json: `_name_or_path` is '/data/secret'" in done.out
    assert done.out.splitlines()[-1] == "Nothing was uploaded: fix the errors above and run it again."
    assert not hub.commits
    assert run_json("push", folder, REPO, code=2)["pushed"] is None


def test_a_dry_run_asks_nobody(folder, monkeypatch):
    def refuse(*_, **__):
        pytest.fail("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    done = run("push", folder, "--dry-run")
    assert done.code == 0, done.err[-2000:]
    assert done.out == check_shareable(folder).text() + "\n\nNothing was uploaded: dry run.\n"
    assert run_json("push", folder, REPO, "--dry-run")["repo"] == REPO
    (folder / "config.json").unlink()
    assert run("push", folder, "--dry-run").code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", REPO], "DIRECTORY: must be a folder, got 'nowhere'."),
        (["."], "REPO: must be given unless --dry-run is."),
        ([".", "a/b/c"], "REPO: must be a name such as 'my-org/my-classifier', got 'a/b/c'."),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(run("push", *arguments), message)


def test_a_wrong_token(hub, folder):
    before = contents(folder)
    done = run("push", folder, REPO, "--token", WRONG)
    refused(
        done, "--token: must be valid, but the Hub rejected it", "(401)", "`hf auth login`", "Nothing here was changed"
    )
    assert not hub.commits
    assert contents(folder) == before
    assert run("push", folder, REPO).code == 0


def test_no_token(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "none"))
    refused(run("push", folder, REPO), "--token: must be ", "(401)", "`hf auth login`")


def test_a_token_that_may_only_read(hub, folder):
    assert run("push", folder, REPO).code == 0
    change_json(folder / "config.json", alpha=[0.9, 0.9])
    for more in ([], ["--revision", "other"]):
        done = run("push", folder, REPO, "--token", READER, *more)
        refused(done, "--token: must have write access to 'me/mine', but does not (403)")
    assert len(hub.commits[REPO]) == 1


def test_a_repository_that_is_not_there(hub, folder, monkeypatch):
    from huggingface_hub import HfApi

    created = HfApi.create_repo

    def lose(*args, **kwargs):
        url = created(*args, **kwargs)
        hub.commits.clear()
        return url

    monkeypatch.setattr(HfApi, "create_repo", lose)
    refused(run("push", folder, REPO), "REPO: must be a repository that you can see and write to", "'me/mine' (404)")


@pytest.fixture
def no_waiting(monkeypatch):
    """The client tries again, with pauses."""
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("cut", ["POST /api/models/me/mine/commit/main", "PUT /large/.*", "POST .*/objects/batch"])
def test_an_interrupted_upload_is_completed_by_the_next(cut, hub, folder):
    before = contents(folder)
    hub.cut = [cut]
    done = run("push", folder, REPO)
    refused(
        done,
        "the upload to 'me/mine' was interrupted (",
        "run the same command again to upload what is missing",
        code=1,
    )
    assert contents(folder) == before
    # No partial upload.
    assert hub.files(REPO) == {}
    arrived = len(hub.large)
    assert (arrived > 0) == ("commit" in cut)
    hub.cut = []
    hub.bodies.clear()
    done = run("push", folder, REPO)
    assert done.code == 0, done.err[-2000:]
    assert hub.files(REPO) == before
    weights = before["model.safetensors"]
    assert (weights in hub.bodies) == (arrived == 0)


@pytest.mark.usefixtures("no_waiting")
def test_no_hub_there(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(run("push", folder, REPO), "the upload to 'me/mine' was interrupted (", "Connection refused", code=1)


def test_offline(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(run("push", folder, REPO), "the Hub is disabled here: unset HF_HUB_OFFLINE", code=1)


@pytest.mark.slow
def test_as_a_user_types_it(hub, folder):
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    command = "hf-sidenet push mine me/mine --private"
    done = subprocess.run(command, shell=True, cwd=folder.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"Pushed to {hub.endpoint}/me/mine" in done.stdout
    assert "Error" not in done.stdout + done.stderr
    assert hub.files(REPO) == contents(folder)
    wrong = {**env, "HF_TOKEN": WRONG}
    done = subprocess.run(command, shell=True, cwd=folder.parent, env=wrong, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("Error: --token: must be valid, but the Hub rejected it")
    assert "Traceback" not in done.stderr
