"""Raw bytes for the parser of a format, guided by coverage (atheris). Whatever is not a RewriterError is a finding.

    python tests/fuzz/raw_bytes.py safetensors 600     # or gguf; seconds

Starts from the fixtures. A finding is left as crash-* in the current directory: it becomes a case of
fixtures/make_broken.py. Without atheris (pip install atheris; the extra `fuzz`) it says so and does nothing.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))


def seeds(folder: Path, form: str) -> None:
    """Copy the fixtures of a format: the good and odd ones, and those that are refused."""
    files = [*(ROOT / "fixtures" / "broken").glob(f"*.{form}"), *(ROOT / "fixtures" / "odd").glob(f"*.{form}")]
    for number, file in enumerate(files):
        (folder / str(number)).write_bytes(file.read_bytes())


def fuzz(form: str, seconds: str) -> None:
    import atheris

    with atheris.instrument_imports(include=["rewriter"]):
        from rewriter import PlanOptions, RewriterError, make_output, make_plan, open_checkpoint
        from rewriter.report.json_values import describe

    folder = Path(tempfile.mkdtemp())
    corpus, path = folder / "corpus", folder / f"x.{form}"
    corpus.mkdir()
    seeds(corpus, form)

    def one(content: bytes) -> None:
        path.write_bytes(content)
        try:
            checkpoint = open_checkpoint(path)
            describe(checkpoint)
            make_output(make_plan(checkpoint, [1], PlanOptions(generic=True)), path.name)
        except RewriterError as error:
            if not str(error).isprintable() or len(str(error)) > 1000:
                raise ValueError("a message that is not safe to print") from error

    limits = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("skipped: atheris is not installed (pip install atheris)")  # noqa: T201
    else:
        fuzz(sys.argv[1], sys.argv[2])
