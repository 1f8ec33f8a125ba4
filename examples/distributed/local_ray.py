# SPDX-License-Identifier: Apache-2.0
"""A Ray that is started here: it listens on loopback where it can, and has a token of its own."""

import os
import secrets


# Ray's own switch, which it names after where it is off by default: whether it is for several machines.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def choose_token() -> None:
    """The token without which nobody who reaches a port of Ray's may run code with it. Ray asks for it by itself.

    It is that of `RAY_AUTH_TOKEN` or `RAY_AUTH_TOKEN_PATH`, or else a new one that only processes of this one know:
    Ray itself would write one into the home folder, for all to read.
    """
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
