"""A new name never replaces what is there, on any system."""

from __future__ import annotations

import os

import pytest

from rewriter.system.rename import exchange, rename_new


@pytest.mark.parametrize("known", [True, False])
def test_a_new_name_is_never_one_that_is_taken(known, tmp_path, monkeypatch):
    """Somebody may take it after the last look."""
    if not known:
        monkeypatch.setattr("rewriter.system.rename._renameat2", lambda old, new, flags: False)
    (tmp_path / "file").write_text("theirs")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "new").mkdir()
    (tmp_path / "new file").write_text("ours")
    for old, new in (("new file", "file"), ("new file", "link"), ("new", "folder")):
        with pytest.raises(FileExistsError):
            rename_new(tmp_path / old, tmp_path / new)
    assert (tmp_path / "file").read_text() == "theirs"


def test_macos_renames_in_its_own_way(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("rewriter.system.rename.libc", {"renamex_np": lambda *words: asked.append(words) or 0}.get)
    rename_new(tmp_path / "a", tmp_path / "b")
    exchange(tmp_path / "a", tmp_path / "b")
    names = os.fsencode(tmp_path / "a"), os.fsencode(tmp_path / "b")
    assert asked == [(*names, 4), (*names, 2)]  # RENAME_EXCL, RENAME_SWAP
