"""Where the layers of an architecture are and which fields follow them: tables, and how they are looked up."""

from rewriter.architectures.lookup import Stack, all_stacks, find, generic, resolve, select
from rewriter.architectures.schema import Architecture, LayerStack, Limit, Pattern, Shared, Stacked

__all__ = [
    "Architecture", "LayerStack", "Limit", "Pattern", "Shared", "Stack", "Stacked", "all_stacks", "find", "generic",
    "resolve", "select",
]  # fmt: skip
