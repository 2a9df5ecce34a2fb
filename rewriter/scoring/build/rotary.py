"""From the metadata to the rotary positions of a layer.

In a GGUF, frequencies stretched for long contexts are left out: they hardly touch the few positions that are read here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rewriter.planning.metadata.layer_patterns import active_patterns, pattern_list
from rewriter.scoring.build.model_facts import ModelFacts
from rewriter.scoring.forward.rotary import Rotary, stretch


def build_rotary(facts: ModelFacts, layer: int, size: int) -> Rotary | None:
    """The rotary positions of heads of `size` components, None if the layer has none."""
    layer_type = _layer_value(facts, layer, "layer_types")
    if facts.compute.positions != "rotary" or _layer_value(facts, layer, "no_rope_layers") == 0:
        return None
    windowed = facts.compute.rotary_in_windows_only and facts.stated("sliding_window") is not None
    if windowed and layer_type == "full_attention":
        return None
    turned = int(facts.number("turned", facts.number("turned_share", 1.0) * size))
    base = _base(facts, layer_type)
    frequencies = base ** (-np.arange(0, turned, 2, dtype=np.float64) / turned)
    frequencies, factor = stretch(frequencies, base, _scaling(facts, layer_type))
    return Rotary(frequencies.astype(np.float32), facts.compute.interleaved_rotary, factor)


def _layer_value(facts: ModelFacts, layer: int, key: str) -> object:
    """The layer's entry in a per-layer list, or if it is not written out the one that the loader assumes."""
    for pattern in active_patterns(facts.model):
        if pattern.explicit == key:
            return pattern_list(facts.model, pattern)[layer]
    stated = facts.stated(key)
    return stated[layer] if isinstance(stated, list) and layer < len(stated) else None


def _base(facts: ModelFacts, layer_type: object) -> float:
    """The base of the frequencies; some models have one for layers that see everything and one for the others."""
    stated = facts.stated(f"rope_parameters.{layer_type}.rope_theta")
    everywhere, windowed = facts.compute.rotary_bases or (10000.0, None)
    if stated is None and windowed is not None and layer_type == "sliding_attention":
        stated = facts.stated("rope_local_base_freq") or facts.stated("local_rope_theta") or windowed
    if stated is None and windowed is not None:
        stated = facts.stated("global_rope_theta")
    return float(stated) if isinstance(stated, int | float) else facts.number("theta", everywhere)


def _scaling(facts: ModelFacts, layer_type: object) -> Mapping[str, object]:
    """How the frequencies are stretched for long contexts, as transformers states it."""
    for key in (f"rope_parameters.{layer_type}", "rope_parameters", "rope_scaling"):
        found = facts.stated(key)
        if isinstance(found, dict) and ("rope_type" in found or "type" in found):
            return found
    return {}
