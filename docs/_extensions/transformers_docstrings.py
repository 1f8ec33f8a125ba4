# SPDX-License-Identifier: Apache-2.0
"""A griffe extension: docstrings in the form of transformers, as tables of parameters with types and links.

The Google parser splits ``name (`int`, *optional*, defaults to 64): text`` at the colon and takes what stands in
parentheses for a type. This reads it: the type comes from the annotation in the code, the shape goes to the text, and
the default is the value in words rather than the name of a constant. ``[`Name`]`` becomes a link where the site has
an entry of that name, and code elsewhere.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator

import griffe


_CODE = r"`[^`]+`"
_REFERENCE = re.compile(r"\[`(?P<tilde>~?)(?P<name>[\w.]+)`\](?![(\[])")
_SHAPE = re.compile(rf"^(?P<types>.*?),? (?P<each>each )?of shape (?P<shape>{_CODE})$")
_OPTIONAL = re.compile(r"(?:^|, )\*optional\*")
_DEFAULT = re.compile(r"^, defaults to (?P<default>.+?)(?=$|, returned )")
# What may stand before the colon of "Returns:" and "Yields:".
_RETURNED = re.compile(rf"^(?P<given>\[?{_CODE}\]?(?: of shape {_CODE})?(?:, \*optional\*)?)(?:: |$)")
_FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)

_NAMED = {griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes}
_RETURNS = {griffe.DocstringSectionKind.returns, griffe.DocstringSectionKind.yields}
_LISTS = {*_NAMED, *_RETURNS, griffe.DocstringSectionKind.raises}


class TransformersDocstrings(griffe.Extension):
    """Rewrites the parsed docstrings of a package. The dataclasses extension has to run before."""

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        self.ends = _ends_of_paths(pkg)
        for documented in _objects(pkg):
            if documented.docstring is not None:
                for section in documented.docstring.parsed:
                    self._rewrite(section, documented)

    def _rewrite(self, section: griffe.DocstringSection, where: griffe.Object) -> None:
        if section.kind is griffe.DocstringSectionKind.text:
            section.value = self._link(section.value, where)
        elif section.kind in _LISTS:
            for element in section.value:
                self._rewrite_element(element, section.kind, where)

    def _rewrite_element(
        self, element: griffe.DocstringElement, kind: griffe.DocstringSectionKind, where: griffe.Object
    ) -> None:
        if kind in _NAMED:
            if _is_variadic(where, element.name):
                element.value = None
            self._read(element, str(element.annotation or ""), _declared(where, element.name), where)
        elif kind in _RETURNS and (found := _RETURNED.match(element.description)):
            element.description = element.description[found.end() :]
            self._read(element, found["given"], element.annotation, where)
        elif isinstance(element.annotation, griffe.Expr):
            self._anchor(element.annotation)
        element.description = self._link(element.description, where)

    def _read(
        self,
        element: griffe.DocstringNamedElement,
        given: str,
        declared: str | griffe.Expr | None,
        where: griffe.Object,
    ) -> None:
        """Take the words in parentheses apart: type, shape, whether it may be missing, its default."""
        before, after, *_ = (*_OPTIONAL.split(given, maxsplit=1), "")
        about, default = [], ""
        if found := _SHAPE.match(before):
            before = found["types"]
            about.append(f"{'each of ' if found['each'] else ''}shape {found['shape']}")
        if found := _DEFAULT.match(after):
            default, after = found["default"], after[found.end() :]
            is_literal = _is_literal(default.strip("`"))
            element.value = default.strip("`") if is_literal else None
            default = "" if is_literal else default
        if after:
            about.append(after.removeprefix(", "))
        text = element.description
        if about:
            words = "; ".join(about)
            text = f"{words[0].upper()}{words[1:]}{f': {text}' if text else '.'}"
        if default:
            text = f"{text.rstrip().rstrip('.')}. Defaults to {default}."
        element.description = text
        element.annotation = declared if _says_something(declared) else self._type(before, where) or declared

    def _type(self, words: str, where: griffe.Object) -> str | griffe.Expr:
        """The type that a docstring names, with links where it is one in Python's sense."""
        plain = re.sub(r"\[`~?([\w.]+)`\]", r"\1", words).replace("`", "")
        made = griffe.parse_docstring_annotation(re.sub(r", (?![^\[]*\])| or ", " | ", plain), where.docstring)
        if isinstance(made, griffe.Expr):
            return self._anchor(made)
        return plain

    def _anchor(self, expression: griffe.Expr) -> griffe.Expr:
        """Say where names are defined that the module itself does not import."""
        for name in expression.iterate(flat=True):
            if isinstance(name, griffe.ExprName) and name.reference_path is None:
                found = self._unique(name.name)
                if found:
                    name.parent = found.rpartition(".")[0]
        return expression

    def _link(self, text: str, where: griffe.Object) -> str:
        """Links for ``[`Name`]``, outside of blocks of code."""

        def link(match: re.Match) -> str:
            name = match["name"]
            shown = name.rpartition(".")[2] if match["tilde"] else name
            path = self._path(name, where)
            # `optional`: what has no entry on the site stays plain code.
            return f'<autoref identifier="{path}" optional>`{shown}`</autoref>' if path else f"`{shown}`"

        parts = _FENCE.split(text)
        return "".join(part if number % 2 else _REFERENCE.sub(link, part) for number, part in enumerate(parts))

    def _path(self, name: str, where: griffe.Object) -> str | None:
        """The full path of a name as it is meant where it stands: a member, an import, or the only one so called."""
        first, _, rest = name.partition(".")
        try:
            path = where.resolve(first)
        except griffe.NameResolutionError:
            return self._unique(name)
        path = f"{path}.{rest}" if rest else path
        try:
            # Where it is defined, not where it is imported to.
            return where.modules_collection[path].canonical_path
        except (KeyError, griffe.AliasResolutionError):
            return path

    def _unique(self, name: str) -> str | None:
        paths = self.ends[name]
        return next(iter(paths)) if len(paths) == 1 else None


def _objects(parent: griffe.Object) -> Iterator[griffe.Object]:
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from _objects(member)


def _ends_of_paths(pkg: griffe.Module) -> dict[str, set[str]]:
    """By each end of a path, `collect`, `records.collect` and so on, the public modules, classes and functions."""
    ends: dict[str, set[str]] = defaultdict(set)
    for documented in _objects(pkg):
        if not documented.is_attribute or documented.docstring is not None:
            parts = documented.path.split(".")
            for start in range(len(parts)):
                # A method is called by its class too.
                if start < len(parts) - 1 or not (documented.parent and documented.parent.is_class):
                    ends[".".join(parts[start:])].add(documented.path)
    return ends


def _declared(where: griffe.Object, name: str) -> str | griffe.Expr | None:
    """The annotation in the code, of a parameter or of an attribute."""
    if (where.is_class or where.is_function) and name in where.parameters:
        return where.parameters[name].annotation
    return getattr(where.all_members.get(name), "annotation", None)


def _is_variadic(where: griffe.Object, name: str) -> bool:
    """Whether it is `*name` or `**name`, for which `()` or `{}` is no default."""
    kinds = (griffe.ParameterKind.var_positional, griffe.ParameterKind.var_keyword)
    return where.is_function and name in where.parameters and where.parameters[name].kind in kinds


def _says_something(annotation: str | griffe.Expr | None) -> bool:
    return annotation is not None and "Any" not in str(annotation).split(" | ")


def _is_literal(words: str) -> bool:
    try:
        ast.literal_eval(words)
    except (ValueError, SyntaxError):
        return False
    return True
