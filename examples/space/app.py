# SPDX-License-Identifier: Apache-2.0
"""The web demo of `hf-sidenet demo` as a Space; space.json next to this file names the checkpoint."""

import json
import os
from pathlib import Path

from hf_sidenet.demo import build_demo, launch


HERE = Path(__file__).parent
ABOUT = json.loads((HERE / "space.json").read_text(encoding="utf-8"))

# Paths of the included pictures and checkpoint are relative to this folder.
os.chdir(HERE)
page = build_demo(ABOUT["checkpoint"], title=ABOUT["title"], is_pair=ABOUT["is_pair"], examples=ABOUT["examples"])

if __name__ == "__main__":
    launch(page, host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
