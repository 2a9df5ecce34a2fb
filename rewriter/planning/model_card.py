"""Whether an output gets a model card, and which base model it names."""

from __future__ import annotations

from dataclasses import replace

from rewriter.checkpoint import CARD, HUGGINGFACE, Checkpoint, LayerMap
from rewriter.errors import RequestError, printable
from rewriter.formats.hub_id import is_hub_name
from rewriter.planning.options import PlanOptions


def writes_card(checkpoint: Checkpoint, layers: LayerMap, options: PlanOptions) -> bool:
    """Whether the output gets a card of its own: where layers go, and there is one already or one was asked for."""
    able = checkpoint.format == HUGGINGFACE and not checkpoint.companion and layers.dropped
    return bool(able and (checkpoint.has_card if options.card is None else options.card))


def card_options(checkpoint: Checkpoint, layers: LayerMap, options: PlanOptions) -> PlanOptions:
    """What is said for a model card, as far as there will be one. Raises RequestError."""
    if (options.card or options.base_model) and checkpoint.format != HUGGINGFACE:
        raise RequestError(
            f"a model card is the {CARD} of a directory: {printable(checkpoint.name)} is a file and has none"
        )
    if options.base_model and not is_hub_name(options.base_model):
        raise RequestError(f"--base-model is ORG/NAME as on the Hub, not {printable(options.base_model)}")
    if writes_card(checkpoint, layers, options):
        return replace(options, base_model=options.base_model or checkpoint.hub_name)
    if options.base_model and layers.dropped:
        raise RequestError("--base-model is for a model card, and there will be none: --card writes one")
    return replace(options, base_model="", chosen_by="")
