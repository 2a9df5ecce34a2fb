"""Train the models that the metrics are judged on, as ordinary Hugging Face directories in bf16.

    python benchmarks/quality/train.py gpt2-16 bert-12
    python benchmarks/quality/train.py llama-24 --tokens 6e6
    python benchmarks/quality/train.py --tiny

`--minutes` lets the cosine end early, so that a run that is short of time is still a finished one; what was trained is
written to `training.json` beside each model.
"""

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from corpus import encode, tokens_of
from models import MASK, SPECS, TINY, Spec
from paths import CORPUS, FIXTURES, WORK
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

TOKENS_PER_STEP = 1024
WARMUP_STEPS = 150
FLOOR = 0.05  # of the peak learning rate, at the end
MASKED_SHARE = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*SPECS, []], metavar="NAME")
    parser.add_argument("--tokens", type=float, help="tokens to read (default: the model's own)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after so long")
    parser.add_argument("--more", action="store_true", help="go on from what was saved, with a new warm-up and cosine")
    parser.add_argument("--tiny", action="store_true", help="twenty steps of a 6-layer model, to check the scripts")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.tiny:
        data = encode((FIXTURES / "heldout.txt").read_bytes(), "bytes")
        train("tiny", TINY, new_model(TINY), data, TINY.tokens, math.inf)
        return
    for name in asked.names or SPECS:
        spec = SPECS[name]
        data = tokens_of(CORPUS / "train.txt", spec.tokenisation)
        model = saved_model(name, spec) if asked.more else new_model(spec)
        train(name, spec, model, data, int(asked.tokens or spec.tokens), asked.minutes * 60)


def new_model(spec: Spec) -> PreTrainedModel:
    torch.manual_seed(spec.seed)
    model = model_class(spec).from_config(spec.config)
    for name, weight in model.named_parameters():
        if name.endswith(("wpe.weight", "position_embeddings.weight")):
            weight.data = sinusoids(*weight.shape) * weight.std().item() * math.sqrt(2)
        if spec.masked:
            help_post_norms(name, weight)
    return model


def sinusoids(positions: int, width: int) -> torch.Tensor:
    """Learned positions start as waves: neighbours are found in hundreds of steps rather than thousands."""
    angles = torch.arange(positions)[:, None] * 1000 ** -torch.linspace(0, 1, width // 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def help_post_norms(name: str, weight: torch.nn.Parameter) -> None:
    """A deep post-norm stack starts near the identity, and looks at neighbours: else it stays at letter frequencies."""
    if name.endswith("output.dense.weight"):
        weight.data *= 0.2
    if name.endswith(("query.weight", "key.weight")):
        weight.data += torch.eye(*weight.shape)


def saved_model(name: str, spec: Spec) -> PreTrainedModel:
    return model_class(spec).from_pretrained(WORK / name, dtype=torch.float32).train()


def model_class(spec: Spec) -> type:
    return AutoModelForMaskedLM if spec.masked else AutoModelForCausalLM


def train(name: str, spec: Spec, model: PreTrainedModel, data: np.ndarray, tokens: int, seconds: float) -> None:
    before = trained_before(name) if model.name_or_path else 0
    optimiser = torch.optim.AdamW(groups(model), lr=spec.peak, betas=(0.9, 0.98), fused=True)
    batches = np.random.default_rng(spec.seed + before)
    steps, began, losses = tokens // TOKENS_PER_STEP, time.monotonic(), []
    step, progress = 0, 0.0
    while progress < 1:
        for group in optimiser.param_groups:
            group["lr"] = spec.peak * rate(step, progress)
        losses.append(update(model, optimiser, *batch(data, spec, batches)))
        step += 1
        progress = max(step / steps, (time.monotonic() - began) / seconds)
        if step % 100 == 0 or progress >= 1:
            done = {
                "model": name,
                "tokens": before + step * TOKENS_PER_STEP,
                "parameters": model.num_parameters(),
                "minutes": round((time.monotonic() - began) / 60, 1),
                "loss": round(float(np.mean(losses[-100:])), 4),
                "losses": [round(float(np.mean(part)), 3) for part in np.array_split(losses, min(len(losses), 40))],
                "finished": progress >= 1,
            }
            print(done["tokens"], done["minutes"], done["loss"], flush=True)
        if step % 500 == 0 or progress >= 1:
            save(model, spec, done, WORK / name)


def trained_before(name: str) -> int:
    return json.loads((WORK / name / "training.json").read_text())["tokens"]


def groups(model: torch.nn.Module) -> list[dict]:
    """Weight decay for matrices only."""
    parameters = [value for value in model.parameters() if value.requires_grad]
    return [
        {"params": [value for value in parameters if value.ndim > 1], "weight_decay": 0.1},
        {"params": [value for value in parameters if value.ndim < 2], "weight_decay": 0.0},
    ]


def rate(step: int, progress: float) -> float:
    cosine = FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
    return min(1, (step + 1) / WARMUP_STEPS) * cosine


def batch(data: np.ndarray, spec: Spec, draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    starts = draw.integers(0, len(data) - spec.context, TOKENS_PER_STEP // spec.context)
    ids = torch.from_numpy(np.stack([data[start : start + spec.context] for start in starts]).astype(np.int64))
    return masked(ids, draw) if spec.masked else (ids, ids)


def masked(ids: torch.Tensor, draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Some tokens are replaced by the mask, and only there a loss is taken."""
    chosen = torch.from_numpy(draw.random(ids.shape) < MASKED_SHARE)
    return ids.masked_fill(chosen, MASK), ids.masked_fill(~chosen, -100)


def update(model: PreTrainedModel, optimiser: torch.optim.Optimizer, ids: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
    return loss.item()


def save(model: PreTrainedModel, spec: Spec, done: dict, directory: Path) -> None:
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    model.config.dtype = torch.bfloat16
    model.save_pretrained(directory, state_dict=weights)
    if spec.tokenisation == "pieces":
        shutil.copy(CORPUS / "tokenizer.json", directory)
    (directory / "training.json").write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
