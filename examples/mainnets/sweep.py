# SPDX-License-Identifier: Apache-2.0
"""Attach SideNets to every kind of MainNet, and check what holds: exact, refused, wrong, or not run.

```bash
python examples/mainnets/sweep.py text --output text.json
python examples/mainnets/sweep.py timm --only resnet18 vit_tiny_patch16_224
```

Weights are random and configs are small, so that nothing is downloaded. Every MainNet has a process of its own, so
that one that hangs or crashes does not stop the others.
"""

import argparse
import copy
import inspect
import json
import multiprocessing
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import families
import timm
import torch
import torchvision
import transformers
from checks import ITSELF, Findings, NotRun, Refused, Wrong, check
from timm.models import get_pretrained_cfg
from tiny import EOS, IMAGE_SIZE, NUM_LABELS, PAD, VOCABULARY, enliven, settle, tiny_config
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification
from transformers.models.auto import modeling_auto

import hf_sidenet
from hf_sidenet import SideNetForImageClassification, SideNetForSequenceClassification
from hf_sidenet.models.raw_models import as_mainnet


TEXTS = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
IMAGES = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
TIMEOUT = 120
LARGEST = 30_000_000
LARGEST_TORCHVISION = 90_000_000
# Of images, smaller than most timm models expect, but with several windows of those that attend in windows.
SIDES = 64, 96, 128

Step = Callable[[str], None]


# --- texts


def texts(lengths: list[int], seed: int, *, left: bool = False) -> dict[str, torch.Tensor]:
    """Return random texts that end in EOS.

    Args:
        lengths (`list[int]`): number of tokens of each.
        seed (`int`): of the tokens.
        left (`bool`, *optional*, defaults to `False`): pad on the left.
    """
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.full((len(lengths), longest), PAD)
    mask = torch.zeros_like(ids)
    for i, length in enumerate(lengths):
        place = slice(longest - length, longest) if left else slice(length)
        words = torch.randint(EOS + 1, VOCABULARY, (length,), generator=generator)
        words[-1] = EOS
        ids[i, place], mask[i, place] = words, 1
    return {"input_ids": ids, "attention_mask": mask}


def text_batches() -> dict[str, dict[str, torch.Tensor]]:
    """Return batches that differ in what a gate might confuse."""
    return {
        "7 texts": texts([10, 7, 5, 9, 6, 10, 8], 1),
        "7 texts padded left": texts([10, 7, 5, 9, 6, 10, 8], 2, left=True),
        "8 texts of 8": texts([8, 6, 5, 7, 8, 8, 4, 7], 3),
        "6 texts of 13": texts([13, 4, 11, 9, 13, 6], 4),
    }


def check_text(name: str, step: Step, found: Findings) -> None:
    """Check the text MainNet of one type."""
    mainnet = _build(TEXTS[name], tiny_config, name)
    taken = inspect.signature(mainnet.forward).parameters
    batches = {
        name: {field: value for field, value in inputs.items() if field in taken}
        for name, inputs in text_batches().items()
    }
    check(mainnet, SideNetForSequenceClassification, batches, step, found)


# --- images


def image_names() -> dict[str, tuple[str, str]]:
    """Return type and class of every image MainNet of transformers, by the type, or by the class if it has several."""
    names: dict[str, tuple[str, str]] = {}
    for model_type, kinds in IMAGES.items():
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        for kind in kinds:
            names[kind if len(kinds) > 1 else model_type] = model_type, kind
    return names


