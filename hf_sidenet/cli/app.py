# SPDX-License-Identifier: Apache-2.0
"""The commands and how their command lines are parsed."""

import csv
import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from .calibrating import attach, recalibrate
from .checkpoints import benchmark, evaluate, info
from .options import Json, Rows
from .outcome import Outcome, show
from .sharing import demo, export, push


EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 invalid arguments or data, 3 do not attach."
LISTS = "Options that take several values: --option A B, or --option A,B."
EXAMPLES: dict[Callable[..., Outcome], str] = {
    attach: "attach my-org/bert-sst2 --train-file train.tsv --validation-file dev.tsv --test-file test.tsv "
    '--target "accuracy_drop<=0.01" --output-dir bert-sst2-sidenet',
    evaluate: "evaluate bert-sst2-sidenet --test-file test.tsv --output-dir bert-sst2-figures",
    recalibrate: "recalibrate bert-sst2-sidenet --dtype bfloat16 --validation-file dev.tsv "
    '--target "accuracy_drop<=0.01" --output-dir bert-sst2-sidenet-bf16',
    export: "export bert-sst2-sidenet --format onnx --int8 --output-dir bert-sst2-int8",
    benchmark: "benchmark bert-sst2-sidenet --test-file test.tsv --output-dir bert-sst2-benchmark",
    push: "push bert-sst2-sidenet my-org/bert-sst2-sidenet --private",
    demo: 'demo bert-sst2-sidenet --example "a gripping film"',
    info: "info bert-sst2-sidenet",
}
# Runs until Ctrl-C, so there is nothing to print.
WITHOUT_JSON = (demo,)
# Sentences contain commas, so these are not split at commas.
PROSE = ("--example",)
NEGATIVE = re.compile(r"-[0-9.]+(,-?[0-9.]+)*")

app = typer.Typer(
    help="Early exits for Hugging Face classifiers: attach SideNets, find a safe θ, evaluate, share.",
    epilog=f"{LISTS} {EXIT_CODES}",
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Command(TyperCommand):
    """Command that accepts lists as `--labels A B`, `--labels A,B` or `--labels A --labels B`, and underscores for
    dashes in option names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Convert the arguments to the third form, which click understands."""
        return super().parse_args(ctx, _plain(args, self.params))


def _plain(args: Sequence[str], params: Sequence[Any]) -> list[str]:
    options = {name: param for param in params for name in param.opts if name.startswith("--")}
    # A list is stored as (parameter, values), so that the loops below can remove or split values.
    found: list[str | tuple[Any, list[str]]] = []
    rest = list(args)
    num_arguments = 0
    while rest:
        arg = rest.pop(0)
        if arg == "--":
            found += [arg, *rest]
            num_arguments += len(rest)
            break
        if not arg.startswith("--"):
            found.append(arg)
            num_arguments += not arg.startswith("-")
            continue
        name, equals, value = arg.partition("=")
        name = name.replace("_", "-")
        param = options.get(name)
        if param is not None and param.multiple:
            values = [value] if equals else []
            while not equals and rest and (not rest[0].startswith("-") or NEGATIVE.fullmatch(rest[0])):
                values.append(rest.pop(0))
            # click reports a missing value.
            found.append((param, values) if values else name)
        else:
            found.append(f"{name}{equals}{value}")
            if param is not None and not param.is_flag and not equals and rest:
                found.append(rest.pop(0))
    lists = [each for each in found if isinstance(each, tuple)]
    # In `--text-column words DIRECTORY`, DIRECTORY is an argument, not a column.
    num_missing = sum(param.required and not param.opts[0].startswith("-") for param in params) - num_arguments
    for _, values in reversed(lists):
        while num_missing > 0 and len(values) > 1:
            found.append(values.pop())
            num_missing -= 1
    counts = {param.opts[0]: sum(len(values) for each, values in lists if each is param) for param, _ in lists}
    plain: list[str] = []
    for each in found:
        if isinstance(each, str):
            plain.append(each)
            continue
        param, values = each
        name = param.opts[0]
        if counts[name] == 1 and name not in PROSE:
            values = _items(values[0], param)
        plain += [f"{name}={value}" for value in values]
    return plain


def _items(value: str, param: Any) -> list[str]:
    """Split a list at commas; quotes protect commas inside an item, as in a csv file."""
    if "," not in value or "\n" in value or "\r" in value:
        return [value]
    (items,) = csv.reader([value], skipinitialspace=True)
    items = [item.strip() for item in items]
    if "" in items:
        raise typer.BadParameter(f"must have a value on both sides of a comma, got {value!r}.", param=param)
    return items


def _register(function: Callable[..., Outcome]) -> None:
    """Turn a function into a command: its docstring is the help text, each field of its [`DataOptions`] an option."""
    parameters: list[inspect.Parameter] = []
    rows: dict[str, Rows] = {}
    for parameter in inspect.signature(function).parameters.values():
        known = next(
            (each for each in getattr(parameter.annotation, "__metadata__", ()) if isinstance(each, Rows)), None
        )
        if known is None:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        else:
            rows[parameter.name] = known
            parameters += known.parameters()
    if function not in WITHOUT_JSON:
        json = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
        parameters.append(json)

    def typed(**given: Any) -> int:
        as_json = given.pop("as_json", False)
        data = {name: each.take(given) for name, each in rows.items()}
        return show(partial(function, **data, **given), as_json)

    typed.__signature__ = inspect.Signature(parameters)
    typed.__annotations__ = {}
    # One line per paragraph: the terminal wraps it.
    help = "\n\n".join(" ".join(part.split()) for part in (inspect.getdoc(function) or "").split("\n\n"))
    epilog = f"Example: hf-sidenet {EXAMPLES[function]}"
    app.command(function.__name__, cls=Command, help=help, epilog=epilog)(typed)


for function in EXAMPLES:
    _register(function)


def command() -> Any:
    """Return the click command with its subcommands."""
    return typer.main.get_command(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
