# SPDX-License-Identifier: Apache-2.0
"""The page of `hf-sidenet demo` as a Space; space.json beside this file says of what."""

import json
import os
from pathlib import Path

from hf_sidenet.demo import build_demo, launch


HERE = Path(__file__).parent
ABOUT = json.loads((HERE / "space.json").read_text(encoding="utf-8"))

# Pictures and a checkpoint that came along are named from here.
os.chdir(HERE)
page = build_demo(ABOUT["checkpoint"], title=ABOUT["title"], is_pair=ABOUT["is_pair"], examples=ABOUT["examples"])

if __name__ == "__main__":
    launch(page, host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
