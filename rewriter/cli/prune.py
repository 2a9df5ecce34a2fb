"""rewriter prune"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewriter.checkpoint import Checkpoint
from rewriter.cli import console, verbose
from rewriter.cli.companions import With, check_outputs, plan_companions, summary_lines
from rewriter.cli.options import Source, rule_arguments, with_plan_options, with_write_options
from rewriter.cli.plan import notes
from rewriter.cli.state import OutputLevel, RunState
from rewriter.errors import RequestError, printable
from rewriter.layout.output import Output, WriteOptions
from rewriter.planning.plan import Plan
from rewriter.planning.saved_plan import load_plan
from rewriter.report.json_values import describe_plan
from rewriter.request import PruneRequest, replan_with_file_options
from rewriter.system.signals import STOP
from rewriter.writing.copy import ProgressCallback as Report
from rewriter.writing.copy import unchanged_source
from rewriter.writing.write import about_name, planned, write

if TYPE_CHECKING:
    from concurrent.futures import Executor

_COPY = "How bytes get there"


def _refuse_rehearsal(wanted: bool) -> None:
    if wanted:
        raise RequestError("prune has no --dry-run; did you mean rewriter plan? It takes the same options, and no DST")


@with_write_options()
@with_plan_options
def prune(
    context: typer.Context,
    source: Source,
    destination: Annotated[str, typer.Argument(metavar="DST", help="What to write: the same kind as SRC.")],
    request: PruneRequest,
    write_options: WriteOptions,
    saved_plan: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="Do what `rewriter plan -o FILE` saved.")
    ] = None,
    companions: With = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", hidden=True, callback=_refuse_rehearsal, expose_value=False, is_eager=True)
    ] = False,
    executor: Annotated[
        str | None,
        typer.Option(
            metavar="WHO",
            help="Who writes the files: dask=tcp://HOST:PORT (docs/cluster.md), processes=N or threads=N.",
            rich_help_panel=_COPY,
        ),
    ] = None,
) -> None:
    """Drop layers: write a checkpoint without them, everything else as it was.

    Example: `rewriter prune model.gguf smaller.gguf --drop 20-23`

    Example, other files and all layers: `rewriter prune model/ one/ --single-file`

    Example, with what belongs to the model: `rewriter prune model.gguf smaller.gguf --drop 20-23 --with lora.gguf`
    """
    began = time.monotonic()
    checkpoint = verbose.open_verbosely(source)
    notices: list[str] = []
    if saved_plan is None:
        with verbose.scoring() as on_progress:
            plan = request.plan(checkpoint, Path(destination).name, notices.append, on_progress)
    else:
        plan = _saved(saved_plan, checkpoint, request)
    verbose.log_plan(plan)
    others = plan_companions(plan, companions or (), destination)
    check_outputs([(plan, destination), *((each.plan, each.destination) for each in others)], write_options)
    with _executor(executor) as chosen_executor, _progress(plan, destination, write_options) as progress:
        starts = time.monotonic()
        output = write(
            plan,
            destination,
            write_options,
            progress=progress,
            on_commit=_committed,
            notify=_tell,
            executor=chosen_executor,
        )
    STOP.check()
    verbose.log_write(output, destination, write_options, time.monotonic() - starts)
    lines = _summary(plan, output, destination, time.monotonic() - began) + notices
    for each in others:
        write(each.plan, each.destination, write_options, notify=_tell)
        lines += summary_lines(each)
    written = _written(output, destination)
    if write_options.hardlink:
        lines += _links(output, destination)
    lines.append(
        "verified: every byte that stayed was compared"
        if write_options.verify_bytes
        else _next(plan, written, source, rule_arguments(context))
    )
    _say("\n".join(lines), written)


@contextmanager
def _executor(text: str | None) -> Iterator[Executor | None]:
    if text is None:
        yield None
        return
    from rewriter.writing.executors import workers  # executors are slow to import

    with workers(text) as pool:
        yield pool.executor


def _links(output: Output, destination: str) -> Iterator[str]:
    """What has become of the files that were to be linked."""
    folder = Path(destination) if output.directory else Path(destination).parent
    unchanged = [file for file in output.files if file.unchanged]
    copied = [file for file in unchanged if not os.path.samefile(folder / file.name, unchanged_source(file))]
    yield f"hard links: {len(unchanged) - len(copied)} of {len(output.files)} files are one with the source's"
    if copied:
        names = ", ".join(printable(file.name, 80) for file in copied)
        yield f"note: no link could be made for {names}: copied"


def _say(text: str, written: str) -> None:
    """The output is there, whether or not anybody can still be told: a closed pipe is no failure of the run."""
    try:
        console.say(text)
        sys.stdout.flush()
    except OSError as error:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # what is still buffered goes nowhere
        if not isinstance(error, BrokenPipeError):
            console.note(f"{printable(written, 200)} is written; its summary could not be printed")


def _next(plan: Plan, written: str, source: str, rules: list[str]) -> str:
    needed = [] if plan.provenance else rules  # without a record, verify needs the options
    more = [] if plan.provenance or rules else plan.options.rule_arguments  # of a saved plan
    command = console.command("verify", console.as_path(written), "--source", console.as_path(source), *needed)
    return " ".join(("next:", command, *more))


def _tell(line: str) -> None:
    with suppress(OSError):  # nobody listens: the run goes on
        console.note(line)


def _committed() -> None:
    RunState.committed = True


def _saved(path: Path, checkpoint: Checkpoint, request: PruneRequest) -> Plan:
    request.file_layout_options()
    saved = load_plan(path)
    plan, same = replan_with_file_options(saved, checkpoint, request)
    if not same:
        console.note(
            f"the plan was made for {printable(saved.source_name)}; planned again for this file from the layers "
            f"it keeps"
        )
    return plan


@contextmanager
def _progress(plan: Plan, destination: str, write_options: WriteOptions) -> Iterator[Report]:
    """A bar on a terminal: bytes, rate, time left. Nothing where nobody looks."""
    if OutputLevel.quiet or not sys.stderr.isatty():
        yield lambda nbytes: None
        return
    from rich import progress as rich

    columns = (rich.BarColumn(), rich.DownloadColumn(), rich.TransferSpeedColumn(), rich.TimeRemainingColumn())
    with rich.Progress(*columns, console=console.console(error=True), transient=True) as bar:
        output = planned(plan, destination, write_options)  # nobody waits for it where nobody looks
        task = bar.add_task("", total=output.nbytes + output.hashed)
        yield lambda nbytes: bar.advance(task, nbytes)


def _summary(plan: Plan, output: Output, destination: str, seconds: float) -> list[str]:
    described = describe_plan(plan, output)
    layers, weights, nbytes = (described[key] for key in ("layers", "parameters", "bytes"))
    written = _written(output, destination)
    lines = [
        f"{printable(written, 200)}: stack {plan.layers.stack}, {console.counted(layers['before'], 'layer')} -> "
        f"{layers['after']}, dropped {console.layers(layers['dropped'])}",
        f"parameters {console.number(weights['before'])} -> {console.number(weights['after'])}, "
        f"{console.size(nbytes['before'])} -> {console.size(nbytes['after'])}, {seconds:.2f} s",
        *notes(described),
        *about_name(plan, destination),
    ]
    if not output.directory and len(output.files) > 1:
        lines.append("files: " + ", ".join(printable(file.name, 80) for file in output.files))
    return lines


def _written(output: Output, destination: str) -> str:
    """The path to give to a loader: the first file of a split set has a name of its own."""
    return destination if output.directory else str(Path(destination).with_name(output.files[0].name))
