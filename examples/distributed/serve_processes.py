# SPDX-License-Identifier: Apache-2.0
"""The processes of a locally started server: their CPU time, and what happens when one dies."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator

import psutil


# The title changes with what the process does.
REPLICA = re.compile(r"(?:SERVE_REPLICA::|ServeReplica:)([^#:]+)[#:](\w+)")


def processes(parent: int) -> Iterator[tuple[tuple[str, str], psutil.Process]]:
    """Yield application and deployment of every process of a server, as Ray writes them into its title.

    Args:
        parent (`int`): the process that started Ray.
    """
    for process in psutil.Process(parent).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "SERVE_PROXY_ACTOR" in title or "ray::ProxyActor" in title:
            yield ("", "proxy"), process
        elif replica := REPLICA.search(title):
            yield (replica[1], replica[2]), process


def cpu_seconds(parent: int) -> Counter:
    """Return the CPU time so far, by application and deployment.

    Args:
        parent (`int`): the process that started Ray.
    """
    found: Counter = Counter()
    for kind, process in processes(parent):
        # It may end in the meantime.
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[kind] += times.user + times.system
    return found


def kill_a_replica(application: str, deployment: str, parent: int) -> int:
    """Send SIGKILL to a process of a deployment.

    Args:
        application (`str`): of Ray Serve.
        deployment (`str`): in that application.
        parent (`int`): the process that started Ray.

    Raises:
        RuntimeError: there is no such process.
    """
    for kind, process in processes(parent):
        if kind == (application, deployment):
            process.kill()
            return process.pid
    raise RuntimeError(f"no process of {application}/{deployment} runs here.")
