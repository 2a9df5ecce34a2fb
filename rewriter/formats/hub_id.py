"""The name of a model on the Hub, as far as its directory, config or card gives it."""

from __future__ import annotations

import re
from pathlib import Path

from rewriter.formats.front_matter import CardError, get, split

_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)  # ORG/NAME, or gpt2
_CACHED = re.compile(r"models--([A-Za-z0-9][\w.-]*)", re.ASCII)


def is_hub_name(text: str) -> bool:
    """Whether this can be the name of a model on the Hub."""
    return bool(_NAME.fullmatch(text))


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
        base = get(split(card or "")[1], "base_model")
    except CardError:
        return ""
    return "" if name in (base if isinstance(base, list) else [base]) else name
