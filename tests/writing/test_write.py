"""How a run is written: shared or copied, linked, waited for. What is written is the same every time."""

from __future__ import annotations

import errno
import os
import sys
import types

import pytest

from rewriter import OutputError, PlanOptions, WriteOptions, make_output, make_plan, open_checkpoint, verify, write
from rewriter.cli import main
from tests.support.builders import everything, prune, split_gguf
from tests.support.doubles import patched, refused
from tests.support.write_jobs import link_counts

BARE = PlanOptions(provenance=False)


WAYS = {"copied": {"share": False}, "linked": {"hardlink": True}, "not waited for": {"sync": False}}


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_every_way_writes_the_same(how, source, tmp_path):
    prune(source, tmp_path / "plain", range(5))
    before = everything(source)
    target = prune(source, tmp_path / "out", range(5), **how)
    assert everything(target) == everything(tmp_path / "plain")
    assert verify(target, source) == ()
    assert everything(source) == before


def test_only_what_stays_as_it_is_is_linked(source, tmp_path):
    target = prune(source, tmp_path / "out", range(5), hardlink=True)
    linked = {name for name, count in link_counts(target).items() if count > 1}
    assert linked == {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "tokenizer.json"}
    assert all(os.path.samefile(target / name, source / name) for name in linked)


def test_links_are_made_only_when_asked_for(source, tmp_path):
    assert set(link_counts(prune(source, tmp_path / "out", range(6), BARE)).values()) == {1}


def test_a_link_into_a_cache_is_followed(source, tmp_path):
    """The hub's snapshots are links into a cache: the output must not be a link to a link."""
    cache = tmp_path / "cache"
    source.rename(cache)
    source.mkdir()
    for file in cache.iterdir():
        (source / file.name).symlink_to(file)
    target = prune(source, tmp_path / "out", range(5), hardlink=True)
    assert not [file for file in target.iterdir() if file.is_symlink()]
    assert os.path.samefile(target / "tokenizer.json", cache / "tokenizer.json")


def test_an_output_with_links_is_replaced_and_the_source_stays(source, tmp_path):
    before = everything(source)
    for keep in (range(5), range(6), range(5)):
        prune(source, tmp_path / "out", keep, hardlink=True, overwrite=True)
        assert everything(source) == before
    assert set(link_counts(source).values()) == {1, 2}
    prune(source, tmp_path / "out", [0], overwrite=True)
    assert set(link_counts(source).values()) == {1}
    assert everything(source) == before


def test_pruning_what_is_linked_leaves_the_source(source, tmp_path):
    before = everything(source)
    linked = prune(source, tmp_path / "linked", range(6), hardlink=True)
    once = everything(linked)
    target = prune(linked, tmp_path / "out", [0, 3], hardlink=True)
    prune(linked, tmp_path / "out", [1, 3], overwrite=True)
    assert verify(target, linked) == verify(target, source) == ()
    assert everything(linked) == once
    assert everything(source) == before


@pytest.mark.parametrize("hardlink", [True, False])
def test_a_split_set_with_links_is_replaced(hardlink, tmp_path):
    source = split_gguf(tmp_path / "in")
    before = everything(tmp_path / "in")
    target = prune(source, tmp_path / "x.gguf", range(6), hardlink=True)
    second = tmp_path / "x-00002-of-00003.gguf"
    assert os.path.samefile(second, source.with_name("model-00002-of-00003.gguf"))
    prune(source, tmp_path / "x.gguf", [0, 2, 5], overwrite=True, hardlink=hardlink)
    assert not os.path.samefile(second, source.with_name("model-00002-of-00003.gguf"))
    assert verify(target, source) == ()
    assert everything(tmp_path / "in") == before


def test_a_set_is_never_replaced_by_itself(tmp_path):
    source = split_gguf(tmp_path)
    os.link(source.with_name("model-00002-of-00003.gguf"), tmp_path / "another")
    before = everything(tmp_path)
    with pytest.raises(OutputError, match="is the input itself"):
        prune(source, tmp_path / "model.gguf", [0], overwrite=True)
    assert everything(tmp_path) == before


def test_links_need_no_room(source, tmp_path, monkeypatch):
    plan = make_plan(open_checkpoint(source), range(5))
    room = make_output(plan, "out").nbytes - 1000
    monkeypatch.setattr("rewriter.system.calls.free_bytes", lambda folder: room)
    with pytest.raises(OutputError, match="too few"):
        write(plan, tmp_path / "out", WriteOptions(share=False))
    write(plan, tmp_path / "out", WriteOptions(share=False, hardlink=True))


def test_nothing_is_waited_for_when_that_was_asked_for(source, tmp_path, monkeypatch):
    never = types.SimpleNamespace(**{**vars(os), "fsync": lambda descriptor: pytest.fail("waited")})
    monkeypatch.setattr("rewriter.system.calls.os", never)
    monkeypatch.setattr("rewriter.system.calls.start_writeback", never.fsync)
    prune(source, tmp_path / "out", range(5), sync=False)
    prune(source, tmp_path / "out", range(4), sync=False, overwrite=True)
    assert prune(split_gguf(tmp_path / "split"), tmp_path / "x.gguf", range(4), sync=False, hardlink=True).exists()


def test_links_are_waited_for(source, tmp_path, monkeypatch):
    synced = []

    def fsync(descriptor):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))

    patched(monkeypatch, "rewriter.system.calls", fsync=fsync)
    target = prune(source, tmp_path / "out", range(5), hardlink=True)
    assert {file.name for file in target.iterdir()} <= set(synced)


def called(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["rewriter", "prune", *map(str, arguments)])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code


OPTIONS = {
    "": WriteOptions(),
    "--no-share": WriteOptions(share=False),
    "--hardlink": WriteOptions(hardlink=True),
    "--no-fsync": WriteOptions(sync=False),
    "--overwrite": WriteOptions(overwrite=True),
    "--verify": WriteOptions(verify_bytes=True),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_say_how(option, source, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "rewriter.cli.prune.write",
        lambda plan, target, write_options, **more: (asked.append(write_options), write(plan, target))[1],
    )
    called(monkeypatch, source, tmp_path / "out", "--drop", "5", *option.split())
    assert asked == [OPTIONS[option]]


def test_the_summary_counts_links(source, tmp_path, monkeypatch, capsys):
    called(monkeypatch, source, tmp_path / "out", "--drop", "5", "--hardlink")
    assert "hard links: 3 of 8 files are one with the source's\n" in capsys.readouterr().out


def test_the_summary_names_what_could_not_be_linked(source, tmp_path, monkeypatch, capsys):
    patched(monkeypatch, "rewriter.writing.copy", link=refused(errno.EXDEV))
    called(monkeypatch, source, tmp_path / "out", "--drop", "5", "--hardlink")
    out = capsys.readouterr().out
    assert "hard links: 0 of 8 files" in out
    assert "note: no link could be made for model-00001-of-00003.safetensors, " in out
    assert "tokenizer.json: copied" in out


@pytest.mark.parametrize("provenance", [True, False])
def test_a_lone_file_of_all_layers_is_unchanged_but_for_its_record(provenance, source, tmp_path):
    lone = prune(source, tmp_path / "one", range(6), PlanOptions(single_file=True)) / "model.safetensors"
    plan = make_plan(open_checkpoint(lone), range(6), PlanOptions(provenance=provenance))
    output = write(plan, tmp_path / "out.safetensors")
    assert output.files[0].unchanged is not provenance
    assert (open_checkpoint(tmp_path / "out.safetensors").provenance is not None) is provenance
