"""Hugging Face model types: decoders: plain, mixtures of experts, hybrids and recurrent models."""

from __future__ import annotations

from rewriter.architectures.entry import Architecture

ENTRIES: tuple[Architecture, ...] = ()
