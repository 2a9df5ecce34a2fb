"""The arguments that `plan` and `prune` share, and how they become a plan."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from rewriter.architectures.custom import load_architecture
from rewriter.cli import completion
from rewriter.errors import RequestError, printable
from rewriter.layout.output import WriteOptions
from rewriter.planning.options import LayerSelection, PlanOptions
from rewriter.request import PruneRequest
from rewriter.units import parse_size

_LAYERS, _FIELDS, _REFUSALS = "Which layers", "Unknown architectures", "What cannot be kept exact"
_FILES, _CARD = "Into which files", "Model card"

Source = Annotated[
    str,
    typer.Argument(
        metavar="SRC",
        help="A GGUF file (the first of a split set), a safetensors file, or a Hugging Face directory.",
    ),
]


def _layers(help: str, metavar: str, **settings: Any) -> object:
    return typer.Option(metavar=metavar, help=help, rich_help_panel=_LAYERS, **settings)


def _share(option: str) -> Callable[[str], float]:
    """A number between 0 and 1, or one line about what was given for `option`: 25% is none."""

    def parsed(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise RequestError(f"{option} {printable(text)}: write a number between 0 and 1, such as 0.25") from None

    return parsed


def request_of(
    drop: Annotated[list[str] | None, _layers("Layers to drop: 3,7-9,-1 (from 0; -1 is the last).", "LAYERS")] = None,
    keep: Annotated[list[str] | None, _layers("Layers to keep, the others go: 0-20,31.", "LAYERS")] = None,
    strategy: Annotated[
        str | None,
        _layers(
            "How to choose: by position, recipe:NAME, or a metric (see `rewriter list`); else by score.",
            "NAME",
            autocompletion=completion.strategies,
        ),
    ] = None,
    count: Annotated[int | None, _layers("How many to drop (first-n: to keep).", "K")] = None,
    ratio: Annotated[float | None, _layers("The share of layers to drop, 0.25.", "R", parser=_share("--ratio"))] = None,
    target_size: Annotated[
        str | None, _layers("Drop the fewest layers that make the output fit, 4GiB.", "SIZE")
    ] = None,
    protect_first: Annotated[
        int | None, _layers("Never drop the first N (by score: ceil(L/8) unless given, else 0).", "N", min=0)
    ] = None,
    protect_last: Annotated[
        int | None, _layers("Never drop the last N (by score: 2 unless given, else 0).", "N", min=0)
    ] = None,
    contiguous: Annotated[
        bool, typer.Option("--contiguous", help="By score: as one block.", rich_help_panel=_LAYERS)
    ] = False,
    sparsity: Annotated[
        float | None,
        _layers("With the metric lamp: the sparsity it is about, 0.8.", "S", parser=_share("--sparsity")),
    ] = None,
    stack: Annotated[
        str,
        _layers(
            "Which stack: encoder, decoder, text, vision, ... (`inspect` shows them).",
            "NAME",
            autocompletion=completion.stacks,
        ),
    ] = "main",
    drop_mtp: Annotated[
        bool, typer.Option("--drop-mtp", help="Drop the MTP layers too.", rich_help_panel=_LAYERS)
    ] = False,
    architecture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rules of your own: an entry in TOML.", rich_help_panel=_FIELDS),
    ] = None,
    generic: Annotated[
        bool, typer.Option("--generic", help="Go by tensor names and layer count alone.", rich_help_panel=_FIELDS)
    ] = False,
    keep_field: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="This list is not about layers: leave it.", rich_help_panel=_FIELDS),
    ] = None,
    per_layer_field: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="This list has one entry per layer: cut it.", rich_help_panel=_FIELDS),
    ] = None,
    align: Annotated[
        bool, typer.Option("--align", help="Take the nearest selection that works.", rich_help_panel=_REFUSALS)
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Write what was refused for what it computes, with a warning.", rich_help_panel=_REFUSALS
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what would be written with a warning.", rich_help_panel=_REFUSALS)
    ] = False,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--shard-size",
            "--split-max-size",
            metavar="SIZE",
            help="Files of at most SIZE (5GB): shards with an index, or a split GGUF. A larger tensor gets its own. "
            "Without a choice of layers all stay.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    single_file: Annotated[
        bool,
        typer.Option(
            "--single-file",
            help="One file: model.safetensors without an index, or a GGUF that is not split.",
            rich_help_panel=_FILES,
        ),
    ] = False,
    card: Annotated[
        bool | None,
        typer.Option(
            "--card/--no-card",
            help="Write README.md: what was dropped, and how to heal it. Without, one that is there is extended.",
            rich_help_panel=_CARD,
        ),
    ] = None,
    base_model: Annotated[
        str,
        typer.Option(metavar="ORG/NAME", help="For the card: what the Hub calls SRC.", rich_help_panel=_CARD),
    ] = "",
    no_provenance: Annotated[
        bool, typer.Option("--no-provenance", help="Leave no record of this run in the output.")
    ] = False,
) -> PruneRequest:
    """What the options of these names ask for. Raises RequestError or CheckpointError."""
    dropped, kept = (None if each is None else ",".join(each) for each in (drop, keep))  # given twice, they add up
    selection = LayerSelection(
        dropped, kept, strategy, count, ratio, target_size, protect_first, protect_last, contiguous
    )
    named = tuple(keep_field or ()), tuple(per_layer_field or ())
    own = load_architecture(architecture) if architecture else None
    size = _file_size(max_size, single_file)
    refusals = force, align, strict
    about = card, base_model
    options = PlanOptions(
        stack, generic, *named, not no_provenance, *refusals, drop_mtp, own, size, single_file, *about
    )
    return PruneRequest(selection, options, sparsity)


def _file_size(text: str | None, single_file: bool) -> int | None:
    if text is None:
        return None
    if single_file:
        raise RequestError("--shard-size and --single-file cannot be combined: give one")
    size = parse_size(text)
    if not size:
        raise RequestError("--shard-size must be at least 1 byte")
    return size


def writing(
    overwrite: bool = False,
    verify: bool = False,
    resume: bool = False,
    checksums: bool = False,
    no_share: bool = False,
    hardlink: bool = False,
    no_fsync: bool = False,
) -> WriteOptions:
    """How the options of these names have an output written."""
    return WriteOptions(overwrite, verify, resume, checksums, share=not no_share, hardlink=hardlink, sync=not no_fsync)


def selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the options of `request_of`: together they become its argument `request`.

    typer reads a command's options off its signature, so the two signatures are joined.
    """
    own, shared = (dict(inspect.signature(each, eval_str=True).parameters) for each in (command, request_of))
    del own["request"]

    @functools.wraps(command)
    def run(**arguments: object) -> None:
        asked = {name: arguments.pop(name) for name in shared}
        command(**arguments, request=request_of(**asked))  # type: ignore[arg-type]

    ordered = sorted((*own.values(), *shared.values()), key=lambda parameter: parameter.default is not parameter.empty)
    run.__signature__ = inspect.Signature([each.replace(kind=each.KEYWORD_ONLY) for each in ordered])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}
    del run.__wrapped__  # typing.get_type_hints would look there
    return run


