"""From what is described to HTML, with jinja2: one file that loads nothing else and takes no markup from names."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rewriter.errors import RequestError
from rewriter.report.page_data import strategies
from rewriter.units import format_bytes, format_count, format_score
from rewriter.version import VERSION

if TYPE_CHECKING:
    from jinja2 import Environment

_INLINE = ("page.css", "selection.js", "page.js")
MARK = '<meta name="generator" content="rewriter report">'  # by which an earlier page is known


def templates() -> Environment:
    """What makes pages. Raises RequestError without jinja2."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise RequestError("a report needs jinja2: pip install 'rewriter[report]'") from None
    made = Environment(
        loader=PackageLoader("rewriter.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"size": format_bytes, "number": format_count, "digits": format_score}
    return made


def render(made: Environment, described: dict[str, Any]) -> str:
    """The page for what `describe_report` says."""
    from markupsafe import Markup  # comes with jinja2

    style, *scripts = (files(__package__).joinpath("templates", name).read_text("utf-8") for name in _INLINE)
    return made.get_template("page.html").render(
        model=described,
        data=[
            stack["choices"] and {**stack["choices"], "commands": stack["commands"]} for stack in described["stacks"]
        ],
        unit=_unit(described["bytes"]),
        positions=strategies(),
        style=Markup(style),  # noqa: S704  # this and what follows is ours, not the file's
        scripts=[Markup(script) for script in scripts],  # noqa: S704
        hashes=" ".join(map(_hash, scripts)),
        mark=Markup(MARK),  # noqa: S704
        version=VERSION,
    )


def _unit(nbytes: int) -> dict[str, Any]:
    """The unit in which a size is asked for: the one in which `nbytes` is shown."""
    name = format_bytes(nbytes).partition(" ")[2]
    return {"name": name, "bytes": 1000 ** ("B", "kB", "MB", "GB", "TB").index(name)}


def _hash(script: str) -> str:
    """What allows this script in the page, and no other (Content Security Policy, level 2)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
