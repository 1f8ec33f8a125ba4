# SPDX-License-Identifier: Apache-2.0
"""Result of a benchmark: document, tables, figure and verdict."""

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

# Version of benchmark.json, incremented when a field changes its meaning.
BENCHMARK_VERSION = 1
BENCHMARK = FolderKind(
    document="benchmark.json",
    marks=("schema_version", "verdict", "sizes"),
    names=("benchmark.md", "benchmark.png"),
)
# Packages whose versions are in the name of the CSV file, after the hardware.
NAMED = ("torch", "transformers", "onnxruntime")


@dataclass(frozen=True)
class BenchmarkResult:
    """Result of a benchmark.

    Args:
        sizes (`list[SizeResult]`): results per batch size.
        settings (`dict[str, Any]`): arguments of [`run_benchmark`], and the number of threads.
        environment (`dict[str, Any]`): hardware and versions.
        about (`dict[str, Any]`): description of model and data.
    """

    sizes: list[SizeResult]
    settings: dict[str, Any]
    environment: dict[str, Any]
    about: dict[str, Any]

    def text(self) -> str:
        """Return the verdict and a Markdown table per batch size."""
        return text_of(self.sizes, self.verdict, self.settings, self.about)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dict for JSON."""
        return {
            "schema_version": BENCHMARK_VERSION,
            "about": self.about,
            "environment": self.environment,
            "settings": self.settings,
            "verdict": asdict(self.verdict),
            "sizes": [asdict(size) for size in self.sizes],
        }

    def save(self, directory: str | os.PathLike, *, overwrite: bool = False) -> list[Path]:
        """Write `benchmark.json`, `benchmark.md`, `benchmark.png`, and a CSV file named after hardware and
        versions. Without matplotlib there is no figure, but everything else is written.

        Args:
            directory (`str` or `os.PathLike`): created if it does not exist.
            overwrite (`bool`, *optional*, defaults to `False`): the folder may have content, see [`writing_folder`].

        Returns:
            `list[Path]`: the files.

        Raises:
            ValueError: the folder exists and is not empty.
        """
        names = [BENCHMARK.document, "benchmark.md", "benchmark.png", f"{file_name(self.environment)}.csv"]
        with writing_folder(directory, BENCHMARK, overwrite=overwrite) as folder:
            document = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
            (folder / names[0]).write_text(document + "\n", encoding="utf-8")
            page = f"# Benchmark\n\n{self.environment['provenance']}\n\n{self.text()}\n"
            (folder / names[1]).write_text(page, encoding="utf-8")
            write_results_csv(self.sizes, self.settings, self.environment, folder / names[3])
            try:
                plot_benchmark(self.sizes, folder / names[2], self.title, self.settings["max_accuracy_drop"])
            except ImportError as error:
                logger.warning("The benchmark has no figure: %s", error)
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
    """Return hardware, threads, versions, date, and the command line of this process, without secrets."""
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
    """Return a name from hardware and versions, e.g. `"cpu-xeon-2-threads-gpu-none-torch-2.15.0-transformers-5.23.0"`.

    Args:
        environment (`dict[str, Any]`): output of [`environment`].
    """
    versions = [f"{name}-{environment['versions'][name]}" for name in NAMED if name in environment["versions"]]
    words = "-".join([environment["hardware"], *versions])
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-")