def said_again(context: typer.Context) -> list[str]:
    """The options on the command line that `plan` and `prune` share, as words, without those that choose layers."""
    choosing = {each.name for each in fields(LayerSelection)} | {"sparsity"}
    return _again(context, set(inspect.signature(request_of).parameters) - choosing)


def rules_again(context: typer.Context) -> list[str]:
    """The options on the command line that say which rules hold, as words: `verify` takes them too."""
    return _again(context, {"generic", "architecture", "keep_field", "per_layer_field"})


def _again(context: typer.Context, names: Collection[str]) -> list[str]:
    said = (option for option in context.command.params if option.name in names)
    return [word for option in said for word in _words(option, context.params[option.name or ""])]


def _words(option: Any, value: Any) -> list[str]:
    if value == option.default or value is None:
        return []
    if isinstance(value, bool):
        return [(option.opts if value else option.secondary_opts)[0]]
    several = value if isinstance(value, list | tuple) else [value]
    return [word for each in several for word in (option.opts[0], str(each))]


def output_name(source: str) -> str:
    """What a dry run calls the output: the source's name with -pruned."""
    path = Path(source)
    if not path.is_file():
        return f"{path.resolve().name}-pruned"
    stem = re.sub(r"-[0-9]{5}-of-[0-9]{5}$", "", path.stem)
    return f"{stem}-pruned{path.suffix}"
