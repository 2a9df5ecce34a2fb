"""rewriter apply"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rewriter.cli import console, verbose
from rewriter.cli.companions import CompanionOutput, describe_companions, plan_lines, summary_lines
from rewriter.cli.options import Json, with_options, with_write_options
from rewriter.cli.state import RunState
from rewriter.layout.output import WriteOptions
from rewriter.planning.companions.plan import plan_companion
from rewriter.planning.options import PlanOptions
from rewriter.planning.saved_plan import open_plan
from rewriter.writing.write import write


@with_write_options("overwrite", "verify_bytes")
@with_options(
    "strict",
    "provenance",
    keep_fields="This field is not about layers: leave it.",
    force="Write what was refused, with a warning.",
)
def apply(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="What `rewriter plan -o` saved, or the pruned model itself.")
    ],
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A PEFT adapter's directory, a GGUF adapter, a control vector, an importance matrix, an mmproj file, "
            "another quantisation.",
        ),
    ],
    destination: Annotated[str, typer.Argument(metavar="OUT", help="What to write: the same kind as FILE.")],
    options: PlanOptions,
    write_options: WriteOptions,
    base: Annotated[
        str | None, typer.Option(metavar="NAME", help="What a PEFT adapter shall call its model: the pruned one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    json: Json = False,
) -> None:
    """Let what belongs to a pruned model follow its layers.

    Example: `rewriter apply plan.json lora/ lora-pruned/`

    Example: `rewriter apply smaller.gguf imatrix.gguf imatrix-smaller.gguf`
    """
    made = CompanionOutput(plan_companion(open_plan(plan), verbose.open_verbosely(file), options, base), destination)
    verbose.log_plan(made.plan)
    (described,) = describe_companions([made])
    if not dry_run:
        write(made.plan, destination, write_options, on_commit=_committed, notify=console.note)
    if json:
        console.print_json(described)
    else:
        console.say("\n".join(plan_lines([described]) if dry_run else summary_lines(made)))


def _committed() -> None:
    RunState.committed = True
