"""Drop whole layers from safetensors and GGUF checkpoints: renumber the rest, patch what depends on them.

    import rewriter
    checkpoint = rewriter.open_checkpoint("model.gguf")
    plan = rewriter.make_plan(checkpoint, keep=[0, 1, 2, 5])
    rewriter.write(plan, "smaller.gguf")
    assert not rewriter.verify("smaller.gguf", source="model.gguf")

No tensor is loaded and no framework is imported: bytes move from file to file.
"""

from rewriter.checkpoint import Checkpoint, FieldEdit, LayerMap, Problem, TensorInfo
from rewriter.errors import CheckpointError, OutputError, RequestError, RewriterError, UnsupportedError
from rewriter.formats import layout, open_checkpoint
from rewriter.output import Output, OutputFile
from rewriter.plan import Plan, make_plan
from rewriter.selection import Options, parse_layers
from rewriter.verify import verify
from rewriter.version import VERSION as __version__
from rewriter.writing import write

__all__ = [
    "Checkpoint", "CheckpointError", "FieldEdit", "LayerMap", "Options", "Output", "OutputError", "OutputFile",
    "Plan", "Problem", "RequestError", "RewriterError", "TensorInfo", "UnsupportedError", "__version__", "layout",
    "make_plan", "open_checkpoint", "parse_layers", "verify", "write",
]  # fmt: skip
