# SPDX-License-Identifier: Apache-2.0
"""Build the folder of a Space for a checkpoint: the web demo, the package, and the checkpoint itself.

usage: make_space.py CHECKPOINT OUTPUT_DIR [--title TEXT] [--pair] [--example TEXT_OR_PICTURE ...]

CHECKPOINT is a folder, which is copied, or a Hub id, which the Space loads when it starts. Then upload it with the Hub
client: `hf upload MY-ORG/MY-SPACE OUTPUT_DIR --repo-type space`.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import gradio

import hf_sidenet
from hf_sidenet.hub import check_shareable
from hf_sidenet.io.folder_kinds import FolderKind
from hf_sidenet.io.folders import writing_folder


HERE = Path(__file__).parent
SPACE = FolderKind("space.json", marks=())
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
CARD = """---
title: {quoted}
emoji: 🚪
colorFrom: indigo
colorTo: gray
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
{models}---

# {title}

A classifier with early exits ([hf_sidenet](https://arxiv.org/abs/2007.13512)): move θ to see which exit answers and
what is saved. Made by `examples/space/make_space.py`, hf_sidenet {version}.
"""


def make_space(
    checkpoint: str, output_dir: Path, title: str | None = None, is_pair: bool = False, examples: list[str] = ()
) -> Path:
    """Write the folder atomically.

    Args:
        checkpoint (`str`): folder or Hub id.
        output_dir (`Path`): must be empty or not exist.
        title (`str`, *optional*): by default the checkpoint's name.
        is_pair (`bool`, *optional*, defaults to `False`): whether a row is two texts.
        examples (`list[str]`, *optional*): texts (pairs one after the other), or paths of pictures.

    Raises:
        ValueError: the folder is not empty, or the checkpoint would not load elsewhere.
    """
    is_folder = Path(checkpoint).is_dir()
    if not is_folder and not HUB_ID.fullmatch(checkpoint):
        raise ValueError(f"CHECKPOINT must be a folder or a Hub id, as my-org/my-classifier, got {checkpoint!r}.")
    if is_folder and not (found := check_shareable(checkpoint)).ok:
        raise ValueError(f"CHECKPOINT must be a folder that can be shared:\n{found.text()}")
    title = title or Path(checkpoint).resolve().name
    with writing_folder(output_dir, SPACE) as folder:
        for name in ("app.py", "requirements.txt"):
            shutil.copy(HERE / name, folder / name)
        # Next to the app, where Python finds it: a Space installs only its requirements.
        package = Path(hf_sidenet.__file__).parent
        shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        if is_folder:
            for name in found.files:
                (folder / "model" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(checkpoint) / name, folder / "model" / name)
        about = {
            "checkpoint": "model" if is_folder else checkpoint,
            "title": title,
            "is_pair": is_pair,
            "examples": _examples(examples, is_pair, folder),
        }
        (folder / SPACE.document).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        card = CARD.format(
            title=title,
            quoted=json.dumps(title, ensure_ascii=False),
            gradio=gradio.__version__,
            models="" if is_folder else f"models: [{checkpoint}]\n",
            version=hf_sidenet.__version__,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    return output_dir


def _examples(given: list[str], is_pair: bool, folder: Path) -> list:
    if is_pair:
        if len(given) % 2:
            raise ValueError(f"--example must be given twice per pair, got {len(given)}.")
        return [list(pair) for pair in zip(given[::2], given[1::2], strict=True)]
    examples = []
    for number, each in enumerate(given):
        if Path(each).is_file():
            (folder / "examples").mkdir(exist_ok=True)
            name = f"examples/{number}-{Path(each).name}"
            shutil.copy(each, folder / name)
            each = name
        examples.append(each)
    return examples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("output_dir", type=Path, help="folder of the Space, which must not exist")
    parser.add_argument("--title", help="by default the checkpoint's name")
    parser.add_argument("--pair", action="store_true", help="a row is two texts")
    parser.add_argument("--example", action="append", default=[], help="text or picture to click on; may be repeated")
    args = parser.parse_args()
    try:
        print(make_space(args.checkpoint, args.output_dir, args.title, args.pair, args.example))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
