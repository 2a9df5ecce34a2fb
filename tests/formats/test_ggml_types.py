"""The table of GGML types is that of the gguf library."""

from __future__ import annotations

import gguf

from rewriter.formats.ggml_types import GGML_TYPES


def test_the_table_of_ggml_types_is_that_of_gguf():
    theirs = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    assert theirs == GGML_TYPES
