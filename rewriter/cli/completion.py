"""What a shell offers behind an option. Everything is imported only when a shell asks."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from rewriter.errors import RewriterError

_RECIPE = "_REWRITER_RECIPE"  # set where what stands before the word is `recipe:`


def mend_words(environment: MutableMapping[str, str]) -> None:
    """bash breaks words at `=` and `:`. Make two of `--option = VALUE`, and one of `recipe : NAME`: the name alone."""
    if environment.get("_REWRITER_COMPLETE") != "complete_bash":
        return
    words, number = environment.get("COMP_WORDS", "").split("\n"), environment.get("COMP_CWORD", "")
    at = min(int(number[:9]), len(words)) if number.isdecimal() else len(words) - 1
    for place in range(len(words) - 1, 0, -1):
        if words[place] == "=" and words[place - 1].startswith("--"):
            words[place : place + 1] = [""] if at == place else []
            at -= at > place
    colon = next((place for place in (at, at - 1) if words[place - 1 : place + 1] == ["recipe", ":"]), 0)
    if colon > 1:
        words, at = [*words[: colon - 1], *([""] if colon == at else words[at : at + 1])], colon - 1
        environment[_RECIPE] = "1"
    environment.update({"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(at)})


def strategies() -> list[str]:
    """What --strategy takes."""
    from rewriter.planning.selection.published_orders import PREFIX, RECIPES
    from rewriter.planning.selection.strategies import STRATEGIES

    if _RECIPE in os.environ:
        return list(RECIPES)
    return [*STRATEGIES, *metrics(), *(PREFIX + name for name in RECIPES)]


def metrics() -> list[str]:
    """What --metric takes."""
    from rewriter.scoring.metrics import METRICS  # numpy takes time

    return list(METRICS)


def entries() -> list[str]:
    """What `list architectures --toml` takes."""
    from rewriter.architectures.lookup import entries as known

    return [f"{entry.format}/{entry.name}" for entry in known()]


def _unquoted(line: str) -> list[str]:
    """The words of a command line that is still being typed."""
    import shlex

    try:
        return shlex.split(line)
    except ValueError:  # a quote is still open
        return line.split()


def stacks() -> list[str]:
    """The stacks of the source that is on the command line already; only headers are read."""
    from rewriter.formats import open_checkpoint
    from rewriter.planning.open_model import open_model

    line = os.environ.get("_TYPER_COMPLETE_ARGS")  # bash gives words instead
    words = _unquoted(line) if line else os.environ.get("COMP_WORDS", "").split("\n")
    source = next((each for word in words[2:] for each in (word, *_unquoted(word)) if os.path.exists(each)), "")
    try:
        there = open_model(open_checkpoint(source)).stacks
        return list(dict.fromkeys(["main", *(stack.name for stack in there)]))
    except RewriterError:
        return []  # nothing there yet that has any
