# SPDX-License-Identifier: Apache-2.0
"""Write docs/mainnets.md from what the sweep found.

usage: page.py TEXT.json IMAGE.json TIMM.json TORCHVISION.json docs/mainnets.md
"""

import json
import platform
import sys
from pathlib import Path
from typing import Any


# Those that people use most, by our own judgment; the others follow by name.
FIRST = (
    "bert", "distilbert", "roberta", "xlm-roberta", "deberta-v2", "modernbert", "electra", "mpnet", "camembert",
    "albert", "bart", "t5", "gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma2", "xlnet", "longformer", "layoutlm",
    "layoutlmv3", "vit", "resnet", "convnext", "convnextv2", "swin", "deit", "dinov2", "beit", "efficientnet",
    "mobilenet_v2", "siglip",
)  # fmt: skip
TITLES = {
    "text": "Texts: transformers' sequence classifiers",
    "image": "Images: transformers' image classifiers",
    "torchvision": "Images: torchvision, classifiers with at most 90 M parameters",
    "timm": "Images: timm, the smallest model of each family with at most 30 M parameters",
}
INTRODUCTION = """\
# MainNets

<!-- Written by examples/mainnets/page.py from what examples/mainnets/sweep.py found. Do not edit. -->

Every architecture that transformers, timm and torchvision have for classification, with a tiny random config
(transformers) or random weights (timm, torchvision): whether SideNets can be attached, and whether the answers are
right. It says nothing about how accurate a SideNet is. The MainNets with a class of their own (BERT, DistilBERT,
RoBERTa, XLM-R, CamemBERT, ELECTRA, MPNet, DeBERTa-v2, ModernBERT, ViT, DeiT, DINOv2, Swin, ResNet, RegNet, ConvNeXt,
timm) pass [more tests](how-to/add-a-mainnet.md#a-class-of-its-own), in half precision, compiled, exported and in other
processes.

**Exact** means all of this, with SideNets after the first, a middle and the last possible block:

- with θ ≥ 1, the logits are those of the plain MainNet, bit for bit;
- with a θ at which rows leave at every SideNet, each row gets the answer that running every exit and choosing row by
  row gives, for batches of other sizes and lengths than the MainNet was observed with, padded on either side, and for
  as many rows as tokens;
- a row alone gets the same answer as in its batch. *Difference* is the largest one between logits, relative to the
  largest logit;
- a saved checkpoint, loaded again, gives the same answers (not tried for large timm models).

*Stages*: whether the runner, exports and servers can run it stage by stage. Where they cannot, its own forward works,
in which rows exit as well (`routing="gates"`).
"""


def rank(found: dict[str, Any]) -> tuple[int, str]:
    """Return the place of a MainNet on the page."""
    name = found["name"]
    return (FIRST.index(name) if name in FIRST else len(FIRST), name.lower())


def line(*cells: object) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "¦") for cell in cells) + " |"


def reason_without_stages(text: str) -> str:
    """Return what stands in the parentheses of the error."""
    inside = text.partition("it fails (")[2].partition("). Its own forward")[0]
    return f"no: {inside}" if inside else text


def section(report: dict[str, Any]) -> list[str]:
    """Return the tables of one kind of MainNets."""
    found = sorted(report["mainnets"], key=rank)
    by = {outcome: [one for one in found if one["outcome"] == outcome] for outcome in ("exact", "refused", "not run")}
    wrong = [one["name"] for one in found if one["outcome"] == "wrong"]
    if wrong:
        sys.exit(f"wrong answers, to be mended first: {wrong}")
    counts = ", ".join(f"{len(ones)} {outcome}" for outcome, ones in by.items() if ones)
    lines = [f"## {TITLES[report['kind']]}", "", f"{len(found)}: {counts}.", ""]
    lines += [line("MainNet", "blocks", "stages", "difference", "note"), "|---|--:|---|--:|---|"]
    for one in by["exact"]:
        stages = one["stages"] if one["stages"] == "yes" else reason_without_stages(one["stages"])
        alone = "–" if one["alone"] is None else f"{one['alone']:.0e}"
        lines.append(line(one["name"], one["blocks"], stages, alone, "; ".join(one["notes"])))
    for title, outcome in (("Refused, with the error", "refused"), ("Not run", "not run")):
        if by[outcome]:
            lines += ["", f"{title}:", "", line("MainNet", "why"), "|---|---|"]
            lines += [line(one["name"], one["reason"]) for one in by[outcome]]
    return [*lines, ""]


def main(*paths: str) -> None:
    reports = [json.loads(Path(path).read_text(encoding="utf-8")) for path in paths[:-1]]
    lines = [INTRODUCTION]
    for report in reports:
        lines += section(report)
    versions = ", ".join(
        f"{name} {version}" for name, version in reports[-1].items() if name not in ("kind", "mainnets")
    )
    lines += [
        "## How this page was made",
        "",
        "```bash",
        *(f"python examples/mainnets/sweep.py {one['kind']} --output {one['kind']}.json" for one in reports),
        f"python examples/mainnets/page.py {' '.join(one['kind'] + '.json' for one in reports)} docs/mainnets.md",
        "```",
        "",
        f"On CPU ({platform.machine()}, 1 thread), Python {platform.python_version()}, {versions}.",
    ]
    page = Path(paths[-1])
    draft = page.with_suffix(".tmp")
    draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    draft.replace(page)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
