"""Writes docs/architectures.md from the tables: `python docs/generate.py`; a test compares it."""

from __future__ import annotations

from pathlib import Path

from rewriter.inspection import architecture_rows

HEAD = """# Architectures

Made from the tables by `python docs/generate.py`; `rewriter list architectures` prints the same. The first stack is the
default one, which `--stack main` also names. Where something is limited, `rewriter` refuses a drop that breaks it,
names the rule and up to three selections that work; `--align` takes the nearest of them, `--force` writes what was
asked for with a warning.
"""
TITLES = {"huggingface": "Hugging Face (`model_type`)", "gguf": "GGUF (`general.architecture`)"}


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for table, title in TITLES.items():
        rows = sorted(row[1:] for row in architecture_rows() if row[0] == table)
        parts.append(f"## {title}: {len(rows)}\n\n| name | stacks | limits and warnings |\n|---|---|---|\n")
        parts[-1] += "".join(f"| `{name}` | {stacks} | {limits or '–'} |\n" for name, stacks, limits in rows)
    return "\n".join(parts)


if __name__ == "__main__":
    (Path(__file__).parent / "architectures.md").write_text(page(), encoding="utf-8")
