"""Writes docs/api.md from the package itself: every public function and class with its signature and its first line.

    python -m tools.build_api

A test compares the file with what this would write, so it is run again whenever a signature or a docstring changes.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import traderrr_data
from traderrr_data import (
    adopt,
    ingest,
    maintenance,
    market_data,
    portfolio,
    sample,
    schema,
    system,
    trading,
    transfer,
)

API = Path(__file__).parents[1] / "docs" / "api.md"
WIDTH = 110

HEAD = """\
# Public interface

Every public function and class, with its signature and its first line; the docstrings say more (`help(...)`).
This page is written by `tools/build_api.py` from the package itself.

What is imported from `traderrr_data` and its `adopt`, `ingest`, `maintenance`, `sample`, `schema` and `transfer` is
public. Everything else may change without notice.

Rules that hold for all functions:

- The session comes first, then the subject, everything else by keyword. No function commits: the caller's session
  context does.
- A window is `start <= t < end`. `None` leaves a side open.
- `get_` returns one row or raises `RowNotFoundError`, `find_` one row or `None`, `list_` rows in a stated order,
  `stream_` an asynchronous iterator. `add_` stores an addition, `upsert_` inserts or updates, `replace_` makes a window
  hold exactly the rows given, `delete_` returns how many rows are gone.
- `Rows` are mappings by column name, objects of the model, or a frame (anything with `__arrow_c_stream__`: Arrow,
  pandas, Polars, DuckDB).
- `on_conflict` is `"update"`, `"ignore"` or `"error"`: what happens to a row whose key is stored. `on_invalid` is
  `"raise"` or `"reject"`: what happens to a row that cannot be stored.
- Every error of this library is a `TraderrrDataError`; where its `retryable` is true, the same unit of work may succeed
  if it is run again.
"""


def main() -> None:
    """Write the file."""
    API.write_text(api())


def api() -> str:
    """Return the text of docs/api.md."""
    names = {name: getattr(traderrr_data, name) for name in traderrr_data.__all__}
    classes = [value for value in names.values() if inspect.isclass(value)]
    errors = sorted((c for c in classes if issubclass(c, Exception)), key=lambda c: (len(c.__mro__), c.__name__))
    models = [c for c in classes if c.__module__.startswith("traderrr_data.models")]
    others = [c for c in classes if c not in errors and c not in models]
    functions = [value for value in names.values() if inspect.isfunction(value)]
    sections = [
        HEAD,
        section("traderrr_data: the database", [*functions, *others]),
        *(
            section(f"{module.__name__.rpartition('.')[2]}: {title}", members(module))
            for module, title in (
                (market_data, "bars and instruments"),
                (trading, "signals and performance"),
                (portfolio, "positions"),
                (system, "events and retention"),
            )
        ),
        section("Models", models, listed=True),
        section("Errors", errors, listed=True),
        section("traderrr_data.ingest: files and live feeds", members(ingest)),
        section("traderrr_data.schema: migrations from code", members(schema)),
        section(
            "traderrr_data.adopt: files of the old application", [adopt.adopt, adopt.AdoptionReport, adopt.TableReport]
        ),
        section("traderrr_data.transfer: copying databases", members(transfer)),
        section("traderrr_data.maintenance: backups, and free space", members(maintenance)),
        section("traderrr_data.sample: real bars to try things on", members(sample)),
    ]
    return "\n".join(sections)


def members(module: ModuleType) -> list[Any]:
    """Return what a package names, or a module's functions of a session or plain values and its own classes."""
    if named := getattr(module, "__all__", None):
        values = (getattr(module, name) for name in named)
        shown = (value for value in values if inspect.isfunction(value) or inspect.isclass(value))
        return sorted(shown, key=lambda value: (inspect.isclass(value), value.__name__))
    room = module.__name__.rpartition(".")[0] if "access" in module.__name__ else module.__name__
    found = [value for name, value in vars(module).items() if not name.startswith("_") and belongs(value, module, room)]
    return sorted(found, key=lambda value: (inspect.isclass(value), inspect.getsourcelines(value)[1]))


def belongs(value: object, module: ModuleType, room: str) -> bool:
    """Tell whether a name of a module is part of its public face."""
    if inspect.isclass(value):
        return value.__module__.startswith(room)
    if not inspect.isfunction(value) or value.__module__ != module.__name__:
        return False
    return "access" not in room or next(iter(inspect.signature(value).parameters), None) == "session"


