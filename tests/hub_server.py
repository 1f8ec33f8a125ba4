# SPDX-License-Identifier: Apache-2.0
"""A Hub on this machine for tests of pushing: the requests of `huggingface_hub`, models only, one branch, in memory.

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


LARGE = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".png")
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


class HubServer(ThreadingHTTPServer):
    """Holds what was pushed.

    Attributes:
        commits (`dict[str, list[dict[str, bytes]]]`): for each repository, the files of each commit that changed some.
        private (`dict[str, bool]`): for each repository, as it was created.
        bodies (`list[bytes]`): of every request.
        unknown (`list[str]`): requests that a Hub would know and this server does not.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.bodies: list[bytes] = []
        self.unknown: list[str] = []

    def files(self, repo: str) -> dict[str, bytes]:
        """What the repository holds now."""
        return self.commits[repo][-1] if self.commits[repo] else {}

    def ever(self, repo: str) -> set[str]:
        """Names of all files that were in it at any time: what is deleted stays in a repository's history."""
        return set().union(*self.commits[repo])

    def sha(self, repo: str) -> str:
        """Of the last commit."""
        return hashlib.sha1(f"{repo} {len(self.commits[repo])}".encode()).hexdigest()


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
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.bodies.append(self.body)
        path = self.path.partition("?")[0]
        for method, pattern, function in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                repo = match.groupdict().get("repo")
                if repo is not None and repo not in self.server.commits:
                    return self._missing("RepoNotFound")
                return function(self, **match.groupdict())
        if not path.startswith("/api/agent-harnesses"):
            self.server.unknown.append(f"{self.command} {self.path}")
        return self._missing("EntryNotFound")

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
        self.server.private.setdefault(repo, _is_private(wanted))
        self._json({"url": f"{self.server.endpoint}/{repo}", "name": repo}, 409 if exists else 200)

    def _validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def _preupload(self, repo: str) -> None:
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        modes = [{"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular"} for path in paths]
        self._json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})

    def _batch(self, repo: str) -> None:
        objects = [{"oid": file["oid"], "size": file["size"]} for file in json.loads(self.body)["objects"]]
        for file in objects:
            file["actions"] = {"upload": {"href": f"{self.server.endpoint}/large/{file['oid']}"}}
        self._json({"transfer": "basic", "objects": objects})

    def _put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._send(b"", 400)
        self.server.large[oid] = self.body
        return self._send(b"")

    def _commit(self, repo: str) -> None:
        files = dict(self.server.files(repo))
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        self.server.commits[repo].append(files)
        sha = self.server.sha(repo)
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.server.endpoint}/{repo}/commit/{sha}"})

    def _info(self, repo: str) -> None:
        siblings = [{"rfilename": path} for path in self.server.files(repo)]
        self._json({"id": repo, "sha": self.server.sha(repo), "siblings": siblings, "tags": []})

    def _tree(self, repo: str) -> None:
        files = self.server.files(repo).items()
        self._json([{"type": "file", "path": path, "size": len(data), "oid": _oid(data)} for path, data in files])

    def _subtree(self, repo: str) -> None:
        self._missing("EntryNotFound")

    def _resolve(self, repo: str, path: str) -> None:
        commit = {"X-Repo-Commit": self.server.sha(repo)}
        content = self.server.files(repo).get(path)
        if content is None:
            return self._missing("EntryNotFound", commit)
        return self._send(content, headers={**commit, "ETag": f'"{_oid(content)}"'})


def _is_private(wanted: dict[str, Any]) -> bool:
    """Clients before and after `visibility` came."""
    return wanted.get("visibility") == "private" or wanted.get("private") is True


def _oid(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


ROUTES = [
    ("POST", "/api/repos/create", _Handler._create),
    ("POST", "/api/validate-yaml", _Handler._validate),
    ("POST", f"/api/models/{REPO}/preupload/main", _Handler._preupload),
    ("POST", f"/{REPO}\\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", r"/large/(?P<oid>\w+)", _Handler._put),
    ("POST", f"/api/models/{REPO}/commit/main", _Handler._commit),
    ("GET", rf"/api/models/{REPO}(/revision/\w+)?", _Handler._info),
    ("GET", rf"/api/models/{REPO}/tree/\w+", _Handler._tree),
    ("GET", rf"/api/models/{REPO}/tree/\w+/.+", _Handler._subtree),
    ("GET HEAD", rf"/{REPO}/resolve/\w+/(?P<path>.+)", _Handler._resolve),
]