def images(num: int, size: list[int], seed: int) -> dict[str, torch.Tensor]:
    """Return random images that differ in more than noise.

    Args:
        num (`int`): how many.
        size (`list[int]`): channels, height and width.
        seed (`int`): of the pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(num, size[0], 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size[1:], mode="bilinear")
    return {"pixel_values": smooth + 0.5 * torch.randn(num, *size, generator=generator)}


def check_image(name: str, step: Step, found: Findings) -> None:
    """Check one image MainNet of transformers."""
    model_type, kind = image_names()[name]
    mainnet = _build(kind, tiny_config, model_type)
    _check_images(mainnet, [3, IMAGE_SIZE, IMAGE_SIZE], step, found)


def _check_images(mainnet: transformers.PreTrainedModel, size: list[int], step: Step, found: Findings) -> None:
    batches = {"6 images": images(6, size, 1), "5 images": images(5, size, 2)}
    noise = torch.randn(6, *size, generator=torch.Generator().manual_seed(3))
    # Noise, too, which hf_sidenet tries. Where it fails, the checks say why.
    with suppress(Exception):
        settle(mainnet, {"pixel_values": torch.cat([batches["6 images"]["pixel_values"], noise])})
    notes = list(found.notes)
    differs = ""
    try:
        check(copy.deepcopy(mainnet), SideNetForImageClassification, batches, step, found, input_size=size)
    except (Refused, Wrong) as error:
        if "answers change by" not in str(error) and "differs by" not in str(error):
            raise
        differs = "deep in a network with random weights, rounding adds up in single precision"
    if any(note.startswith(ITSELF) for note in found.notes):
        differs = "rounding changes the MainNet's own answers in single precision"
    if differs:
        # Is it more than rounding?
        found.notes, found.batches, found.difference, found.alone = notes, {}, 0.0, 0.0
        wide = {name: {"pixel_values": inputs["pixel_values"].double()} for name, inputs in batches.items()}
        check(mainnet.double(), SideNetForImageClassification, wide, step, found, input_size=size)
        found.notes.append(f"in double precision: {differs}")


# --- timm


def timm_names() -> list[str]:
    """Return the smallest model of every family; see `families.py`."""
    return [line.split()[0] for line in families.LIST.read_text().splitlines()]


def check_timm(name: str, step: Step, found: Findings) -> None:
    """Check one timm model, on images as small as it takes."""
    own = get_pretrained_cfg(name).input_size
    tried = []
    for side in sorted({side for side in SIDES if side < own[-1]} | {own[-1]}):
        size = [own[0], side, side]
        for model_args in [{}] if side == own[-1] else [{"img_size": side}, {}]:
            try:
                config = TimmWrapperConfig(architecture=name, num_labels=NUM_LABELS, model_args=model_args)
                torch.manual_seed(0)
                mainnet = TimmWrapperForImageClassification(config).eval()
                with torch.no_grad():
                    mainnet(**images(2, size, 0))
            except Exception as error:
                tried.append(f"{side} px: {' '.join(str(error).split())[:200]}")
                continue
            found.notes.append(f"images of {side} px")
            _check_images(enliven(mainnet).requires_grad_(False), size, step, found)
            return
    raise NotRun(f"the MainNet fails without SideNets: {tried[-1]}")


# --- torchvision


def torchvision_names() -> list[str]:
    """Return every classifier of torchvision that is not too large."""
    models = torchvision.models
    return [
        name
        for name in models.list_models(module=models)
        if models.get_model_weights(name).DEFAULT.meta["num_params"] <= LARGEST_TORCHVISION
    ]


def check_torchvision(name: str, step: Step, found: Findings) -> None:
    """Check one classifier of torchvision, on images as small as it takes."""
    torch.manual_seed(0)
    network = enliven(_torchvision(name, NUM_LABELS).eval()).requires_grad_(False)
    own = getattr(network, "image_size", 224)
    tried = ""
    for side in sorted({own} if hasattr(network, "image_size") else {*SIDES, own}):
        size = [3, side, side]
        pixels = images(2, size, 0)["pixel_values"]
        try:
            with torch.no_grad():
                network(pixels)
        except Exception as error:
            tried = f"{side} px: {' '.join(str(error).split())[:200]}"
            continue
        found.notes.append(f"images of {side} px")
        try:
            mainnet: Any = as_mainnet(network, example_inputs=pixels)
        except ValueError as error:
            raise Refused(" ".join(str(error).split())) from error
        _check_images(mainnet, size, step, found)
        return
    raise NotRun(f"the MainNet fails without SideNets: {tried}")


def _torchvision(name: str, num_labels: int) -> torch.nn.Module:
    # Their slow initialization of weights is replaced anyway.
    kwargs = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=num_labels, **kwargs)


# --- all


def _build(kind: str, config: Callable[..., Any], *args: Any) -> transformers.PreTrainedModel:
    try:
        model_class = getattr(transformers, kind)
        built = config(*args)
        with torch.device("meta"):
            params = sum(parameter.numel() for parameter in model_class(built).parameters())
        if params > LARGEST:
            raise ValueError(f"{params:.1g} parameters, this config is not small")
        torch.manual_seed(0)
        # Frozen, as with SideNets: torch has other kernels for parameters that could get gradients.
        return enliven(model_class(built).eval()).requires_grad_(False)
    except Exception as error:
        raise NotRun(f"cannot be built: {' '.join(str(error).split())[:300]}") from error


KINDS: dict[str, tuple[Callable[[], list[str]], Callable[[str, Step, Findings], None]]] = {
    "text": (lambda: list(TEXTS), check_text),
    "image": (lambda: list(image_names()), check_image),
    "timm": (timm_names, check_timm),
    "torchvision": (torchvision_names, check_torchvision),
}


def _run(kind: str, name: str, connection: Connection) -> None:
    """Check one MainNet, in a process of its own."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    found = Findings()
    try:
        KINDS[kind][1](name, connection.send, found)
    except Refused as error:
        found.outcome, found.reason = "refused", str(error)
    except Wrong as error:
        found.outcome, found.reason = "wrong", str(error)
    except NotRun as error:
        found.outcome, found.reason = "not run", str(error)
    except Exception as error:
        found.outcome, found.reason = "not run", f"the sweep fails: {type(error).__name__}: {error}"
    connection.send(vars(found))