def section(title: str, values: list[Any], *, listed: bool = False) -> str:
    """Return one chapter."""
    parts = [f"## {title}\n"]
    if listed:
        parts += [f"- `{described(value)}`: {first_line(value)}" for value in values]
        return "\n".join(parts) + "\n"
    for value in values:
        parts += [f"### {value.__name__}\n", "```pyi", *signatures(value), "```\n", f"{first_line(value)}\n"]
        if inspect.isclass(value) and (methods := [*documented_members(value)]):
            parts += [*methods, ""]
    return "\n".join(parts)


def documented_members(value: type) -> Iterator[str]:
    """Yield a line for each method and property of a class."""
    for name, member in vars(value).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if not name.startswith("_") and inspect.isfunction(function) and is_public(parsed(function)):
            yield f"- `{name}`: {first_line(function)}"


def described(value: type) -> str:
    """Return a class with its base, where that says something."""
    bases = [base.__name__ for base in value.__bases__ if base.__name__ not in ("object", "DontWrapMixin")]
    known = [{"tuple": "NamedTuple"}.get(name, name) for name in bases if not name.startswith("_")]
    return f"{value.__name__}({', '.join(known)})" if known else value.__name__


def first_line(value: object) -> str:
    """Return a docstring's first paragraph in one line; every public name has one."""
    paragraph = (inspect.getdoc(value) or "").partition("\n\n")[0]
    assert paragraph, f"{value} has no docstring"  # noqa: S101 - for the developer who runs this
    return " ".join(paragraph.split())


def signatures(value: Any) -> Iterator[str]:
    """Yield the lines of a function's signature, or of a class with its public members."""
    node = parsed(value)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from signature(node)
        return
    assert isinstance(node, ast.ClassDef)  # noqa: S101 - for the type checker
    yield f"class {described(value)}:"
    body = list(class_body(node))
    yield from textwrap.indent("\n".join(body or ["..."]), "    ").splitlines()


def class_body(node: ast.ClassDef) -> Iterator[str]:
    """Yield what a class shows: its constructor, fields, properties and methods."""
    for member in node.body:
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
            if not member.target.id.startswith("_"):
                value = f" = {text(member.value)}" if member.value is not None else ""
                yield f"{member.target.id}: {text(member.annotation)}{value}"
        elif isinstance(member, ast.Assign) and text(member.targets[0]).isupper():
            yield text(member)
        elif is_public(member):
            assert isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)  # noqa: S101 - for the type checker
            yield from (f"@{text(decorator)}" for decorator in member.decorator_list)
            yield from signature(member)


def is_public(node: ast.stmt) -> bool:
    """Tell whether a method is part of the interface."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    validator = any("validator" in text(decorator) for decorator in node.decorator_list)
    return not validator and (node.name == "__init__" or not node.name.startswith("_"))


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Yield a signature, wrapped where it is long."""
    kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    begin = f"{kind} {node.name}("
    end = f") -> {text(node.returns)}: ..." if node.returns is not None else "): ..."
    arguments = list(parameters(node.args))
    line = begin + ", ".join(arguments) + end
    if len(line) <= WIDTH:
        yield line
        return
    yield begin
    line = "   "
    for argument in arguments:
        if len(line) + len(argument) + 2 > WIDTH:
            yield line
            line = "   "
        line += f" {argument},"
    yield line
    yield end


def parameters(given: ast.arguments) -> Iterator[str]:
    """Yield each parameter as source text."""
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    for argument, default in zip(positional, defaults, strict=True):
        yield parameter(argument, default)
    if given.vararg is not None:
        yield f"*{parameter(given.vararg, None)}"
    elif given.kwonlyargs:
        yield "*"
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield parameter(argument, default)
    if given.kwarg is not None:
        yield f"**{parameter(given.kwarg, None)}"


def parameter(argument: ast.arg, default: ast.expr | None) -> str:
    """Return one parameter as source text."""
    annotation = f": {text(argument.annotation)}" if argument.annotation is not None else ""
    equals = " = " if annotation else "="
    return f"{argument.arg}{annotation}" + (f"{equals}{text(default)}" if default is not None else "")


def text(node: ast.AST | None) -> str:
    """Return source text in the project's quotes."""
    return "" if node is None else ast.unparse(node).replace("'", '"')


def parsed(value: Callable[..., Any] | type) -> ast.stmt:
    """Return the syntax of a function or class."""
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


if __name__ == "__main__":
    main()
