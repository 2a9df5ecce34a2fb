"""Published orders of removal are for the models that they were published for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rewriter.checkpoint import Checkpoint
from rewriter.errors import RequestError
from rewriter.planning.selection.published_orders import RECIPES, find_recipe, strategy_of
from tests.support.checkpoints import llama


def shaped(layers: int, width: int, vocabulary: int) -> Checkpoint:
    checkpoint = llama(layers)
    shapes = {"model.embed_tokens.weight": (vocabulary, width)}
    tensors = (each._replace(shape=shapes.get(each.name, each.shape)) for each in checkpoint.tensors)
    return replace(checkpoint, tensors=tuple(tensors))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_for_its_shape_alone(name: str):
    recipe = find_recipe(f"recipe:{name}")
    shape = (recipe.layers, recipe.width, recipe.vocabulary)
    every = tuple(range(recipe.layers))
    strategy = strategy_of(recipe, shaped(*shape), recipe.layers)
    for count in range(1, len(recipe.order) + 1):
        assert strategy(every, count) == tuple(sorted(recipe.order[:count]))
    assert set(recipe.order) <= set(every)
    assert len(set(recipe.order)) == len(recipe.order)
    with pytest.raises(RequestError, match="names"):
        strategy(every, len(recipe.order) + 1)
    for place, word in enumerate(("layers", "width", "vocabulary")):
        other = tuple(number + (place == index) for index, number in enumerate(shape))
        with pytest.raises(RequestError, match=f"{recipe.model}: this model has {word} {other[place]} instead of"):
            strategy_of(recipe, shaped(*other), other[0])


def test_a_protected_layer_of_a_recipe_stays():
    recipe = find_recipe("shortgpt-llama-2-7b")
    strategy = strategy_of(recipe, shaped(32, 4096, 32000), 32)
    assert strategy(tuple(layer for layer in range(32) if layer != 27), 3) == (25, 26, 28)


def test_an_unknown_recipe_names_the_others():
    with pytest.raises(RequestError, match="shortgpt-llama-2-7b"):
        find_recipe("recipe:nothing")
