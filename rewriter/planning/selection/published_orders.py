"""Published removal orders: layers of one model each, in the order in which a paper takes them out.

They were found with data, on that model: a checkpoint of another shape is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rewriter.checkpoint import Checkpoint
from rewriter.errors import RequestError, did_you_mean, printable

Layers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """`order` are the layers, the first to go first. `layers`, `width` and `vocabulary` are the model's shape."""

    name: str
    model: str
    paper: str
    layers: int
    width: int
    vocabulary: int
    order: Layers


_SHORTGPT = "ShortGPT (Men et al. 2024): block influence"
_EVOPRESS_BI = "EvoPress (Sieberling et al. 2024): ShortGPT's order"
_EVOPRESS_PPL = "EvoPress (Sieberling et al. 2024): single-removal perplexity"
_LLAMA_2_7B = ("Llama-2-7B", 32, 4096, 32000)
_LLAMA_3_8B = ("Llama-3-8B", 32, 4096, 128256)
_MISTRAL_7B = ("Mistral-7B", 32, 4096, 32000)


def _recipe(name: str, paper: str, shape: tuple[str, int, int, int], order: Layers) -> Recipe:
    return Recipe(name, shape[0], paper, *shape[1:], order)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _recipe("shortgpt-llama-2-7b", _SHORTGPT, _LLAMA_2_7B, (27, 26, 25, 28, 24, 29, 23, 21, 22)),
        _recipe(
            "shortgpt-llama-2-13b", _SHORTGPT, ("Llama-2-13B", 40, 5120, 32000),
            (33, 31, 32, 30, 29, 34, 28, 35, 27, 26),
        ),
        _recipe(
            "shortgpt-baichuan2-7b", _SHORTGPT, ("Baichuan2-7B", 32, 4096, 125696), (26, 27, 25, 28, 24, 29, 23, 22, 30)
        ),
        _recipe(
            "shortgpt-baichuan2-13b", _SHORTGPT, ("Baichuan2-13B", 40, 5120, 125696),
            (32, 31, 33, 30, 34, 29, 28, 35, 27, 26),
        ),
        _recipe("shortgpt-mistral-7b", _EVOPRESS_BI, _MISTRAL_7B, (26, 25, 24, 27, 23, 22, 28, 30)),
        _recipe("shortgpt-llama-3-8b", _EVOPRESS_BI, _LLAMA_3_8B, (25, 26, 27, 24, 28, 23, 22, 29)),
        _recipe("perplexity-mistral-7b", _EVOPRESS_PPL, _MISTRAL_7B, (10, 12, 13, 11, 8, 9, 14, 15)),
        _recipe("perplexity-llama-2-7b", _EVOPRESS_PPL, _LLAMA_2_7B, (11, 12, 8, 9, 10, 6, 24, 25)),
        _recipe("perplexity-llama-3-8b", _EVOPRESS_PPL, _LLAMA_3_8B, (10, 8, 9, 11, 26, 25, 12, 22)),
    )
}  # fmt: skip
PREFIX = "recipe:"


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`, with or without `recipe:`. Raises RequestError naming the others."""
    name = name.removeprefix(PREFIX)
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES, PREFIX)
        raise RequestError(f"no recipe is called {printable(name)!r}; there are {', '.join(RECIPES)}{hint}")
    return RECIPES[name]


def strategy_of(recipe: Recipe, checkpoint: Checkpoint, layers: int) -> Callable[[Layers, int], Layers]:
    """The recipe as a strategy for a stack of `layers` layers. Raises RequestError for a model of another shape."""
    found = (layers, *_table_shape(checkpoint))
    wanted = (recipe.layers, recipe.width, recipe.vocabulary)
    if found != wanted:
        names = ("layers", "width", "vocabulary")
        differs = ", ".join(
            f"{name} {a} instead of {b}" for name, a, b in zip(names, found, wanted, strict=True) if a != b
        )
        raise RequestError(f"{recipe.name} is the order for {recipe.model}: this model has {differs}")

    def strategy(candidates: Layers, count: int) -> Layers:
        order = [layer for layer in recipe.order if layer in candidates]
        if count > len(order):
            raise RequestError(f"{recipe.name} names {len(order)} layers that may go here, not {count}")
        return tuple(sorted(order[:count]))

    return strategy


_EMBEDDINGS = (
    "token_embd.weight",
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
)


def _table_shape(checkpoint: Checkpoint) -> tuple[int, int]:
    """Width and vocabulary of the embedding: the file itself says them, in whatever order."""
    for tensor in checkpoint.tensors:
        if tensor.name.endswith(_EMBEDDINGS) and len(tensor.shape) == 2:
            return min(tensor.shape), max(tensor.shape)
    return 0, 0
