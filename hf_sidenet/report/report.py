# SPDX-License-Identifier: Apache-2.0
"""`report.json`: what `attach` found, and what another calibration changed. Its keys are described in docs/report.md.

This file is the only one that knows them: it makes reports, reads and checks them, and writes them as JSON that every
reader takes.
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
# It rises when a field changes its meaning.
VERSION = 1
ATTACH, DO_NOT_ATTACH = "attach", "do not attach"
# Of a checkpoint without a report.
BATCH_SIZE = 32

SPLIT = "an object with `num_rows` and `has_labels`"


@dataclass(frozen=True)
class Found:
    """What a calibration found, on its way into a report.

    Args:
        calibration ([`Calibration`]): the path, and what the certification rows said.
        costs ([`ExitCosts`]): of every exit, on these rows and this machine.
        evidence (`dict[str, Any]`, *optional*): behind θ; `None` where none was chosen.
        certification (`dict[str, Any]`): of [`certified_rows`].
        validation ([`Rows`]): the validation rows.
        trust_labels (`bool`): whether labels were not held against the MainNet's answers.
    """

    calibration: Calibration
    costs: ExitCosts
    evidence: dict[str, Any] | None
    certification: dict[str, Any]
    validation: Rows
    trust_labels: bool

    @property
    def verdict(self) -> str:
        """`"attach"`, or `"do not attach"` where no threshold meets the target and saves anything."""
        return DO_NOT_ATTACH if self.calibration.selection.chosen is None else ATTACH

    @property
    def reason(self) -> str:
        """Why, in a sentence."""
        return self.calibration.selection.reason

    def to_dict(self) -> dict[str, Any]:
        """The keys of a report that a calibration fills."""
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
        """What was asked of the calibration."""
        return {
            "target": [str(target) for target in self.calibration.targets],
            "confidence_level": self.calibration.confidence_level,
            "test_method": self.calibration.test,
        }

    def num_rows(self) -> dict[str, int]:
        """How many rows chose, and how many certified."""
        return {
            "num_design_rows": self.calibration.num_design_rows,
            "num_certification_rows": self.calibration.num_certification_rows,
        }


class Report(Mapping[str, Any]):
    """What `attach` found. It reads as the mapping that `report.json` is, and does not change.

    Args:
        document (`Mapping[str, Any]`): the keys of `report.json`; those of somebody else's report may be any.
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
        """The report of one call of [`attach`].

        Args:
            found ([`Found`]): by the calibration.
            settings (`Mapping[str, Any]`): what was asked for, beside the target.
            mainnet (`Mapping[str, Any]`): which classifier it is.
            rows (`Mapping[str, Rows]`): train, validation and maybe test.
            candidates (`Sequence[Mapping[str, Any]]`): every SideNet that was trained.
            placements (`Sequence[Mapping[str, Any]]`): the best sets of them.
            evaluation ([`ExitEvaluation`], *optional*): of the test rows.
            seconds (`Mapping[str, float]`, *optional*): that each step took.
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
        """The same checkpoint after another calibration. Results on test rows were for the old θ, so they go.

        Args:
            found ([`Found`]): by the calibration.
            given_reference (`bool`): whether another classifier than the MainNet inside was compared with.
            settings (`Any`): that were others than before: `max_length`, `batch_size`.

        Raises:
            ValueError: this is no report of `attach`, or one of another version.
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
        """`report.json` of a checkpoint, empty where it has none.

        Args:
            checkpoint (`str`): folder or Hub id.

        Raises:
            ValueError: it is damaged; names the field.
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
        """A report, with every field checked that a command reads. One without a version, such as that of a training
        script, may lack them.

        Args:
            path (`Path`): the file.

        Raises:
            ValueError: it is damaged; names the field.
        """
        try:
            document = read_object(path, parse_constant=_refuse)
        except ValueError as error:
            raise ValueError(f"{REPORT} is damaged: {error} ({path}).") from error
        check_fields(document, ANY_RULES if "schema_version" not in document else RULES, REPORT)
        return cls(document)

    def to_json(self) -> str:
        """As text: `null` for NaN and infinite numbers, and no path of the machine that made it."""
        mainnet = {**self["mainnet"], "name": hub_id(self["mainnet"]["name"])}
        return json_text({**self, "mainnet": mainnet}) + "\n"

    def save(self, directory: str | os.PathLike) -> None:
        """Write `report.json`; one that is there is replaced when the new one is complete.

        Args:
            directory (`str` or `os.PathLike`): folder of the checkpoint.
        """
        with replacing(Path(directory) / REPORT) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    def check_version(self) -> None:
        """Refuse a report that cannot be brought up to date.

        Raises:
            ValueError: it is not one of `attach`, or of another version.
        """
        version = self.get("schema_version")
        if version != VERSION:
            got = "one without a version or none" if version is None else f"version {version}"
            raise ArgumentError("report", f"must be a {REPORT} of `attach`, version {VERSION}, got {got}")

    def max_length(self, given: int | None = None) -> int | None:
        """Tokens at which texts are cut: as given, else as when the checkpoint was made."""
        return self.get("settings", {}).get("max_length") if given is None else given

    def batch_size(self, given: int | None = None) -> int:
        """Rows per call: as given, else as when the checkpoint was made."""
        return given or self.get("settings", {}).get("batch_size") or BATCH_SIZE

    def fractions(self, currency: str) -> list[float] | None:
        """Cost of an answer at each exit, as a fraction of the plain MainNet's; `None` where none were measured.

        Args:
            currency (`str`): see [`ExitCosts.fractions`].
        """
        costs = self.get("costs")
        return None if costs is None else ExitCosts(**costs).fractions(currency)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


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
# Of a report that somebody else wrote, what commands would take from it.
ANY_RULES = _optional(
    {name: RULES[name] for name in ("settings", "settings.batch_size", "settings.max_length", "mainnet")}
)
