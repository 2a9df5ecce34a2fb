"""Whether a quantised model's scores rank its layers like those of the model that it was made from.

    python benchmarks/quality/quantised.py                      # the fixture models and what train.py has made

The matrices are quantised and decoded again by `gguf`; `results/quantised.json` holds Spearman's rank correlations.
"""

import json
import shutil
import tempfile
from pathlib import Path

import gguf
import numpy as np
from evaluate import FIXTURE_MODELS, spearman
from models import SPECS
from paths import FIXTURES, RESULTS, WORK
from safetensors.numpy import save_file
from safetensors.torch import load_file

from rewriter import open_checkpoint
from rewriter.errors import UnsupportedError
from rewriter.scoring.score import score_layers

TYPES = ("Q8_0", "Q5_0", "Q4_0")
SCORES = ("sampled-greedy", "sampled-removal")


def main() -> None:
    found = {path.name: measured(path) for path in models()}
    (RESULTS / "quantised.json").write_text(json.dumps(found, indent=1) + "\n")


def models() -> list[Path]:
    there = (*(FIXTURES / name for name in FIXTURE_MODELS), *(WORK / name for name in SPECS))
    return [path for path in there if (path / "config.json").exists()]


def measured(source: Path) -> dict[str, dict[str, float]]:
    """Spearman by metric and type; a metric that does not apply is left out."""
    whole = {name: scores for name in SCORES if (scores := scored(source, name))}
    found = {name: {} for name in whole}
    for kind in TYPES:
        with tempfile.TemporaryDirectory() as folder:
            quantise(source, Path(folder), gguf.GGMLQuantizationType[kind])
            for name, scores in whole.items():
                found[name][kind] = spearman(scores, scored(Path(folder), name), list(range(len(scores))))
    print(source.name, found, flush=True)
    return found


def scored(source: Path, name: str) -> list[float]:
    try:
        return list(score_layers(open_checkpoint(source), name).values)
    except UnsupportedError:
        return []


def quantise(source: Path, target: Path, kind: gguf.GGMLQuantizationType) -> None:
    """Write the model with matrices as they come out of `kind`; what has no whole blocks stays."""
    shutil.copy(source / "config.json", target)
    tensors = {}
    for path in source.glob("*.safetensors"):
        tensors |= {name: through(tensor.float().numpy(), kind) for name, tensor in load_file(path).items()}
    save_file(tensors, target / "model.safetensors")


def through(tensor: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    if tensor.ndim != 2 or tensor.shape[1] % gguf.GGML_QUANT_SIZES[kind][0]:
        return np.ascontiguousarray(tensor)
    return np.ascontiguousarray(gguf.quants.dequantize(gguf.quants.quantize(tensor, kind), kind).reshape(tensor.shape))


if __name__ == "__main__":
    main()
