"""Writes the pages that are made from the code: `python docs/generate.py`; a test compares them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from rewriter.cli.commands import app
from rewriter.inspection import architecture_rows
from rewriter.metrics import METRICS
from rewriter.recipes import PREFIX, RECIPES
from rewriter.strategies import STRATEGIES

MADE = "Made from the code by `python docs/generate.py`; "
ARCHITECTURES = f"""# Architectures

{MADE}`rewriter list architectures` prints the same. The first stack is the
default one, which `--stack main` also names. Where something is limited, `rewriter` refuses a drop that breaks it,
names the rule and up to three selections that work; `--align` takes the nearest of them, `--force` writes what was
asked for with a warning.
"""
COMMANDS = f"""# Commands

{MADE}`rewriter COMMAND --help` says the same.
`rewriter --install-completion` lets the shell complete commands, options and names (bash, zsh, fish, PowerShell).

Every command takes `--quiet` and `--verbose`, before its name or behind it. Errors are one line on stderr;
wrong usage is shown in a box and says which help there is. Colours follow the terminal, `NO_COLOR`, `FORCE_COLOR` and
`TERM=dumb`.
"""
CHOICES = f"""# Strategies and recipes

{MADE}`rewriter list` prints the same. All are names for `--strategy`, as
the [metrics](metrics.md) are.
"""
TITLES = {"huggingface": "Hugging Face (`model_type`)", "gguf": "GGUF (`general.architecture`)"}


def architectures() -> str:
    """The page of the tables."""
    parts = [ARCHITECTURES]
    for table, title in TITLES.items():
        rows = sorted(row[1:] for row in architecture_rows() if row[0] == table)
        parts.append(f"## {title}: {len(rows)}\n\n| name | stacks | limits and warnings |\n|---|---|---|\n")
        parts[-1] += "".join(f"| `{name}` | {stacks} | {limits or '–'} |\n" for name, stacks, limits in rows)
    return "\n".join(parts)


def choices() -> str:
    """The page of the ways to choose that need no weights."""
    rows = [f"| `{name}` | {inspect.getdoc(function)} |" for name, function in STRATEGIES.items()]
    lines = [CHOICES, "## By position\n", "| strategy | what it does |", "|---|---|", *rows]
    lines += ["", f"The {len(METRICS)} metrics: {', '.join(f'`{name}`' for name in METRICS)}.", ""]
    lines += ["## Published orders\n", "| recipe | for | from | goes first to last |", "|---|---|---|---|"]
    lines += [
        f"| `{PREFIX}{each.name}` | {each.model}, {each.layers} layers | {each.paper} | {_order(each)} |"
        for each in RECIPES.values()
    ]
    return "\n".join(lines) + "\n"


def _order(recipe: Any) -> str:
    return ", ".join(map(str, recipe.order))


def commands() -> str:
    """The page of all commands with their options."""
    return "\n".join([COMMANDS, *(_command(words, command) for words, command in walked())])


def walked() -> Iterator[tuple[str, Any]]:
    """Every command under the words that call it, groups before what is in them."""
    waiting: list[tuple[str, Any]] = [("rewriter", get_command(app))]
    while waiting:
        words, command = waiting.pop(0)
        yield words, command
        names = command.list_commands(None) if hasattr(command, "list_commands") else []
        waiting += [(f"{words} {name}", command.get_command(None, name)) for name in names]


def _command(words: str, command: Any) -> str:
    parameters = [each for each in command.params if not getattr(each, "hidden", False)]
    called = [each.metavar or each.name.upper() for each in parameters if each.param_type_name == "argument"]
    usage = " ".join([words, "[OPTIONS]", *(["COMMAND"] if hasattr(command, "list_commands") else called)])
    text = inspect.cleandoc(command.help)
    rows = [f"| {_name(each)} | {_cell(each.help)} |" for each in parameters]
    head = [f"## `{words}`\n", f"    {usage}\n", f"{text}\n", "| option | what it does |", "|---|---|"]
    return "\n".join([*head, *rows, "", f"{command.epilog}\n"])


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.type.name.upper()}"
    return ", ".join(f"`{option}{value}`" for option in reversed(parameter.opts))


def _cell(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").replace("|", "\\|")


PAGES = {"architectures.md": architectures, "commands.md": commands, "choices.md": choices}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (Path(__file__).parent / name).write_text(page(), encoding="utf-8")
