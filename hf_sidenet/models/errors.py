# SPDX-License-Identifier: Apache-2.0
"""Exceptions: invalid arguments, and stopping a forward pass early."""

from typing import Any


class _Nothing:
    """Sentinel for "no value", since `None` is a value."""

    def __reduce__(self) -> str:
        # Unpickles to the singleton.
        return "NOTHING"


NOTHING = _Nothing()


class ArgumentError(ValueError):
    """Invalid argument.

    The message is `` `argument` rule, got value. advice ``. It names other arguments in backticks.

    Args:
        argument (`str`): name of the argument.
        rule (`str`): what must hold, starting with the verb: `"must be ≥ 1"`.
        value (`Any`, *optional*): the value given, shown by `repr`.
        advice (`str`, *optional*): what to do instead, as a sentence.
    """

    def __init__(self, argument: str, rule: str, value: Any = NOTHING, advice: str = ""):
        self.argument = argument
        self.rule = rule
        self.value = value
        self.advice = advice
        super().__init__(f"`{argument}` {self.explanation}")

    @property
    def explanation(self) -> str:
        """Message without the name of the argument."""
        got = "" if self.value is NOTHING else f", got {self.value!r}"
        return f"{self.rule}{got}.{f' {self.advice}' if self.advice else ''}"

    def __reduce__(self) -> tuple:
        # By default, an exception is unpickled from its message alone.
        value = NOTHING if self.value is NOTHING else _Shown(repr(self.value))
        return type(self), (self.argument, self.rule, value, self.advice)


class _Shown:
    """The `repr` of a value from another process."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


class StopForward(Exception):
    """Signal that every row has exited and no later block needs to run. Only the gates see it."""
