"""Which layers of a source an output holds: from its record, or from its bytes."""

from __future__ import annotations

from safetensors.numpy import save_file

from rewriter import PlanOptions, verify
from tests.support.builders import (
    huggingface,
    llama_names,
    prune,
    tensors_of,
    values,
    write_config,
    write_safetensors,
)


def test_duplicate_layers_are_matched_in_order(tmp_path):
    """Two layers with the same bytes: the map that the bytes give is not unique, but one that fits is found."""
    names = llama_names(4)
    write_config(tmp_path / "config.json", model_type="llama", num_hidden_layers=4)
    source = write_safetensors(tmp_path / "s.safetensors", names)
    first, second = (f"model.layers.{n}.".encode() for n in (1, 2))
    data = {name: entry[2] for name, entry in tensors_of(source).items()}
    raw = source.read_bytes()
    for name in names:
        if name.encode().startswith(second):
            raw = raw.replace(data[name], data[name.replace(second.decode(), first.decode())])
    source.write_bytes(raw)
    for keep in ([0, 1, 3], [0, 2, 3], [1, 2], [2, 3]):
        target = prune(source, tmp_path / f"{keep}.safetensors", keep, PlanOptions(provenance=False))
        assert verify(target, source) == ()


def test_the_record_decides_where_the_bytes_do_not(tmp_path):
    """All layers have the same bytes, and only the record says which of them stayed."""
    source = huggingface(tmp_path / "in", layer_types=["a", "b", "c", "d", "e", "f"])
    names = llama_names(6)
    same = {name: values(name.rpartition(".layers.")[2][2:]) for name in names}
    save_file(same, source / "model.safetensors", metadata={"format": "pt"})
    first = prune(source, tmp_path / "first", [1, 3, 5])
    second = prune(first, tmp_path / "second", [1, 2])
    assert verify(first, source) == verify(second, first) == verify(second, source) == ()
