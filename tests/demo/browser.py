# SPDX-License-Identifier: Apache-2.0
"""A real Chromium, and `hf-sidenet demo` as a user types it."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from queue import Queue
from threading import Thread

import pytest
from playwright.sync_api import sync_playwright


NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
STARTED = re.compile(r"http://127\.0\.0\.1:\d+")


@contextmanager
def chromium():
    """A browser of its own."""
    # A name may be a stub that says where to get it.
    paths = [path for path in map(shutil.which, NAMES) if path and _runs(path)]
    if not paths:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=paths[0], args=QUIET)
        yield browser
        browser.close()


def _runs(path):
    return subprocess.run([path, "--version"], capture_output=True).returncode == 0


class Server:
    """A process that serves a page.

    Args:
        process (`subprocess.Popen`): its output is read all the time, so that it never waits for that.
    """

    def __init__(self, process):
        self.process = process
        self.said = []
        self._addresses = Queue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address = self._addresses.get(timeout=600)
        assert self.address, self.text

    @property
    def text(self):
        return "".join(self.said)

    def stop(self, how=signal.SIGINT):
        """Its exit code."""
        self.process.send_signal(how)
        code = self.process.wait(timeout=600)
        self._reader.join()
        return code

    def _read(self):
        for line in self.process.stdout:
            self.said.append(line)
            if found := STARTED.search(line):
                self._addresses.put(found[0])
        self._addresses.put(None)


@contextmanager
def started(command, **kwargs):
    """A [`Server`]; it is killed where it was not stopped."""
    env = {**os.environ, **kwargs.pop("env", {}), "PYTHONUNBUFFERED": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # As from a terminal: where the tests run in the background, Ctrl-C is ignored, and that is inherited.
    kwargs["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(list(map(str, command)), env=env, **streams, **kwargs) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


@contextmanager
def serving(*arguments):
    """The [`Server`] of `hf-sidenet demo`; afterward Ctrl-C."""
    with started([sys.executable, "-m", "hf_sidenet.cli", "demo", *arguments]) as server:
        yield server
        if server.process.poll() is None:
            assert server.stop() == 0, server.text
            assert server.text.rstrip().endswith("was stopped."), server.text
