"""From what is described to HTML, with jinja2: one file that loads nothing else and takes no markup from names."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from rewriter.amounts import digits, number, size
from rewriter.errors import RequestError
from rewriter.report.describing import strategies
from rewriter.version import VERSION

MARK = '<meta name="generator" content="rewriter report">'  # by which an earlier page is known


def render(described: dict[str, Any]) -> str:
    """The page for what `describe_report` says. Raises RequestError without jinja2."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise RequestError("a report needs jinja2: pip install 'rewriter[report]'") from None
    loader = PackageLoader("rewriter.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"size": size, "number": number, "digits": digits}
    style, *scripts = (loader.get_source(environment, name)[0] for name in ("page.css", "choosing.js", "page.js"))
    return environment.get_template("page.html").render(
        model=described,
        data=_data(described),
        strategies=strategies(),
        style=Markup(style),  # noqa: S704  # ours
        scripts=[Markup(script) for script in scripts],  # noqa: S704  # ours
        hashes=" ".join(map(_hash, scripts)),
        mark=Markup(MARK),  # noqa: S704
        version=VERSION,
    )


def _data(described: dict[str, Any]) -> list[dict[str, Any] | None]:
    """What the scripts need of each stack."""
    return [
        stack["choices"]
        and {
            **stack["choices"],
            "scores": {metric["name"]: metric["scores"] for metric in stack["metrics"]},
            "recipes": {recipe["name"]: recipe["order"] for recipe in stack["recipes"]},
            "commands": stack["commands"],
        }
        for stack in described["stacks"]
    ]


def _hash(script: str) -> str:
    """What allows this script in the page, and no other (Content Security Policy, level 2)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