def sweep_one(kind: str, name: str, timeout: float) -> dict[str, Any]:
    """Check one MainNet in a process, and return what was found.

    Args:
        kind (`str`): one of `KINDS`.
        name (`str`): name of the MainNet.
        timeout (`float`): seconds after which it is stopped.
    """
    # Not "spawn": imports take longer than the checks.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    began = time.monotonic()
    process = context.Process(target=_run, args=(kind, name, theirs))
    process.start()
    theirs.close()
    step, found = "build", None
    while found is None:
        try:
            message = ours.recv() if ours.poll(max(0.0, began + timeout - time.monotonic())) else None
        except EOFError:
            process.join()
            found = _stopped(step, f"the process ends with {process.exitcode}")
        else:
            if message is None:
                process.kill()
                found = _stopped(step, f"no answer after {timeout:.0f} s")
            elif isinstance(message, dict):
                found = message
            else:
                step = message
    process.join()
    return {"name": name, **found, "seconds": round(time.monotonic() - began, 1)}


def _stopped(step: str, reason: str) -> dict[str, Any]:
    own = step in ("build", "plain")
    return vars(Findings(outcome="not run" if own else "wrong", reason=f"{reason}, at: {step}"))


def main() -> None:
    """Run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these MainNets")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="where to write what was found")
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT, help="seconds for each MainNet (default: %(default)s)"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    versions = {module.__name__: module.__version__ for module in (hf_sidenet, torch, transformers, timm, torchvision)}
    found = []
    for name in args.only or KINDS[args.kind][0]():
        one = sweep_one(args.kind, name, args.timeout)
        found.append(one)
        parts = [f"{one['name']:32}", f"{one['outcome']:8}", f"{one['seconds']:5.1f} s", f"{one['blocks']:3} blocks"]
        extra = one["reason"] or "; ".join([*(["no stages"] if one["stages"] != "yes" else []), *one["notes"]])
        print("  ".join([*parts, extra])[:300], flush=True)
        if args.output is not None:
            args.output.write_text(json.dumps({"kind": args.kind, **versions, "mainnets": found}, indent=1) + "\n")
    print(", ".join(f"{count} {outcome}" for outcome, count in Counter(one["outcome"] for one in found).items()))


if __name__ == "__main__":
    main()
