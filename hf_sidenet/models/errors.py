# SPDX-License-Identifier: Apache-2.0
"""Exceptions: what is said of an impossible argument, and how a forward stops in the middle."""

from typing import Any


class _Nothing:
    """Stands for no value: `None` is one."""

    def __reduce__(self) -> str:
        # The one that there is.
        return "NOTHING"


NOTHING = _Nothing()


class ArgumentError(ValueError):
    """An argument has an impossible value.

    The message is `` `argument` rule, got value. advice ``. Other arguments that it names stand in backticks.

    Args:
        argument (`str`): its name.
        rule (`str`): what must hold, from the verb on: `"must be ≥ 1"`.
        value (`Any`, *optional*): what was given, as `repr` shows it.
        advice (`str`, *optional*): what to do instead, a sentence.
    """

    def __init__(self, argument: str, rule: str, value: Any = NOTHING, advice: str = ""):
        self.argument = argument
        self.rule = rule
        self.value = value
        self.advice = advice
        super().__init__(f"`{argument}` {self.explanation}")

    @property
    def explanation(self) -> str:
        """The message without the name of the argument."""
        got = "" if self.value is NOTHING else f", got {self.value!r}"
        return f"{self.rule}{got}.{f' {self.advice}' if self.advice else ''}"

    def __reduce__(self) -> tuple:
        # By default an exception is made again of its message.
        value = NOTHING if self.value is NOTHING else _Shown(repr(self.value))
        return type(self), (self.argument, self.rule, value, self.advice)


class _Shown:
    """A value that went to another process: how it looked."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


class StopForward(Exception):
    """Every row has its answer: nothing after this block needs to run. Nobody sees it but the gates."""
