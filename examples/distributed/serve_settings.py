# SPDX-License-Identifier: Apache-2.0
"""What a server is told, once, when it starts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from serve_inputs import MAX_INPUTS

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.export.exported import is_exported, read_config
from hf_sidenet.export.onnx import OnnxStages
from hf_sidenet.inference.certificate import length_of, why_not_certified
from hf_sidenet.models import SideNetConfig
from hf_sidenet.models.exit_rule import check_thresholds
from hf_sidenet.monitoring import ShadowMonitor


# Rows that the monitor keeps to recalibrate on.
MAX_KEPT = 2000


@dataclass(frozen=True)
class Settings:
    """How a checkpoint is served.

    Args:
        checkpoint (`str`): folder or Hub id of a checkpoint with SideNets, or a folder of `hf-sidenet export`.
        plain (`bool`, *optional*, defaults to `False`): its MainNet alone, in one stage, to compare with.
        thresholds (`tuple[float, ...]`, *optional*): θ of requests that bring none; by default the checkpoint's.
        replicas (`tuple[tuple[int, int], ...]`, *optional*):
            Fewest and most processes of each stage, or of all; where they differ, Ray Serve scales between them.
        api_replicas (`int`, *optional*, defaults to 1): processes that read requests and send them through the stages.
        cpus (`float`, *optional*, defaults to 1): that a replica of a stage takes.
        api_cpus (`float`, *optional*, defaults to 1): that one of the API takes.
        gpus (`float`, *optional*, defaults to 0): that a replica of a stage takes.
        batch_size (`int`, *optional*, defaults to 32): rows that a stage runs together.
        max_wait_ms (`float`, *optional*, defaults to 5): how long a row waits for others, at a stage.
        max_waiting (`int`, *optional*, defaults to 200): requests that wait for a stage; beyond, the answer is 503.
        max_length (`int`, *optional*): texts are cut to it, in tokens.
        max_rows (`int`, *optional*, defaults to 32): inputs of a request.
        max_bytes (`int`, *optional*, defaults to 1048576): of a request.
        max_bodies (`int`, *optional*, defaults to 256):
            Requests that one process of the API reads at a time; beyond, the answer is 503.
        timeout_s (`float`, *optional*, defaults to 10):
            Of a request and its answer: 408 where all of it has not come by then, 504 where there is no answer.
        watch_share (`float`, *optional*, defaults to 0): of the rows that also go through the MainNet.
        watch_limit (`float`, *optional*): of their disagreements; by default the limit that θ was certified for.
        watch_file (`str`, *optional*): JSON lines with the newest of these rows, to recalibrate on.

    Raises:
        ValueError: an argument is impossible.
    """

    checkpoint: str
    plain: bool = False
    thresholds: tuple[float, ...] | None = None
    replicas: tuple[tuple[int, int], ...] = ((1, 1),)
    api_replicas: int = 1
    cpus: float = 1
    api_cpus: float = 1
    gpus: float = 0
    batch_size: int = 32
    max_wait_ms: float = 5
    max_waiting: int = 200
    max_length: int | None = None
    max_rows: int = 32
    max_bytes: int = 2**20
    max_bodies: int = 256
    timeout_s: float = 10
    watch_share: float = 0
    watch_limit: float | None = None
    watch_file: str | None = None

    def __post_init__(self):
        for name in ("api_replicas", "batch_size", "max_waiting", "max_rows", "max_bytes", "max_bodies"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"`{name}` must be a whole number ≥ 1, got {value}.")
        if self.max_rows > MAX_INPUTS:
            raise ValueError(f"`max_rows` must be at most {MAX_INPUTS}, got {self.max_rows}.")
        for name in ("cpus", "api_cpus", "timeout_s"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"`{name}` must be > 0 and finite, got {value}.")
        for name in ("gpus", "max_wait_ms"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"`{name}` must be ≥ 0 and finite, got {value}.")
        for low, high in self.replicas:
            if not 1 <= low <= high:
                raise ValueError(f"`replicas` must be from 1 on, the fewest first, got {low}:{high}.")
        if not 0 <= self.watch_share <= 1:
            raise ValueError(f"`watch_share` must be in [0, 1], got {self.watch_share}.")
        if self.plain and (self.is_exported or self.watch_share):
            raise ValueError("`plain` must be without `watch_share`, and of a checkpoint that is not exported.")
        self._check_thresholds()
        if self.watch_share:
            self.monitor()
        elif self.watch_limit is not None or self.watch_file is not None:
            raise ValueError("`watch_share` must be > 0 where `watch_limit` or `watch_file` is given, got 0.")
        if self.watch_file is not None and self.config.input_size is not None:
            raise ValueError("`watch_file` must not be given for images, which are not kept.")
        if len(self.replicas) not in (1, self.num_stages):
            raise ValueError(
                f"`replicas` must be one for all stages, or one for each of {self.num_stages}, got "
                f"{len(self.replicas)}."
            )

    def _check_thresholds(self) -> None:
        if self.thresholds is None:
            return
        if self.plain:
            raise ValueError(f"`thresholds` must not be given for a plain MainNet, got {self.thresholds}.")
        check_thresholds(self.own_thresholds, self.num_stages - 1)

    @property
    def own_thresholds(self) -> float | Sequence[float]:
        """θ of requests that bring none."""
        given = self.thresholds
        return self.config.thresholds if given is None else given[0] if len(given) == 1 else list(given)

    def monitor(self) -> ShadowMonitor:
        """Of rows that others have chosen.

        Raises:
            ValueError: θ was not certified for a limit, and none is given.
        """
        if self.watch_limit is not None:
            return ShadowMonitor(self.watch_limit, share=1.0, keep=MAX_KEPT)
        if self.thresholds is not None:
            raise ValueError(
                "`watch_limit` must be given with `thresholds`, for which nothing was certified, got none."
            )
        return ShadowMonitor.from_config(self.config, share=1.0, keep=MAX_KEPT)

    @property
    def name(self) -> str:
        """What the checkpoint is called, without where it is here: its folder's name, or its Hub id."""
        path = Path(self.checkpoint)
        return path.resolve().name if path.is_absolute() or path.is_dir() else self.checkpoint

    @property
    def is_exported(self) -> bool:
        """Whether the checkpoint is a folder of `hf-sidenet export`."""
        return is_exported(self.checkpoint)

    @cached_property
    def config(self) -> SideNetConfig:
        """Of the checkpoint."""
        return read_config(self.checkpoint) if self.is_exported else SideNetConfig.from_pretrained(self.checkpoint)

    def not_certified(self) -> str | None:
        """Why the evidence behind θ is not about what is served; `None` where it is, or where there is none. The
        weights are read."""
        if self.is_exported:
            return why_not_certified(OnnxStages.load(self.checkpoint, only=0))
        model, processor = load_checkpoint(self.checkpoint, check=False)
        return why_not_certified(model, processor, length_of(model, processor, self.max_length))

    @property
    def num_stages(self) -> int:
        """Deployments that the checkpoint is cut into."""
        return 1 if self.plain else len(self.config.exit_layers) + 1

    @property
    def replicas_by_stage(self) -> tuple[tuple[int, int], ...]:
        """Fewest and most, one pair per stage."""
        return self.replicas if len(self.replicas) == self.num_stages else self.replicas * self.num_stages

    @property
    def num_cpus(self) -> float:
        """That all replicas take together, at their most."""
        stages = self.cpus * sum(most for _, most in self.replicas_by_stage)
        return stages + self.api_cpus * self.api_replicas
