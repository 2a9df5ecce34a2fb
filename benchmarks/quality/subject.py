"""A model under test: its layers, its held-out tokens, and its loss without any set of layers (cached)."""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from paths import FIXTURES, RESULTS
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

WINDOWS = 32  # of the model's context each, evenly spaced over the held-out text
MASKED_SHARE = 0.15
RATIOS = (0.125, 0.25, 0.375)


class Subject:
    """One model directory. `loss(dropped)` is the mean next-token (or masked-token) loss in nats."""

    def __init__(self, directory: Path, results: Path = RESULTS) -> None:
        self.directory, self.name = directory, directory.name
        config = AutoConfig.from_pretrained(directory)
        self.is_masked = "ForMaskedLM" in config.architectures[0]
        kind = AutoModelForMaskedLM if self.is_masked else AutoModelForCausalLM
        self.model = kind.from_pretrained(directory, dtype=torch.float32).eval()
        self.model.config.use_cache = False
        self.holder = next(part for part in self.model.modules() if has_layers(part, config.num_hidden_layers))
        self.attribute = next(name for name, part in self.holder.named_children() if is_list(part))
        self.layers = list(getattr(self.holder, self.attribute))
        self.context = min(config.max_position_embeddings, 192)
        self.path = results / f"{self.name}.json"

    @cached_property
    def losses(self) -> dict[str, list[float]]:
        """Dropped layers -> the loss on either half of the windows; read from and kept in the results file."""
        return self.known().get("losses", {})

    def known(self) -> dict:
        """The results file, unless it is about other weights."""
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        return known if known.get("weights") == self.weights else {}

    @cached_property
    def weights(self) -> str:
        """What the cached losses belong to: a model that is trained anew is another one."""
        files = sorted(self.directory.glob("*.safetensors"))
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    def candidates(self) -> list[int]:
        """The layers that the default protection lets go."""
        count = len(self.layers)
        return list(range(math.ceil(count / 8), count - 2))

    def drop_count(self, ratio: float) -> int:
        """Nearest to the ratio, and no more than there are candidates."""
        return min(math.floor(ratio * len(self.layers) + 0.5), len(self.candidates()))

    def loss(self, dropped: tuple[int, ...] | list[int] | frozenset[int]) -> float:
        key = ",".join(map(str, sorted(dropped)))
        if key not in self.losses:
            with self.without(dropped):
                self.losses[key] = [self.window_loss(half) for half in (slice(0, None, 2), slice(1, None, 2))]
        return sum(self.losses[key]) / 2

    @contextlib.contextmanager
    def without(self, dropped: tuple[int, ...] | list[int] | frozenset[int]) -> Iterator[None]:
        """The model with only the other layers, as `rewriter prune` leaves it."""
        kept = [layer for index, layer in enumerate(self.layers) if index not in set(dropped)]
        setattr(self.holder, self.attribute, torch.nn.ModuleList(kept))
        count, self.model.config.num_hidden_layers = self.model.config.num_hidden_layers, len(kept)
        yield
        self.model.config.num_hidden_layers = count
        setattr(self.holder, self.attribute, torch.nn.ModuleList(self.layers))

    @torch.no_grad()
    def window_loss(self, half: slice) -> float:
        ids, labels = self.windows
        return self.model(input_ids=ids[half], labels=labels[half].contiguous()).loss.item()

    @cached_property
    def windows(self) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.heldout_tokens()
        starts = np.linspace(0, len(tokens) - self.context, WINDOWS).astype(int)
        ids = torch.from_numpy(np.stack([tokens[start : start + self.context] for start in starts]).astype(np.int64))
        if not self.is_masked:
            return ids, ids
        chosen = torch.from_numpy(np.random.default_rng(0).random(ids.shape) < MASKED_SHARE)
        return ids.masked_fill(chosen, self.model.config.vocab_size - 1), ids.masked_fill(~chosen, -100)

    def heldout_tokens(self) -> np.ndarray:
        text, pieces = FIXTURES / "heldout.txt", self.directory / "tokenizer.json"
        if not pieces.exists():
            return np.frombuffer(text.read_bytes(), np.uint8)
        return np.array(Tokenizer.from_file(str(pieces)).encode(text.read_text("utf-8")).ids)

    def save(self, **more: object) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        known = self.known() | {
            "model": self.name,
            "weights": self.weights,
            "layers": len(self.layers),
            "losses": self.losses,
            **more,
        }
        self.path.write_text(json.dumps(known) + "\n")


def is_list(part: torch.nn.Module) -> bool:
    return isinstance(part, torch.nn.ModuleList)


def has_layers(part: torch.nn.Module, count: int) -> bool:
    return any(is_list(child) and len(child) == count for child in part.children())
