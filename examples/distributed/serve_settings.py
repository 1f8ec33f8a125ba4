# SPDX-License-Identifier: Apache-2.0
"""The server's settings, fixed at startup."""

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
from hf_sidenet.monitoring import ShadowMonitor, check_comparable


# Rows that the monitor keeps for recalibration.
MAX_KEPT = 2000


@dataclass(frozen=True)
class Settings:
    """How a checkpoint is served.

    Args:
        checkpoint (`str`): folder or Hub id of a checkpoint with SideNets, or a folder from `hf-sidenet export`.
        plain (`bool`, *optional*, defaults to `False`): serve only its MainNet, in one stage, for comparison.
        thresholds (`tuple[float, ...]`, *optional*): θ for requests without one; by default the checkpoint's.
        replicas (`tuple[tuple[int, int], ...]`, *optional*):
            Minimum and maximum processes of each stage, or of all; if they differ, Ray Serve scales between them.
        api_replicas (`int`, *optional*, defaults to 1): processes that read requests and send them through the stages.
        cpus (`float`, *optional*, defaults to 1): per stage replica.
        api_cpus (`float`, *optional*, defaults to 1): per API replica.
        gpus (`float`, *optional*, defaults to 0): per stage replica.
        batch_size (`int`, *optional*, defaults to 32): rows that a stage runs together.
        max_wait_ms (`float`, *optional*, defaults to 5): how long a row waits for others, at each stage.
        max_waiting (`int`, *optional*, defaults to 200): requests waiting for a stage; beyond this, the answer is 503.
        max_length (`int`, *optional*): maximum text length, in tokens.
        max_rows (`int`, *optional*, defaults to 32): inputs per request.
        max_bytes (`int`, *optional*, defaults to 1048576): per request.
        max_bodies (`int`, *optional*, defaults to 256):
            Requests that one API process reads at a time; beyond this, the answer is 503.
        timeout_s (`float`, *optional*, defaults to 10):
            For a request and its answer: 408 if it has not arrived in full by then, 504 if there is no answer.
        watch_share (`float`, *optional*, defaults to 0): share of the rows that also go through the MainNet.
        watch_limit (`float`, *optional*): for their disagreement rate; by default the limit that θ was certified for.
        watch_file (`str`, *optional*): JSON Lines file for the newest of these rows, for recalibration.

    Raises:
        ValueError: an argument is invalid.
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
        """Return θ for requests without one."""
        given = self.thresholds
        return self.config.thresholds if given is None else given[0] if len(given) == 1 else list(given)

    def monitor(self) -> ShadowMonitor:
        """Return a monitor for rows chosen elsewhere.

        Raises:
            ValueError: θ was not certified for a limit, and no limit is given; or the MainNet's answers are changed.
        """
        check_comparable(self.config)
        if self.watch_limit is not None:
            return ShadowMonitor(self.watch_limit, share=1.0, keep=MAX_KEPT)
        if self.thresholds is not None:
            raise ValueError(
                "`watch_limit` must be given with `thresholds`, for which nothing was certified, got none."
            )
        return ShadowMonitor.from_config(self.config, share=1.0, keep=MAX_KEPT)

    @property
    def name(self) -> str:
        """Return the checkpoint's name without its local path: its folder's name, or its Hub id."""
        path = Path(self.checkpoint)
        return path.resolve().name if path.is_absolute() or path.is_dir() else self.checkpoint

    @property
    def is_exported(self) -> bool:
        """Return whether the checkpoint is a folder from `hf-sidenet export`."""
        return is_exported(self.checkpoint)

    @cached_property
    def config(self) -> SideNetConfig:
        """Return the checkpoint's config."""
        return read_config(self.checkpoint) if self.is_exported else SideNetConfig.from_pretrained(self.checkpoint)

    def not_certified(self) -> str | None:
        """Return why the evidence behind θ does not apply to the served model; `None` if it does, or if there is none.
        This reads the weights."""
        if self.is_exported:
            return why_not_certified(OnnxStages.load(self.checkpoint, only=0))
        model, processor = load_checkpoint(self.checkpoint, check=False)
        return why_not_certified(model, processor, length_of(model, processor, self.max_length))

    @property
    def num_stages(self) -> int:
        """Return the number of stages of the checkpoint."""
        return 1 if self.plain else len(self.config.exit_layers) + 1

    @property
    def replicas_by_stage(self) -> tuple[tuple[int, int], ...]:
        """Return minimum and maximum, one pair per stage."""
        return self.replicas if len(self.replicas) == self.num_stages else self.replicas * self.num_stages

    @property
    def num_cpus(self) -> float:
        """Return the maximum number of CPUs of all replicas together."""
        stages = self.cpus * sum(most for _, most in self.replicas_by_stage)
        return stages + self.api_cpus * self.api_replicas
