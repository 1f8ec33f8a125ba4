# SPDX-License-Identifier: Apache-2.0
"""What a benchmark found, as a document, a table, a picture and a verdict."""

import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..evaluation.provenance import hardware, provenance, versions
from ..io.folder_kinds import FolderKind
from ..io.folders import writing_folder
from .measures import SizeResult
from .picture import plot_benchmark
from .tables import text_of, write_results_csv
from .verdict import Verdict, verdict_of


logger = logging.get_logger(__name__)

# Of benchmark.json; it rises when a field changes its meaning.
BENCHMARK_VERSION = 1
BENCHMARK = FolderKind(
    document="benchmark.json",
    marks=("schema_version", "verdict", "sizes"),
    names=("benchmark.md", "benchmark.png"),
)
# What the CSV file is named by, beside the hardware.
NAMED = ("torch", "transformers", "onnxruntime")


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark found.

    Args:
        sizes (`list[SizeResult]`): one per batch size.
        settings (`dict[str, Any]`): what was asked of [`run_benchmark`], and the threads.
        environment (`dict[str, Any]`): hardware and versions.
        about (`dict[str, Any]`): model and data.
    """

    sizes: list[SizeResult]
    settings: dict[str, Any]
    environment: dict[str, Any]
    about: dict[str, Any]

    def text(self) -> str:
        """The verdict and a Markdown table per batch size, for people."""
        return text_of(self.sizes, self.verdict, self.settings, self.about)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "schema_version": BENCHMARK_VERSION,
            "about": self.about,
            "environment": self.environment,
            "settings": self.settings,
            "verdict": asdict(self.verdict),
            "sizes": [asdict(size) for size in self.sizes],
        }

    def save(self, directory: str | os.PathLike, *, overwrite: bool = False) -> list[Path]:
        """Write `benchmark.json`, `benchmark.md`, `benchmark.png`, and a CSV file named by hardware and versions.
        Without matplotlib there is no picture, but everything else is written.

        Args:
            directory (`str` or `os.PathLike`): made where it does not exist.
            overwrite (`bool`, *optional*, defaults to `False`): the folder may hold something, see [`writing_folder`].

        Returns:
            `list[Path]`: the files.

        Raises:
            ValueError: there is a folder that holds something.
        """
        names = [BENCHMARK.document, "benchmark.md", "benchmark.png", f"{file_name(self.environment)}.csv"]
        with writing_folder(directory, BENCHMARK, overwrite=overwrite) as folder:
            document = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
            (folder / names[0]).write_text(document + "\n", encoding="utf-8")
            page = f"# Benchmark\n\n{self.environment['provenance']}\n\n{self.text()}\n"
            (folder / names[1]).write_text(page, encoding="utf-8")
            write_results_csv(self.sizes, self.settings, self.environment, folder / names[3])
            try:
                plot_benchmark(self.sizes, folder / names[2], self.title)
            except ImportError as error:
                logger.warning("The benchmark has no picture: %s", error)
                del names[2]
        return [Path(directory) / name for name in names]

    @property
    def verdict(self) -> Verdict:
        """Whether early exits pay off here."""
        return verdict_of(self.sizes, self.settings["max_accuracy_drop"])

    @property
    def title(self) -> str:
        """Model, data and hardware."""
        said = [str(self.about[name]) for name in ("model", "data") if self.about.get(name)]
        return ", ".join([*said, self.environment["hardware"]])


def environment() -> dict[str, Any]:
    """Hardware, threads, versions, date, and how this process was started, without secrets."""
    found = versions()
    with suppress(PackageNotFoundError):
        found["onnxruntime"] = version("onnxruntime")
    return {
        "hardware": hardware(),
        "versions": found,
        "date": date.today().isoformat(),
        "provenance": provenance(),
    }


def file_name(environment: dict[str, Any]) -> str:
    """A name that says hardware and versions, as `"cpu-xeon-2-threads-gpu-none-torch-2.15.0-transformers-5.23.0"`.

    Args:
        environment (`dict[str, Any]`): of [`environment`].
    """
    versions = [f"{name}-{environment['versions'][name]}" for name in NAMED if name in environment["versions"]]
    words = "-".join([environment["hardware"], *versions])
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-")
