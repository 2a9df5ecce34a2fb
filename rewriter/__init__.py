"""Drop whole layers from safetensors and GGUF checkpoints: renumber the rest, patch what depends on them.

    import rewriter
    checkpoint = rewriter.open_checkpoint("model.gguf")
    plan = rewriter.make_plan(checkpoint, keep=[0, 1, 2, 5])
    rewriter.write(plan, "smaller.gguf")
    assert not rewriter.verify("smaller.gguf", source="model.gguf")

`PlanOptions` chooses the stack and what else matters; `parse_layers("3,7-9,-1", 12)` reads the syntax of the command
line; `score_layers(checkpoint).layers` ranks the layers by their weights, the only thing that decodes a tensor. Errors
derive from `RewriterError`. No framework is imported: bytes move from file to file.
"""

from importlib import import_module

TYPE_CHECKING = False  # importing typing takes 10 ms, in which a signal would end the program with a traceback
if TYPE_CHECKING:
    from rewriter.checkpoint import Checkpoint, FieldEdit, LayerMap, Problem, TensorInfo
    from rewriter.errors import CheckpointError, OutputError, RequestError, RewriterError, UnsupportedError
    from rewriter.formats import open_checkpoint
    from rewriter.layout import make_output
    from rewriter.layout.output import Output, OutputFile, WriteOptions
    from rewriter.planning.layer_ranges import parse_layers
    from rewriter.planning.options import PlanOptions
    from rewriter.planning.plan import Plan, make_plan
    from rewriter.scoring.score import LayerScore, Scores, score_layers
    from rewriter.version import VERSION as __version__
    from rewriter.writing.verify import verify
    from rewriter.writing.write import write

# Loaded when first asked for: starting the command line must not wait for everything.
_HOMES = {
    "checkpoint": ("Checkpoint", "FieldEdit", "LayerMap", "Problem", "TensorInfo"),
    "errors": ("CheckpointError", "OutputError", "RequestError", "RewriterError", "UnsupportedError"),
    "formats": ("open_checkpoint",),
    "layout": ("make_output",),
    "layout.output": ("Output", "OutputFile", "WriteOptions"),
    "planning.plan": ("Plan", "make_plan"),
    "planning.layer_ranges": ("parse_layers",),
    "planning.options": ("PlanOptions",),
    "scoring.score": ("LayerScore", "Scores", "score_layers"),
    "writing.verify": ("verify",),
    "writing.write": ("write",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [*_HOME, "__version__"]  # noqa: PLE0604  # names


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("rewriter.version").VERSION
    if name not in _HOME:
        raise AttributeError(f"module 'rewriter' has no attribute {name!r}")
    value = getattr(import_module(f"rewriter.{_HOME[name]}"), name)
    globals()[name] = value
    return value
