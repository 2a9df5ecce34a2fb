"""Writes the pages that are made from the code: `python docs/generate.py`; a test compares them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from typer.main import get_command

from rewriter.architectures import schema
from rewriter.architectures.metadata_fields import DEFAULT_FIELDS
from rewriter.cli.command_group import app
from rewriter.planning.constraints.limit_kinds import KINDS
from rewriter.planning.metadata.edits import FORMULAS
from rewriter.planning.metadata.field_rules import RULES
from rewriter.planning.selection.published_orders import PREFIX, RECIPES
from rewriter.planning.selection.strategies import STRATEGIES
from rewriter.report.json_values import architecture_rows
from rewriter.scoring.metrics import METRICS

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

Every command takes `--quiet` and `--verbose`, before its name or behind it. Errors are one line on stderr; that of
wrong usage names the help to read. Colours follow the terminal, `NO_COLOR`, `FORCE_COLOR` and
`TERM=dumb`.
"""
CHOICES = f"""# Strategies and recipes

{MADE}`rewriter list` prints the same. All are names for `--strategy`, as
the [metrics](metrics.md) are.
"""
MEMBERS = f"""# Rules of your own

{MADE}[a model without rules](how-to/new.md) shows how they are used.

`--architecture FILE` takes the rules of one architecture from a TOML file, and
`rewriter list architectures --toml NAME` prints any of ours as such a file. What differs from the default is written,
all else left out. A member that is misspelt, missing or of another kind is an error that names it; so is a count that
the metadata does not have, and a key that looks like one that it has.

A file cannot state the computation of a layer (norms, activation, positions, routing). Metrics that follow the residual
stream take it from the entry of the checkpoint's own model type, or else assume a usual decoder.

## An example

A model of two stacks. In its text model every fourth layer has full attention unless a list says otherwise, the first
layers are dense, and layer 0 makes something that all others use.

```toml
name = "zephyr"
format = "huggingface"

[[stacks]] # the first one is the default
name = "text"
prefixes = ["model.language_model.layers."]
count_key = "text_config.num_hidden_layers" # so this stack's keys are those of text_config
fields = [["heads_in_layer", "per_layer"], ["dense_lead", "leading_count"]]

[[stacks.patterns]] # of the stack right above it
explicit = "layer_types"
period_keys = ["attention_every"]
default = 4
special = "full_attention"
other = "linear_attention"

[[stacks.limits]]
kind = "must_keep"
value = [0]
why = "layer 0 makes the values that all others use"

[[stacks]]
name = "vision"
prefixes = ["model.visual.blocks."]
count_key = "vision_config.depth"
```

Dropping layer 5 of 8 writes `layer_types` for the seven that are left, even if `config.json` had none: the pattern is
broken.
"""
DEFAULTS = """\
What these keys hold follows without being named, in the scope of every stack. `keep` is for lists that have nothing to
do with layers, however long they are.
"""
PARTS = {
    "The file": (schema.Architecture, ""),
    "A stack": (schema.StackRule, "[[stacks]]"),
    "A pattern": (schema.Pattern, "[[stacks.patterns]]"),
    "A limit": (schema.LayerLimit, "[[stacks.limits]]"),
    "Shared tensors": (schema.SharedTensors, "[[stacks.shared]]"),
    "Stacked tensors": (schema.StackedTensor, "[[stacks.stacked]]"),
}
KIND_OF = {"str": "text", "int": "number", "bool": "true or false", "object": "any value"}
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


def rules() -> str:
    """The page of what a file for --architecture can say."""
    parts = [MEMBERS]
    for title, (kind, table) in PARTS.items():
        head = f"## {title}\n\n" + (f"Each is a table `{table}`. " if table else "")
        parts.append(f"{head}{inspect.getdoc(kind)}\n\n{_member_table(kind)}")
    parts.append(_functions("How a field follows", "The second entry of each pair in `fields`.", RULES))
    parts.append(_default_fields())
    parts.append(_functions("Kinds of limits", "`kind` of a limit; `value` says what it is about.", KINDS))
    formulas = "".join(f"- `{name}`\n" for name in FORMULAS)
    parts.append(f"## Formulas\n\nThe second entry of each pair in `pins`.\n\n{formulas}")
    return "\n".join(parts)


def _default_fields() -> str:
    rows = []
    for kind, table in DEFAULT_FIELDS.items():
        for rule in dict.fromkeys(table.values()):
            keys = ", ".join(f"`{key}`" for key, each in table.items() if each == rule)
            rows.append(f"| `{rule}` | {keys} | {TITLES[kind].partition(' (')[0]} |\n")
    head = "| follows as | keys | in |\n|---|---|---|\n"
    return f"## Fields that need no rule\n\n{DEFAULTS}\n{head}{''.join(rows)}"


def _functions(title: str, text: str, named: Mapping[str, Callable[..., Any]]) -> str:
    rows = "".join(f"| `{name}` | {_cell(inspect.getdoc(function))} |\n" for name, function in named.items())
    return f"## {title}\n\n{text}\n\n| name | what it does |\n|---|---|\n{rows}"


def _member_table(kind: Any) -> str:
    """Name, what it holds, its default, and the comment beside or above it in the source, where there are any."""
    rows = [("member", "holds", "default", "meaning"), ("---",) * 4, *_members(kind)]
    width = 4 if any(row[3] for row in rows[2:]) else 3
    return "".join(f"| {' | '.join(row[:width])} |\n" for row in rows)


def _members(kind: Any) -> Iterator[tuple[str, str, str, str]]:
    source = inspect.getsource(kind)
    for each in fields(kind):
        above, beside = re.findall(rf"((?:^    #.*\n)*)^    {each.name}: [^#\n]*(#.*)?$", source, re.M)[0]
        comment = " ".join(line.strip().lstrip("# ") for line in (*above.splitlines(), beside))
        default = "needed" if each.default is MISSING else _default(each.default)
        yield f"`{each.name}`", _holds(str(each.type)), default, _cell(comment.strip())


def _default(value: object) -> str:
    return "none" if value in ("", (), None) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _holds(kind: str) -> str:
    """What stands in TOML for a type of ours: a tuple is an array."""
    many = re.fullmatch(r"tuple\[(.*), \.\.\.\]", kind)
    if not many:
        return KIND_OF[kind]
    several = re.fullmatch(r"tuple\[(.*)\]", many[1])
    if several:
        return f"array of arrays: {', '.join(KIND_OF[each] for each in several[1].split(', '))}"
    return f"array of {KIND_OF[many[1]]}" if many[1] in KIND_OF else "tables"


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
    return ", ".join(f"`{option}{value}`" for option in reversed(parameter.opts or parameter.secondary_opts))


def _cell(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").replace("|", "\\|")


PAGES = {"architectures.md": architectures, "commands.md": commands, "choices.md": choices, "rules.md": rules}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (Path(__file__).parent / name).write_text(page(), encoding="utf-8")
