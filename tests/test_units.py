"""Sizes as users write them."""

import pytest

from rewriter.errors import RequestError
from rewriter.units import parse_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("4GiB", 4 * 2**30), ("4GB", 4 * 10**9), ("4G", 4 * 10**9), ("4Gi", 4 * 2**30), ("4gib", 4 * 2**30),
        ("4gb", 4 * 10**9), ("1TiB", 2**40), ("1TB", 10**12), ("3MiB", 3 * 2**20), ("3M", 3 * 10**6),
        ("2KiB", 2048), ("2K", 2000), ("2kB", 2000), ("4000000", 4000000), ("17B", 17), ("4 GiB", 4 * 2**30),
        ("4.5GB", 4_500_000_000), ("0.5KiB", 512), ("1.1GB", 1_100_000_000), ("0.1KiB", 102), ("0", 0),
        ("123456789012345", 123456789012345),
    ],
)  # fmt: skip
def test_sizes(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text",
    [
        "", "GiB", "4X", "4GiBs", "4GGB", "-4GB", "+4GB", "4,5GB", "4.GB", ".5GB", "1e9", "4  GB", " 4GB", "4GB ",
        "4GB\n", "1_000", "0x10", "4PB", "nan", "inf", "\u0664GB", "4\u00a0GB", "1" * 16, "1.2.3", "4BB", "4bib",
    ],
)  # fmt: skip
def test_what_is_no_size(text):
    with pytest.raises(RequestError, match="is not a size: write it as 4GiB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["4G\u0131B", "4G\u0130", "4\u0131", "4\u212a", "4iB", "4i"])
def test_sizes_with_letters_that_only_ignore_case_knows(text):
    """KeyError, a traceback: re.IGNORECASE matches the dotless i and the Kelvin sign. `4iB` is 4 bytes."""
    with pytest.raises(RequestError):
        parse_size(text)
