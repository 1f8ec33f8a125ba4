# SPDX-License-Identifier: Apache-2.0
"""Write timm.txt: the smallest timm model of every family, with its number of parameters.

```bash
python examples/mainnets/families.py
```
"""

import re
from pathlib import Path

import timm
import torch
from timm.models._registry import _model_to_module


LARGEST = 30_000_000
LIST = Path(__file__).with_name("timm.txt")
# First words that say little: the family is in the second.
PREFIXES = ("cs3", "dm", "eca", "ese", "gc", "legacy", "nf", "tf", "tiny", "vit", "wide")
# Words after these that are sizes.
SIZES = re.compile(
    r"(x|d|p|dp)?(tiny|little|small|wee|medium[d]?|betwixt|base|large|huge|giant|gigantic)|so\d*m?|test"
)


def family(name: str) -> str:
    """Return the family of a timm model: its module, and its name without sizes."""
    first, *others = name.split("_")
    words = [first]
    if first in PREFIXES:
        words += [word for word in others[:1] if not SIZES.fullmatch(word)]
    short = [re.match(r"[a-z]+(?<=v)\d(?!\d)|[a-z]+", word) for word in words]
    return ".".join([_model_to_module[name], "_".join(found.group() for found in short if found)])


def smallest() -> dict[str, tuple[str, int]]:
    """Return the smallest model of every family, and its number of parameters."""
    found: dict[str, tuple[str, int]] = {}
    for name in timm.list_models():
        if name.startswith("test_"):
            continue
        try:
            with torch.device("meta"):
                model = timm.create_model(name, num_classes=3)
        # Some cannot be built on "meta", which tells nothing about their size.
        except Exception:
            model = timm.create_model(name, num_classes=3)
        params = sum(parameter.numel() for parameter in model.parameters())
        if params <= LARGEST and params < found.get(family(name), ("", LARGEST + 1))[1]:
            found[family(name)] = name, params
    return found


if __name__ == "__main__":
    lines = [f"{name} {params} {group}\n" for group, (name, params) in sorted(smallest().items())]
    LIST.write_text("".join(lines))
    print(f"{len(lines)} families of {len(timm.list_models())} models")
