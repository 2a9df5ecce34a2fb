"""What a start costs, beside the smallest program that typer allows."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.measure import HEAD, OURS, Case, Section, in_turns, rounds_of, rows

SMALLEST = """\
import typer

app = typer.Typer()


def version(wanted: bool) -> None:
    if wanted:
        print("smallest 1.0")
        raise typer.Exit


@app.command()
def run(version: bool = typer.Option(False, "--version", callback=version, is_eager=True)) -> None:
    pass


app()
"""


def sections(folder: Path, small: bool) -> list[Section]:
    rounds = rounds_of(small, 21)
    program = folder / "smallest.py"
    program.write_text(SMALLEST)
    smallest = Case("a typer application of one command", [sys.executable, str(program), "--version"])
    ours = Case("rewriter --version", [*OURS, "--version"])
    found = in_turns([smallest, ours], rounds)
    text = f"Medians of {rounds} runs in turns."
    return [Section("Start-up", text, HEAD, rows(found, {ours.name: smallest.name}))]
