# SPDX-License-Identifier: Apache-2.0
"""Findings in a folder before it is pushed."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shareable:
    """Findings of [`check_shareable`].

    Args:
        directory (`str`): the folder.
        errors (`list[str]`): problems that prevent loading elsewhere or forbid sharing. The folder is not pushed.
        warnings (`list[str]`): things that are missing or need review.
        notes (`list[str]`): things that are allowed but good to know.
        files (`dict[str, int]`): files to upload, with sizes in bytes.
        left_out (`list[str]`): files not uploaded.
        code (`dict[str, str]`): SHA-256 of each uploaded code file, which others will run.
        changed_code (`list[str]`): code files that differ from the installed package.
    """

    directory: str
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    code: dict[str, str] = field(default_factory=dict)
    changed_code: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def text(self) -> str:
        """Format all findings for display."""
        size = sum(self.files.values())
        parts = [
            f"{self.directory}: {_count(len(self.files), 'file')}, {size / 1e6:.1f} MB, "
            + ("can be shared." if self.ok else "cannot be shared as it is.")
        ]
        # Code has a separate table.
        others = {name: size for name, size in self.files.items() if name not in self.code}
        if others:
            parts.append(_table([(f"{size / 1e6:.3f} MB", name) for name, size in sorted(others.items())]))
        if self.code:
            rows = [(digest, f"{name}{self._origin(name)}") for name, digest in sorted(self.code.items())]
            parts.append(
                "Code that others run when they load it with trust_remote_code=True (sha256):\n\n" + _table(rows)
            )
        if self.left_out:
            shown = ", ".join(self.left_out[:8]) + (" ..." if len(self.left_out) > 8 else "")
            parts.append(f"Not uploaded: {shown}")
        for title, found in (("Error", self.errors), ("Warning", self.warnings), ("Note", self.notes)):
            if found:
                parts.append("\n".join(f"{title}: {each}" for each in found))
        return "\n\n".join(parts)

    def _origin(self, name: str) -> str:
        return " (differs from the installed hf_sidenet)" if name in self.changed_code else ""


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(first) for first, _ in rows)
    return "\n".join(f"{first:>{width}}  {second}" for first, second in rows)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
