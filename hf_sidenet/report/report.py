# SPDX-License-Identifier: Apache-2.0
"""`report.json`: outcome of `attach` and of later calibrations. docs/report.md describes its keys.

Only this module knows the keys: it makes, reads, checks and writes reports, as standard JSON.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from ..calibration import Calibration
from ..calibration.evidence import COUNT
from ..data.rows import Rows
from ..evaluation import ExitEvaluation
from ..evaluation.provenance import hardware, versions
from ..io.fields import Rule, check_fields, is_count, is_list, is_map, is_number, is_object, is_text
from ..io.files import replacing
from ..io.json import json_text, read_object
from ..measurement.costs import ExitCosts
from ..models.errors import ArgumentError
from .metadata import hub_id


REPORT = "report.json"
# Incremented when a field changes its meaning.
VERSION = 1
ATTACH, DO_NOT_ATTACH = "attach", "do not attach"
# Default for checkpoints without a report.
BATCH_SIZE = 32

SPLIT = "an object with `num_rows` and `has_labels`"


@dataclass(frozen=True)
class Found:
    """Outcome of a calibration, for a report.

    Args:
        calibration ([`Calibration`]): the path and its results on the certification rows.
        costs ([`ExitCosts`]): costs of every exit, on these rows and this machine.
        evidence (`dict[str, Any]`, *optional*): evidence behind θ; `None` if no θ was chosen.
        certification (`dict[str, Any]`): output of [`certified_rows`].
        validation ([`Rows`]): the validation rows.
        trust_labels (`bool`): whether labels were accepted without checking them against the MainNet's answers.
    """

    calibration: Calibration
    costs: ExitCosts
    evidence: dict[str, Any] | None
    certification: dict[str, Any]
    validation: Rows
    trust_labels: bool

    @property
    def verdict(self) -> str:
        """`"attach"`, or `"do not attach"` if no threshold meets the target and saves anything."""
        return DO_NOT_ATTACH if self.calibration.selection.chosen is None else ATTACH

    @property
    def reason(self) -> str:
        """Reason for the verdict, as a sentence."""
        return self.calibration.selection.reason

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of a report that a calibration sets."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "costs": asdict(self.costs),
            "path": [asdict(point) for point in self.calibration.selection.points],
            "calibration": self.evidence,
            "certification": self.certification,
            "classes": {**self.validation.classes.about(), "trusted": self.trust_labels},
        }

    def settings(self) -> dict[str, Any]:
        """Return the settings of the calibration."""
        return {
            "target": [str(target) for target in self.calibration.targets],
            "confidence_level": self.calibration.confidence_level,
            "test_method": self.calibration.test,
        }

    def num_rows(self) -> dict[str, int]:
        """Return the numbers of design and certification rows."""
        return {
            "num_design_rows": self.calibration.num_design_rows,
            "num_certification_rows": self.calibration.num_certification_rows,
        }


class Report(Mapping[str, Any]):
    """Outcome of `attach`: an immutable mapping with the keys of `report.json`.

    Args:
        document (`Mapping[str, Any]`): keys of `report.json`; a report of another tool may have any keys.
    """

    def __init__(self, document: Mapping[str, Any]):
        self._document = dict(document)

    def __getitem__(self, name: str) -> Any:
        return self._document[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._document)

    def __len__(self) -> int:
        return len(self._document)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._document!r})"

    @classmethod
    def from_attach(
        cls,
        found: Found,
        *,
        settings: Mapping[str, Any],
        mainnet: Mapping[str, Any],
        rows: Mapping[str, Rows],
        candidates: Sequence[Mapping[str, Any]],
        placements: Sequence[Mapping[str, Any]],
        evaluation: ExitEvaluation | None = None,
        seconds: Mapping[str, float] | None = None,
    ) -> "Report":
        """Make the report of a call of [`attach`].

        Args:
            found ([`Found`]): outcome of the calibration.
            settings (`Mapping[str, Any]`): settings other than the calibration's.
            mainnet (`Mapping[str, Any]`): description of the MainNet.
            rows (`Mapping[str, Rows]`): train, validation and, if given, test rows.
            candidates (`Sequence[Mapping[str, Any]]`): all trained SideNets.
            placements (`Sequence[Mapping[str, Any]]`): the best sets of them.
            evaluation ([`ExitEvaluation`], *optional*): evaluation on the test rows.
            seconds (`Mapping[str, float]`, *optional*): duration of each step.
        """
        return cls(
            {
                "schema_version": VERSION,
                **found.to_dict(),
                "settings": {**found.settings(), **settings},
                "mainnet": dict(mainnet),
                "data": {**{name: each.about() for name, each in rows.items()}, **found.num_rows()},
                "candidates": list(candidates),
                "placements": list(placements),
                "evaluation": None if evaluation is None else evaluation.to_dict(),
                "versions": versions(),
                "hardware": hardware(),
                "seconds": dict(seconds or {}),
            }
        )

    def recalibrated(self, found: Found, *, given_reference: bool, **settings: Any) -> "Report":
        """Return the report after another calibration, without the results on test rows, which were for the old θ.

        Args:
            found ([`Found`]): outcome of the calibration.
            given_reference (`bool`): whether the reference was a classifier other than the MainNet inside.
            settings (`Any`): changed settings: `max_length`, `batch_size`.

        Raises:
            ValueError: this is not a report of `attach`, or one of another version.
        """
        self.check_version()
        before = self["settings"]
        reference = "given" if given_reference or before["tune"] != "joint" else "tuned"
        changed = {
            **found.to_dict(),
            "settings": {**before, **settings, **found.settings(), "reference": reference},
            "data": {
                **{name: value for name, value in self["data"].items() if name != "test"},
                "validation": found.validation.about(),
                **found.num_rows(),
            },
            "evaluation": None,
            "versions": versions(),
            "hardware": hardware(),
        }
        return Report({**self, **changed})

    @classmethod
    def load(cls, checkpoint: str | os.PathLike) -> "Report":
        """Load `report.json` of a checkpoint; the report is empty if there is none.

        Args:
            checkpoint (`str`): folder or Hub id.

        Raises:
            ValueError: the report is damaged; the message names the field.
        """
        path = cached_file(
            str(checkpoint),
            REPORT,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return cls({}) if path is None else cls.read(Path(path))

    @classmethod
    def read(cls, path: Path) -> "Report":
        """Read a report and check every field that commands use. Reports without a version, such as those of training
        scripts, may lack these fields.

        Args:
            path (`Path`): the file.

        Raises:
            ValueError: the report is damaged; the message names the field.
        """
        try:
            document = read_object(path, parse_constant=_refuse)
        except ValueError as error:
            raise ValueError(f"{REPORT} is damaged: {error} ({path}).") from error
        check_fields(document, ANY_RULES if "schema_version" not in document else RULES, REPORT)
        return cls(document)

    def to_json(self) -> str:
        """Return the report as JSON: NaN and infinite numbers become `null`, and local paths are left out."""
        mainnet = {**self["mainnet"], "name": hub_id(self["mainnet"]["name"])}
        return json_text({**self, "mainnet": mainnet}) + "\n"

    def save(self, directory: str | os.PathLike) -> None:
        """Write `report.json`, replacing an existing one atomically.

        Args:
            directory (`str` or `os.PathLike`): folder of the checkpoint.
        """
        with replacing(Path(directory) / REPORT) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    def check_version(self) -> None:
        """Reject a report that cannot be updated.

        Raises:
            ValueError: this is not a report of `attach`, or one of another version.
        """
        version = self.get("schema_version")
        if version != VERSION:
            got = "one without a version or none" if version is None else f"version {version}"
            raise ArgumentError("report", f"must be a {REPORT} of `attach`, version {VERSION}, got {got}")

    def max_length(self, given: int | None = None) -> int | None:
        """Return the number of tokens that texts are truncated to: as given, else as when the checkpoint was made."""
        return self.get("settings", {}).get("max_length") if given is None else given

    def batch_size(self, given: int | None = None) -> int:
        """Return the number of rows per call: as given, else as when the checkpoint was made."""
        return given or self.get("settings", {}).get("batch_size") or BATCH_SIZE

    def fractions(self, currency: str) -> list[float] | None:
        """Return the cost of an answer at each exit, as a fraction of the plain MainNet's, or `None` if not measured.

        Args:
            currency (`str`): see [`ExitCosts.fractions`].
        """
        costs = self.get("costs")
        return None if costs is None else ExitCosts(**costs).fractions(currency)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def _optional(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    return {name: Rule(rule.words, rule.holds, required=False) for name, rule in rules.items()}


def _is_positive(value: Any) -> bool:
    return is_count(value) and value > 0


def _is_split(value: Any) -> bool:
    return is_object(value) and is_count(value.get("num_rows")) and isinstance(value.get("has_labels"), bool)


RULES = {
    "schema_version": Rule("a whole number ≥ 1", _is_positive),
    "settings": Rule("an object", is_object),
    "settings.target": Rule("a list of strings", lambda x: is_list(x, is_text)),
    "settings.tune": Rule("'heads' or 'joint'", lambda x: x in ("heads", "joint")),
    "settings.reference": Rule("'given' or 'tuned'", lambda x: x in ("given", "tuned")),
    "settings.batch_size": Rule("a whole number ≥ 1", _is_positive),
    "settings.max_length": Rule("a whole number ≥ 1 or null", lambda x: x is None or _is_positive(x)),
    "settings.heads": Rule("an object", is_object),
    "settings.joint": Rule("an object or null", lambda x: x is None or is_object(x)),
    "mainnet": Rule("an object", is_object),
    "mainnet.name": Rule("a string or null", lambda x: x is None or is_text(x)),
    "mainnet.class": Rule("a string", is_text),
    "mainnet.dtype": Rule("a string", is_text, required=False),
    "data": Rule("an object", is_object),
    "data.train": Rule(SPLIT, _is_split),
    "data.validation": Rule(SPLIT, _is_split),
    "data.test": Rule(SPLIT, _is_split, required=False),
    "data.num_design_rows": Rule(COUNT, is_count),
    "data.num_certification_rows": Rule(COUNT, is_count),
    "evaluation": Rule("an object or null", lambda x: x is None or is_object(x)),
    "versions": Rule("an object with strings", lambda x: is_map(x, is_text)),
    "hardware": Rule("a string", is_text),
    "seconds": Rule("an object with numbers", lambda x: is_map(x, is_number)),
    "files": Rule("an object with strings", lambda x: is_map(x, is_text), required=False),
}
# Fields that commands read from reports of other tools.
ANY_RULES = _optional(
    {name: RULES[name] for name in ("settings", "settings.batch_size", "settings.max_length", "mainnet")}
)
