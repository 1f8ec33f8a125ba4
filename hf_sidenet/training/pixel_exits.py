# SPDX-License-Identifier: Apache-2.0
"""Train the SideNet before the first block of an image MainNet: small convolutional nets on the pixels.

The MainNet's recorded logits teach; shifted copies, and mirrored ones where the MainNet answers those alike, add rows.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers.utils import logging

from ..data.formats import MapStyle
from ..io.files import replacing
from ..io.fingerprint import DIGEST_SIZE
from ..measurement.inputs import model_inputs
from ..models.blocks import counting_flops
from ..models.errors import ArgumentError
from ..models.input_exit import ImageInputSideNet
from ..models.mainnet import evaluating
from ..models.modalities import PIXELS
from ..models.modeling_base import SideNetPreTrainedModel
from .features import Candidate
from .heads import HeadData, HeadTraining, head_loss
from .input_exits import batches_of


logger = logging.get_logger(__name__)

FORMAT = {"format": "hf_sidenet.pixel_exits", "version": "2"}
# Resolutions to consider, and the width below which a smaller one is better.
RESOLUTIONS, MIN_WIDTH, MAX_WIDTH = (128, 96, 64, 48, 32), 24, 128
# Rows that tell whether the MainNet answers mirrored images alike, and the share that must be.
MIRRORED_ROWS, MIRRORED_SHARE = 256, 0.85


@dataclass(frozen=True)
class PixelTraining:
    """Training settings of the nets on pixels.

    Args:
        flops (`tuple[float, ...]`): sizes to try, as fractions of the MainNet's FLOPs.
        num_epochs (`int`): number of passes over the training rows.
        batch_size (`int`): rows per step.
        learning_rate (`float`): largest learning rate of AdamW; one cycle.
        weight_decay (`float`): weight decay of AdamW.
        shift (`float`): largest shift of a copy, as a fraction of its height and width.
        max_bytes (`int`): memory for the images; of more rows, a random part trains.
        bf16 (`bool`): multiply in bfloat16 (autocast) where the CPU does so natively, which is faster.

    Raises:
        ValueError: a number is not positive.
    """

    flops: tuple[float, ...] = (0.04, 0.09, 0.18)
    num_epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    shift: float = 0.125
    max_bytes: int = 2**31
    bf16: bool = True

    def __post_init__(self):
        for name, value in asdict(self).items():
            if name != "bf16" and not all(each > 0 for each in (value if isinstance(value, tuple) else (value,))):
                raise ArgumentError(name, "must be > 0", value)

    def rows_that_fit(self, num_rows: int, num_channels: int, resolution: int) -> torch.Tensor:
        """Choose the rows whose images are kept: all, or a random part that fits the memory.

        Args:
            num_rows (`int`): number of rows.
            num_channels (`int`): channels of an image.
            resolution (`int`): height and width.

        Returns:
            `torch.LongTensor`: their indices, rising.
        """
        # In float16.
        kept = max(1, self.max_bytes // (2 * num_channels * resolution**2))
        if num_rows <= kept:
            return torch.arange(num_rows)
        return torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))[:kept].sort().values


@torch.no_grad()
def pixel_sizes(
    model: SideNetPreTrainedModel, settings: PixelTraining, num_outputs: int
) -> dict[Candidate, dict[str, int]]:
    """Choose the sizes to train: for each share of the MainNet's FLOPs, the largest resolution with enough channels.

    Args:
        model ([`SideNetPreTrainedModel`]): the model, at the size of the images.
        settings ([`PixelTraining`]): training settings.
        num_outputs (`int`): number of logits.
    """
    size = model.modality.input_size(model.mainnet.config, model.config.input_size)
    assert size is not None  # Images have a size.
    channels, side = size[0], min(size[1:])
    pixels = torch.zeros(1, *size, device=model.device, dtype=model.dtype)
    with evaluating(model.mainnet), counting_flops() as counter:
        model.mainnet(pixel_values=pixels)
    mainnet = counter.get_total_flops()
    found: dict[Candidate, dict[str, int]] = {}
    for share in settings.flops:
        for resolution in sorted({min(each, side) for each in RESOLUTIONS}, reverse=True):
            width = _width(channels, resolution, num_outputs, share * mainnet)
            if width >= MIN_WIDTH:
                break
        sizes = {"num_channels": channels, "width": min(max(width, 1), MAX_WIDTH), "size": resolution}
        found[Candidate(0, PIXELS, f"{sizes['width']}x{sizes['size']}")] = sizes
    return found


def _width(channels: int, resolution: int, num_outputs: int, flops: float) -> int:
    """Return the largest width within the FLOPs, which grow with its square."""
    width = 1
    while width < MAX_WIDTH and _flops(channels, resolution, num_outputs, width + 1) <= flops:
        width += 1
    return width


def _flops(channels: int, resolution: int, num_outputs: int, width: int) -> int:
    with torch.device("meta"), counting_flops() as counter:
        sidenet = ImageInputSideNet(num_outputs, num_channels=channels, width=width, size=resolution).eval()
        sidenet({"pixel_values": torch.zeros(1, channels, resolution, resolution)})
    return counter.get_total_flops()


@torch.no_grad()
def read_pixels(
    dataset: MapStyle,
    collate_fn: Callable[[list[Any]], Mapping[str, Any]],
    resolution: int,
    *,
    progress: bool = True,
    description: str = "Reading pixels",
) -> torch.Tensor:
    """Read the images of all rows in float16, averaged down to a resolution: `(num_rows, channels, height, width)`.

    Args:
        dataset (map-style data set): rows as dicts of MainNet inputs.
        collate_fn (`Callable`): function that collates a list of rows.
        resolution (`int`): height and width, unless an image is smaller.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.
        description (`str`, *optional*): label of the progress bar.
    """
    parts = []
    for batch in batches_of(dataset, collate_fn, progress, description):
        pixels = model_inputs(batch, torch.device("cpu"), torch.float32)["pixel_values"]
        if min(pixels.shape[-2:]) > resolution:
            pixels = F.adaptive_avg_pool2d(pixels, resolution)
        parts.append(pixels.half())
    return torch.cat(parts)


@torch.no_grad()
def answers_mirrored_alike(
    model: SideNetPreTrainedModel, dataset: MapStyle, collate_fn: Callable[[list[Any]], Mapping[str, Any]]
) -> bool:
    """Return whether the MainNet's answers to mirrored images are mostly the same: true for photos, not for digits.

    Args:
        model ([`SideNetPreTrainedModel`]): the model.
        dataset (map-style data set): rows, of which the first ones are used.
        collate_fn (`Callable`): function that collates a list of rows.
    """
    batch = collate_fn([dataset[i] for i in range(min(MIRRORED_ROWS, len(dataset)))])
    pixels = model_inputs(batch, model.device, model.dtype)["pixel_values"]
    with evaluating(model.mainnet):
        straight, mirrored = (
            torch.cat([model.task.answer(model.mainnet(pixel_values=part).logits) for part in each.split(32)])
            for each in (pixels, pixels.flip(-1))
        )
    return bool((straight == mirrored).double().mean() >= MIRRORED_SHARE)


def train_pixel_exit(
    sizes: Mapping[str, int],
    pixels: tuple[torch.Tensor, torch.Tensor],
    data: tuple[HeadData, HeadData],
    heads: HeadTraining,
    settings: PixelTraining,
    *,
    mirrored: bool,
    directory: Path | None = None,
    about: Sequence[str] = (),
    progress: bool = True,
) -> ImageInputSideNet:
    """Train one net; it keeps the weights of its best epoch on the stopping rows.

    Args:
        sizes (`Mapping[str, int]`): its sizes, from [`pixel_sizes`].
        pixels (`tuple[torch.Tensor, torch.Tensor]`): images of training rows and stopping rows, from [`read_pixels`].
        data (`tuple[HeadData, HeadData]`): their labels and MainNet logits; features are not used.
        heads ([`HeadTraining`]): loss and seed.
        settings ([`PixelTraining`]): everything else.
        mirrored (`bool`): train on mirrored copies too.
        directory (`Path`, *optional*):
            Folder for the state after every epoch: a killed call resumes there with the same result, and a finished
            one is not repeated.
        about (`Sequence[str]`, *optional*): fingerprints of the rows and of the MainNet, which name the file there.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        [`ImageInputSideNet`]: in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(heads.seed)
        sidenet = ImageInputSideNet(data[0].mainnet_logits.shape[1], **sizes)
    sidenet = sidenet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  torch's overloads
    optimizer = torch.optim.AdamW(
        sidenet.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.95)
    )
    bf16 = settings.bf16 and _has_bf16()
    key = json.dumps([FORMAT, dict(sizes), asdict(heads), asdict(settings), mirrored, bf16, [*about]], sort_keys=True)
    digest = hashlib.blake2b(key.encode(), digest_size=DIGEST_SIZE).hexdigest()
    state = _State(None if directory is None else directory / f"{digest}.safetensors", sidenet, optimizer)
    state.load()
    num_steps = math.ceil(len(data[0]) / settings.batch_size)
    name = f"Training on pixels {sizes['width']}x{sizes['size']}"
    with logging.tqdm(
        total=settings.num_epochs * num_steps, initial=state.epoch * num_steps, desc=name, disable=not progress
    ) as bar:
        for epoch in range(state.epoch, settings.num_epochs):
            generator = torch.Generator().manual_seed(heads.seed * settings.num_epochs + epoch)
            sidenet.train()
            order = torch.randperm(len(data[0]), generator=generator).split(settings.batch_size)
            for step, rows in enumerate(order):
                progressed = (epoch * num_steps + step) / (settings.num_epochs * num_steps)
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * _cycle(progressed)
                images = _varied(pixels[0][rows].float(), settings.shift, mirrored, generator)
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    logits = sidenet({"pixel_values": images})
                loss = head_loss(logits.float(), data[0], rows, heads)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                bar.update()
            state.finish_epoch(_loss_on(sidenet, pixels[1], data[1], heads))
    state.restore_best()
    return sidenet.eval()


