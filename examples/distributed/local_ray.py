# SPDX-License-Identifier: Apache-2.0
"""A locally started Ray that listens on loopback where possible and has its own token."""

import os
import secrets


# Ray's own switch for whether it spans several machines, named after the systems where it is off by default.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def choose_token() -> None:
    """Choose the token without which nobody who can reach one of Ray's ports may run code there. Ray checks it itself.

    It comes from `RAY_AUTH_TOKEN` or `RAY_AUTH_TOKEN_PATH`; otherwise it is a new one known only to this server's
    processes: Ray itself would write one to the home folder, readable by all.
    """
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
