# SPDX-License-Identifier: Apache-2.0
"""Chain of stages in ONNX Runtime. The only file that opens its sessions."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..models.errors import ArgumentError
from ..optional import require
from .exported import ONNX, ExportedStages, StageFile


CPU = "CPUExecutionProvider"
ENTRIES = {
    # Every stage has its own threads; spinning threads of a finished stage would slow down the next one.
    "session.force_spinning_stop": "1",
    # Without VNNI, int8 kernels accumulate in 16 bits, which overflow.
    "session.x64quantprecision": "1",
}


def open_session(path: str | os.PathLike, *, num_threads: int | None = None, providers: Sequence[str] = (CPU,)) -> Any:
    """Open an ONNX file in ONNX Runtime.

    Args:
        path (`str` or `os.PathLike`): the file.
        num_threads (`int`, *optional*): number of threads, by default torch's.
        providers (`Sequence[str]`, *optional*, defaults to the CPU's): execution providers of ONNX Runtime.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = num_threads or torch.get_num_threads()
    # Errors are raised anyway.
    options.log_severity_level = 4
    for name, value in ENTRIES.items():
        options.add_session_config_entry(name, value)
    return runtime.InferenceSession(str(path), options, providers=list(providers))


class OnnxStages(ExportedStages):
    """Chain of stages of a folder written by [`export_onnx`]. Replaces a model in [`SideNetRunner`].

    Inputs and outputs are CPU tensors, without copies. `config` has θ, temperatures and the evidence; `precision` is
    the precision of the stages. Thread-safe.

    Args:
        directory (`str` or `os.PathLike`): the folder.
        num_threads (`int`, *optional*): number of threads per stage, by default torch's.
        providers (`Sequence[str]`, *optional*):
            Execution providers of ONNX Runtime, in order of preference; by default the CPU's.
        only (`int`, *optional*): open only this stage, if the others run in other processes.

    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: an argument is invalid, or the folder is damaged.

    Example:

    ```python
    >>> stages = OnnxStages.load("bert-sst2-onnx")
    >>> len(stages), stages.precision
    (3, 'float32 (ONNX Runtime)')
    >>> runner = SideNetRunner(stages, AutoTokenizer.from_pretrained("bert-sst2-onnx"))
    ```
    """

    format = ONNX
    runtime = "ONNX Runtime"

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        num_threads: int | None = None,
        providers: Sequence[str] | None = None,
        only: int | None = None,
    ):
        if num_threads is not None and (type(num_threads) is not int or num_threads < 1):
            raise ArgumentError("num_threads", "must be an integer ≥ 1", num_threads)
        runtime = require("onnxruntime", "onnx")
        providers = [CPU] if providers is None else list(providers)
        known = runtime.get_available_providers()
        if not providers or not set(providers) <= set(known):
            raise ArgumentError("providers", f"must be among those available, {known}, got {providers}")
        super().__init__(directory)
        if only is not None and not 0 <= only < len(self):
            raise ArgumentError("only", f"must be between 0 and {len(self) - 1}, got {only}")
        self._options: dict[str, Any] = {"num_threads": num_threads, "providers": providers}
        self._process = os.getpid()
        self._has_threads = (num_threads or torch.get_num_threads()) > 1
        self._sessions = {}
        for index, stage in enumerate(self.manifest.stages):
            if only not in (None, index):
                continue
            try:
                session = open_session(Path(directory) / stage.file, num_threads=num_threads, providers=providers)
            except Exception as error:
                line = " ".join(str(error).split())
                raise ArgumentError("directory", f"{str(directory)!r} cannot run: {stage.file}: {line}") from error
            self._check(stage, session)
            self._sessions[index] = session
        self._shapes = {
            index: {each.name: each.shape for each in session.get_inputs()}
            for index, session in self._sessions.items()
        }

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike,
        *,
        num_threads: int | None = None,
        providers: Sequence[str] | None = None,
        only: int | None = None,
    ) -> "OnnxStages":
        """Load an exported folder; the arguments are those of the class."""
        return cls(directory, num_threads=num_threads, providers=providers, only=only)

    def reopened(self, directory: str | os.PathLike) -> "OnnxStages":
        """Open another folder with the threads and execution providers of this chain.

        Args:
            directory (`str` or `os.PathLike`): the folder.
        """
        return type(self)(directory, **self._options)

    def _check(self, stage: StageFile, session: Any) -> None:
        inputs = [each.name for each in session.get_inputs()]
        outputs = [each.name for each in session.get_outputs()]
        if inputs != stage.inputs or outputs != stage.outputs:
            raise ValueError(
                f"{stage.file} must take {stage.inputs} and return {stage.outputs} according to the manifest, but "
                f"takes {inputs} and returns {outputs}."
            )
        expected, got = self.task.num_outputs(self.config), session.get_outputs()[-1].shape[-1]
        if got != expected:
            raise ValueError(f"{stage.file} must have {expected} classes like the config, got {got}.")

    def _run(self, index: int, tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        if index not in self._sessions:
            raise ArgumentError("index", f"must be the open stage, {list(self._sessions)}, got {index}")
        if self._has_threads and os.getpid() != self._process:
            # A call would deadlock.
            raise RuntimeError(
                "this process was forked after the stages were opened, without their threads: open them in this "
                "process, or with `num_threads=1`."
            )
        feed = {}
        for name, tensor in tensors.items():
            shape = self._shapes[index][name]
            if len(shape) != tensor.dim() or any(
                isinstance(size, int) and size != got for size, got in zip(shape, tensor.shape, strict=True)
            ):
                raise ArgumentError(
                    name,
                    f"must have shape {tuple(shape)} for stage {index}, got {tuple(tensor.shape)}",
                )
            if tensor.is_floating_point() and tensor.dtype != self.dtype:
                raise ArgumentError(name, f"must be {self.dtype}, got {tensor.dtype}")
            value = tensor if tensor.is_floating_point() else tensor.long()
            feed[name] = value.detach().contiguous().numpy()
        return tuple(map(torch.from_numpy, self._sessions[index].run(None, feed)))
