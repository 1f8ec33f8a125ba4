# SPDX-License-Identifier: Apache-2.0
"""A Hub on this machine for tests of pushing: the requests of `huggingface_hub`, models only, in memory.

Clients need `HF_ENDPOINT` (the server's `endpoint`), `HF_HUB_DISABLE_XET=1` and any `HF_TOKEN`, set before the import.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


LARGE = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".png")
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


class HubServer(ThreadingHTTPServer):
    """Holds what was pushed.

    Attributes:
        commits (`dict[str, list[dict[str, bytes]]]`): for each repository, the files of each commit, of any branch.
        heads (`dict[str, dict[str, int]]`): for each repository, how many commits there were when a branch last moved.
        tokens (`dict[str, bool]`): those that are known, and whether they may write; while empty all are fine.
        cut (`list[str]`): patterns of "METHOD /path": the line goes dead in the middle of such requests.
        private (`dict[str, bool]`): for each repository, as it was created.
        bodies (`list[bytes]`): of every request.
        messages (`dict[str, list[str]]`): for each repository, those of its commits.
        unknown (`list[str]`): requests that a Hub would know and this server does not.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.heads: dict[str, dict[str, int]] = {}
        self.messages: dict[str, list[str]] = {}
        self.tokens: dict[str, bool] = {}
        self.cut: list[str] = []
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.bodies: list[bytes] = []
        self.unknown: list[str] = []

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """What a branch or a commit holds."""
        number = self.number(repo, revision)
        return self.commits[repo][number - 1] if number else {}

    def number(self, repo: str, revision: str) -> int | None:
        """Of a commit, from 1 on; 0 for an empty branch, `None` for what is none."""
        shas = {self._sha(repo, number): number for number in range(len(self.commits[repo]) + 1)}
        return self.heads[repo].get(unquote(revision), shas.get(revision))

    def ever(self, repo: str) -> set[str]:
        """Names of all files that were in it at any time: what is deleted stays in a repository's history."""
        return set().union(*self.commits[repo])

    def sha(self, repo: str, revision: str = "main") -> str:
        """Of the last commit of a branch."""
        return self._sha(repo, self.number(repo, revision))

    @staticmethod
    def _sha(repo: str, number: int) -> str:
        return hashlib.sha1(f"{repo} {number}".encode()).hexdigest()


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A server in a thread of its own, on a free port."""
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_: Any) -> None:
        """Nothing: test output stays readable."""

    def _answer(self) -> None:
        path, size = self.path.partition("?")[0], int(self.headers.get("Content-Length") or 0)
        if any(re.fullmatch(pattern, f"{self.command} {path}") for pattern in self.server.cut):
            self.rfile.read(size // 2)
            self.close_connection = True
            return None
        self.body = self.rfile.read(size)
        self.server.bodies.append(self.body)
        refused = self._refused(path)
        if refused:
            return self._json({"error": "refused"}, refused)
        for method, pattern, function in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                found = match.groupdict()
                repo, revision = found.get("repo"), found.get("revision")
                if repo is not None and repo not in self.server.commits:
                    return self._missing("RepoNotFound")
                if revision is not None and self.server.number(repo, revision) is None:
                    return self._missing("RevisionNotFound")
                return function(self, **match.groupdict())
        if not path.startswith("/api/agent-harnesses"):
            self.server.unknown.append(f"{self.command} {self.path}")
        return self._missing("EntryNotFound")

    def _refused(self, path: str) -> int | None:
        """The status for a token that is not known, or may not write."""
        if not self.server.tokens or path.startswith("/large/"):
            return None
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        writes = self.command != "GET" and self.command != "HEAD"
        if given not in self.server.tokens:
            return 401 if given or writes else None
        return 403 if writes and not self.server.tokens[given] else None

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def _missing(self, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(b"", 404, {"X-Error-Code": code, **(headers or {})})

    def _create(self) -> None:
        wanted = json.loads(self.body)
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        exists = repo in self.server.commits
        self.server.commits.setdefault(repo, [])
        self.server.heads.setdefault(repo, {"main": 0})
        self.server.messages.setdefault(repo, [])
        self.server.private.setdefault(repo, _is_private(wanted))
        self._json({"url": f"{self.server.endpoint}/{repo}", "name": repo}, 409 if exists else 200)

    def _validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def _branch(self, repo: str, branch: str) -> None:
        heads, branch = self.server.heads[repo], unquote(branch)
        if branch in heads:
            return self._json({"error": "exists"}, 409)
        heads[branch] = heads["main"]
        return self._json({})

    def _refs(self, repo: str) -> None:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": self.server.sha(repo, name)}
            for name in self.server.heads[repo]
        ]
        self._json({"branches": branches, "converts": [], "tags": []})

    def _preupload(self, repo: str, revision: str) -> None:
        there = self.server.files(repo, revision)
        files = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            is_large = path.endswith(LARGE)
            # The client leaves out what is there already.
            known = {} if path not in there else {"oid": (_oid if is_large else _blob)(there[path])}
            mode = "lfs" if is_large else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        self._json({"files": files})

    def _batch(self, repo: str) -> None:
        objects = [{"oid": file["oid"], "size": file["size"]} for file in json.loads(self.body)["objects"]]
        for file in objects:
            # What arrived before the line went dead need not be sent again.
            if file["oid"] not in self.server.large:
                file["actions"] = {"upload": {"href": f"{self.server.endpoint}/large/{file['oid']}"}}
        self._json({"transfer": "basic", "objects": objects})

    def _put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._send(b"", 400)
        self.server.large[oid] = self.body
        return self._send(b"")

    def _commit(self, repo: str, revision: str) -> None:
        files = dict(self.server.files(repo, revision))
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.server.messages[repo].append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        self.server.commits[repo].append(files)
        self.server.heads[repo][unquote(revision)] = len(self.server.commits[repo])
        sha = self.server.sha(repo, revision)
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.server.endpoint}/{repo}/commit/{sha}"})

    def _info(self, repo: str, revision: str | None = None) -> None:
        revision = revision or "main"
        siblings = [{"rfilename": path} for path in self.server.files(repo, revision)]
        sha, private = self.server.sha(repo, revision), self.server.private[repo]
        self._json({"id": repo, "sha": sha, "private": private, "siblings": siblings, "tags": []})

    def _tree(self, repo: str, revision: str) -> None:
        files = self.server.files(repo, revision).items()
        self._json([{"type": "file", "path": path, "size": len(data), "oid": _oid(data)} for path, data in files])

    def _subtree(self, repo: str, revision: str) -> None:
        self._missing("EntryNotFound")

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        commit = {"X-Repo-Commit": self.server.sha(repo, revision)}
        content = self.server.files(repo, revision).get(path)
        if content is None:
            return self._missing("EntryNotFound", commit)
        return self._send(content, headers={**commit, "ETag": f'"{_oid(content)}"'})


def _is_private(wanted: dict[str, Any]) -> bool:
    """Clients before and after `visibility` came."""
    return wanted.get("visibility") == "private" or wanted.get("private") is True


def _oid(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _blob(content: bytes) -> str:
    """The name that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


REVISION = r"(?P<revision>[\w.%-]+)"
ROUTES = [
    ("POST", "/api/repos/create", _Handler._create),
    ("POST", "/api/validate-yaml", _Handler._validate),
    ("POST", f"/api/models/{REPO}/preupload/{REVISION}", _Handler._preupload),
    ("POST", rf"/api/models/{REPO}/branch/(?P<branch>[^/]+)", _Handler._branch),
    ("GET", f"/api/models/{REPO}/refs", _Handler._refs),
    ("POST", f"/{REPO}\\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", r"/large/(?P<oid>\w+)", _Handler._put),
    ("POST", f"/api/models/{REPO}/commit/{REVISION}", _Handler._commit),
    ("GET", rf"/api/models/{REPO}(/revision/{REVISION})?", _Handler._info),
    ("GET", rf"/api/models/{REPO}/tree/{REVISION}", _Handler._tree),
    ("GET", rf"/api/models/{REPO}/tree/{REVISION}/.+", _Handler._subtree),
    ("GET HEAD", rf"/{REPO}/resolve/{REVISION}/(?P<path>.+)", _Handler._resolve),
]
