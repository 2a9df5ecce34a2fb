"""Drop whole layers from safetensors and GGUF checkpoints: renumber the rest, patch what depends on them.

    import rewriter
    checkpoint = rewriter.open_checkpoint("model.gguf")
    plan = rewriter.make_plan(checkpoint, keep=[0, 1, 2, 5])
    rewriter.write(plan, "smaller.gguf")
    assert not rewriter.verify("smaller.gguf", source="model.gguf")

`Options` chooses the stack and what else matters; `parse_layers("3,7-9,-1", 12)` reads the syntax of the command
line; `score_layers(checkpoint).layers` ranks the layers by their weights, the only thing that decodes a tensor. Errors
derive from `RewriterError`. No framework is imported: bytes move from file to file.
"""

from importlib import import_module

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from rewriter.checkpoint import Checkpoint, FieldEdit, LayerMap, Problem, TensorInfo
    from rewriter.errors import CheckpointError, OutputError, RequestError, RewriterError, UnsupportedError
    from rewriter.formats import layout, open_checkpoint
    from rewriter.output import Output, OutputFile, Writing
    from rewriter.plan import Plan, make_plan
    from rewriter.scoring import LayerScore, Scores, score_layers
    from rewriter.selection import Options, parse_layers
    from rewriter.verifying import verify
    from rewriter.version import VERSION as __version__
    from rewriter.writing import write

# Loaded when first asked for: the command line must be able to handle Ctrl-C before anything slow is imported.
_HOMES = {
    "Checkpoint": "checkpoint", "FieldEdit": "checkpoint", "LayerMap": "checkpoint", "Problem": "checkpoint",
    "TensorInfo": "checkpoint", "CheckpointError": "errors", "OutputError": "errors", "RequestError": "errors",
    "RewriterError": "errors", "UnsupportedError": "errors", "layout": "formats", "open_checkpoint": "formats",
    "Output": "output", "OutputFile": "output", "Plan": "plan", "make_plan": "plan", "Options": "selection",
    "parse_layers": "selection", "verify": "verifying", "write": "writing",
    "Writing": "output",
    "LayerScore": "scoring", "Scores": "scoring", "score_layers": "scoring",
}  # fmt: skip

__all__ = [
    "Checkpoint", "CheckpointError", "FieldEdit", "LayerMap", "LayerScore", "Options", "Output", "OutputError",
    "OutputFile", "Plan", "Problem", "RequestError", "RewriterError", "Scores", "TensorInfo",
    "UnsupportedError", "Writing", "__version__", "layout", "make_plan", "open_checkpoint", "parse_layers",
    "score_layers", "verify", "write",
]  # fmt: skip


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("rewriter.version").VERSION
    if name not in _HOMES:
        raise AttributeError(f"module 'rewriter' has no attribute {name!r}")
    value = getattr(import_module(f"rewriter.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
