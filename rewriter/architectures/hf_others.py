"""Hugging Face model types: encoders, encoder-decoders, speech, vision, detection, vision-language."""

from __future__ import annotations

from rewriter.architectures.entry import Architecture

ENTRIES: tuple[Architecture, ...] = ()
