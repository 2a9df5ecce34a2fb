"""Which model on the Hub a pruned one comes from, as far as anybody says it, and whether there is a card to say it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from rewriter.checkpoint import CARD, HUGGINGFACE, Checkpoint, LayerMap
from rewriter.errors import RequestError, shown
from rewriter.front_matter import CardError, said, split
from rewriter.selection import Options

_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)  # ORG/NAME, or gpt2
_CACHED = re.compile(r"models--([A-Za-z0-9][\w.-]*)", re.ASCII)


def is_hub_name(text: str) -> bool:
    """Whether this can be the name of a model on the Hub."""
    return bool(_NAME.fullmatch(text))


def wants_card(checkpoint: Checkpoint, layers: LayerMap, options: Options) -> bool:
    """Whether the output gets a card of its own: where layers go, and there is one already or one was asked for."""
    able = checkpoint.format == HUGGINGFACE and not checkpoint.companion and layers.dropped
    return bool(able and (checkpoint.has_card if options.card is None else options.card))


def for_card(checkpoint: Checkpoint, layers: LayerMap, options: Options) -> Options:
    """What is said for a model card, as far as there will be one. Raises RequestError."""
    if (options.card or options.base_model) and checkpoint.format != HUGGINGFACE:
        raise RequestError(
            f"a model card is the {CARD} of a directory: {shown(checkpoint.name)} is a file and has none"
        )
    if options.base_model and not _NAME.fullmatch(options.base_model):
        raise RequestError(f"--base-model is ORG/NAME as on the Hub, not {shown(options.base_model)}")
    if wants_card(checkpoint, layers, options):
        return replace(options, base_model=options.base_model or checkpoint.hub_name)
    if options.base_model and layers.dropped:
        raise RequestError("--base-model is for a model card, and there will be none: --card writes one")
    return replace(options, base_model="", chosen_by="")


def hub_name(path: Path, config: object, card: str | None) -> str:
    """What the Hub calls the model in the directory `path`, with this config and card; "" where nothing says it.

    The cache of huggingface_hub says it: `models--ORG--NAME/snapshots/...`. Older transformers wrote `_name_or_path`
    into the config, what was loaded: in a fine-tuned model what that was made from. Then the card says so as well.
    """
    snapshots = path.resolve().parent
    match = _CACHED.fullmatch(snapshots.parent.name) if snapshots.name == "snapshots" else None
    if match:
        return match[1].replace("--", "/")
    name = config.get("_name_or_path") if isinstance(config, dict) else None
    if not isinstance(name, str) or name.count("/") != 1 or not _NAME.fullmatch(name):
        return ""
    try:
        base = said(split(card or "")[1], "base_model")
    except CardError:
        return ""
    return "" if name in (base if isinstance(base, list) else [base]) else name
