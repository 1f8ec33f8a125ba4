# SPDX-License-Identifier: Apache-2.0
"""docs/mainnets.md from the outcomes of the tests: one row per test class, and what is refused."""

import os
import platform
from importlib import metadata
from pathlib import Path

import torch


COLUMNS = {
    "exits off = plain MainNet": ("test_exits_off_is_the_plain_mainnet_bit_for_bit", "plain MainNet elsewhere"),
    "θ = 0": ("test_theta_zero_runs_only_the_first_blocks",),
    "row alone = row in its batch": ("test_a_row_does_not_depend_on_its_batch",),
    "save, load": ("test_save_and_load_through_the_auto_classes",),
    "without the package": ("without the package",),
    "gradient checkpointing": ("test_gradient_checkpointing_gives_the_same_gradients",),
    "bf16, fp16": ("test_bfloat16_and_autocast",),
    "compiled": ("test_compiled",),
}
INTRODUCTION = """\
# MainNets

<!-- Written by the command below from the outcomes of the tests. Do not edit. -->

Each row is one test class with a tiny random MainNet of that kind; it says nothing about how accurate a SideNet is.
Any other classifier of transformers or timm may work too: attaching runs a self-test, and rejects a model that \
fails it.

- **exits off = plain MainNet**: with θ ≥ 1 the logits are equal, bit for bit, to those of the MainNet without hooks, \
in this process and in another one that loaded the plain checkpoint.
- **θ = 0**: only the blocks before the first SideNet run.
- **row alone = row in its batch**: two of six rows exit at the first SideNet, and at least two reach the end; each \
is also run alone. The number is the largest difference of logits, relative to the row's largest logit; 1e-05 is \
the limit.
- **save, load**: the same answers and exits through `AutoModel`, the task's Auto class and the class itself.
- **without the package**: the same in a process that cannot import `hf_sidenet`.
- **gradient checkpointing**: the same gradients, re-entrant or not.
- **bf16, fp16**: weights in bf16, and autocast to bf16 and fp16.
- **compiled**: `torch.compile` (backend `aot_eager`) gives the same answers; BERT, ViT and ResNet with two SideNets \
and symbolic shapes too, the others with one and static shapes.
"""


class MainnetsPage:
    """A pytest plugin that writes the page when the session ends.

    Args:
        path (`str`): the page.
        arguments (`tuple[str]`): what pytest was called with.
    """

    def __init__(self, path, arguments):
        self.path = Path(path)
        self.arguments = arguments
        self.outcomes = {}  # (test class, test or column) -> "passed" | "failed" | a reason to skip
        self.properties = {}  # test class -> what its tests recorded
        self.refused = {}  # MainNet -> reason

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.outcome == "passed":
            return
        recorded = dict(report.user_properties)
        if "refused" in recorded and report.outcome == "passed":
            self.refused[recorded["refused"]] = recorded["reason"]
        parts = report.nodeid.split("::")
        test, _, case = parts[-1].partition("[")
        outcome = report.longrepr[2].removeprefix("Skipped: ") if report.outcome == "skipped" else report.outcome
        if len(parts) == 3:
            self._add(parts[1], test, outcome)
            self.properties.setdefault(parts[1], {}).update(recorded)
        elif test == "test_same_answers_in_a_process_without_the_package":
            self._add(case.rstrip("]"), "without the package", outcome)
        elif test == "test_the_plain_mainnet_in_another_process":
            self._add(case.rstrip("]"), "plain MainNet elsewhere", outcome)

    def _add(self, name, test, outcome):
        # Of several cases of a test, the worst counts.
        if self.outcomes.get((name, test), "passed") == "passed":
            self.outcomes[name, test] = outcome

    def pytest_sessionfinish(self):
        temporary = self.path.with_name(self.path.name + ".part")
        temporary.write_text(self.text(), encoding="utf-8")
        os.replace(temporary, self.path)

    def text(self):
        """The page, in Markdown."""
        rows = {kind: values["mainnet"] for kind, values in self.properties.items() if "mainnet" in values}
        notes = []
        lines = [INTRODUCTION, f"| MainNet | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
        for kind, title in sorted(rows.items(), key=lambda row: (row[1].startswith("timm"), row[1])):
            cells = [self._cell(kind, tests, notes) for tests in COLUMNS.values()]
            lines.append(f"| {title} | {' | '.join(cells)} |")
        lines += ["", *(f"{i}. {note}." for i, note in enumerate(notes, start=1))]
        lines += ["", "## Refused", "", "With the error that says why.", "", "| MainNet | error |", "|---|---|"]
        lines += [
            f"| {name} | {reason} |" for name, reason in sorted(self.refused.items(), key=lambda r: r[0].lower())
        ]
        versions = [f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "timm")]
        command = " ".join(["python -m pytest", *self.arguments])
        lines += [
            "",
            "## How this page was made",
            "",
            f"`{command}`, on CPU ({platform.machine()}, {torch.get_num_threads()} thread), Python "
            f"{platform.python_version()}, {', '.join(versions)}.",
            "",
        ]
        return "\n".join(lines)

    def _cell(self, kind, tests, notes):
        outcomes = [self.outcomes.get((kind, test), "not run") for test in tests]
        if tests == COLUMNS["row alone = row in its batch"] and outcomes == ["passed"]:
            return self.properties[kind]["largest difference"]
        for outcome in outcomes:
            if outcome in ("failed", "not run"):
                return f"**{outcome}**"
            if outcome != "passed":
                return f"no{self._note(outcome, notes)}"
        note = self.properties[kind].get("checkpointing note")
        return f"yes{self._note(note, notes)}" if note and tests == COLUMNS["gradient checkpointing"] else "yes"

    def _note(self, text, notes):
        if text not in notes:
            notes.append(text)
        return f" ({notes.index(text) + 1})"