def _has_bf16() -> bool:
    """Return whether this CPU is known to have bfloat16 instructions."""
    # Older versions of torch cannot tell.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("bf16"))


class _State:
    """State between epochs, and the best weights so far."""

    def __init__(self, path: Path | None, sidenet: ImageInputSideNet, optimizer: torch.optim.Optimizer):
        self.path = path
        self.sidenet = sidenet
        self.optimizer = optimizer
        self.epoch = 0
        self.best_loss = math.inf
        self.best = {name: value.clone() for name, value in sidenet.state_dict().items()}

    def finish_epoch(self, loss: float) -> None:
        """Keep the weights if the loss on the stopping rows is lower than before, and save."""
        self.epoch += 1
        # NaN never is lower.
        if loss < self.best_loss:
            self.best_loss = loss
            self.best = {name: value.clone() for name, value in self.sidenet.state_dict().items()}
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"now.{name}": value for name, value in self.sidenet.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for name, parameter in self.sidenet.named_parameters():
            for kind, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{kind}.{name}"] = value
        metadata = {**FORMAT, "epoch": str(self.epoch), "best_loss": repr(self.best_loss)}
        tensors = {name: value.contiguous().clone() for name, value in tensors.items()}
        with replacing(self.path) as temporary:
            save_file(tensors, temporary, metadata)

    def load(self) -> None:
        """Continue from the file, if there is one."""
        if self.path is None or not self.path.is_file():
            return
        try:
            tensors = load_file(self.path)
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata()
        except SafetensorError as error:
            logger.warning("%s cannot be read (%s): training starts again.", self.path, error)
            return
        self.sidenet.load_state_dict(_part(tensors, "now."))
        self.best = _part(tensors, "best.")
        for name, parameter in self.sidenet.named_parameters():
            kinds = ("step", "exp_avg", "exp_avg_sq")
            self.optimizer.state[parameter] = {kind: tensors[f"optimizer.{kind}.{name}"] for kind in kinds}
        self.epoch, self.best_loss = int(metadata["epoch"]), float(metadata["best_loss"])

    def restore_best(self) -> None:
        """Put the best weights in place."""
        self.sidenet.load_state_dict(self.best)


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _cycle(progressed: float, warm_up: float = 0.2) -> float:
    """Learning rate of one cycle, between 0 and 1: linear up, then half a cosine down."""
    if progressed < warm_up:
        return 0.04 + 0.96 * progressed / warm_up
    return max(1e-3, 0.5 * (1 + math.cos(math.pi * (progressed - warm_up) / (1 - warm_up))))


def _varied(images: torch.Tensor, shift: float, mirrored: bool, generator: torch.Generator) -> torch.Tensor:
    """Shift every image, and mirror half of them."""
    num_rows, _, height, width = images.shape
    up, left = max(1, round(shift * height)), max(1, round(shift * width))
    images = F.pad(images, (left, left, up, up), mode="reflect")
    y = torch.randint(2 * up + 1, (num_rows, 1), generator=generator) + torch.arange(height)
    x = torch.randint(2 * left + 1, (num_rows, 1), generator=generator) + torch.arange(width)
    if mirrored:
        x = x.where(torch.rand(num_rows, 1, generator=generator) < 0.5, x.flip(1))
    rows = torch.arange(num_rows)[:, None, None]
    # (rows, height, width, channels), then channels first again without a copy.
    return images.permute(0, 2, 3, 1)[rows, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def _loss_on(sidenet: ImageInputSideNet, pixels: torch.Tensor, data: HeadData, heads: HeadTraining) -> float:
    sidenet.eval()
    logits = torch.cat([sidenet({"pixel_values": part.float()}) for part in pixels.split(512)])
    return head_loss(logits, data, slice(None), heads).item()
