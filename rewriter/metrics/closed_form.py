"""`influence`: what a layer adds to the stream, computed from the norms of its matrices instead of followed.

The stream is taken for Gaussian: after a norm each of the d components has unit variance and the gain's scale.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rewriter.errors import UnsupportedError
from rewriter.metrics.layers import Attention, Branch, Experts, FeedForward, Linear, Norm
from rewriter.metrics.model import Model
from rewriter.metrics.stream import KAPPA
from rewriter.metrics.values import Scores

Doubles = NDArray[np.float64]
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_MEASURE = _WEIGHTS / _WEIGHTS.sum()  # E f(z) = sum of _MEASURE * f(_NODES) for a standard normal z
_UNITS_AT_ONCE = 4096


def influence(model: Model) -> Scores:
    """One minus the ratio of the stream's size before and after the layer, in closed form (ours)."""
    stream = model.described()
    power, scores = stream.embedding_power, []
    for number in model.numbers():
        block = stream.blocks[number]
        if block.attention.closing is not None:
            raise UnsupportedError("influence is about streams that grow; this one is normed after every layer")
        added = (_power(block.attention, KAPPA) + _power(block.feed_forward, 1.0)) * block.multiplier**2
        scores.append(1 - float(np.sqrt(power / (power + added))))
        power += added
    return scores


def _power(branch: Branch, share: float) -> float:
    """Mean square of what the branch adds. A norm at the end sets it by itself."""
    if branch.after is not None and branch.after.gain is not None:
        return float(np.square(branch.after.gain.astype(np.float64)).mean())
    return _body_power(branch.body, branch.before, share)


def _body_power(body: Attention | FeedForward | Experts, norm: Norm | None, share: float) -> float:
    if isinstance(body, Attention):
        return share * _attention_power(body, norm)
    if isinstance(body, FeedForward):
        return _feed_forward_power(body, norm)
    powers = [_feed_forward_power(expert, norm) for expert in body.experts]
    router = body.router
    routed = float(np.mean(powers)) * (1 / len(powers) if router is None else router.scale**2 / router.used)
    return routed + (_feed_forward_power(body.shared, norm) if body.shared is not None else 0.0)


def _gained(linear: Linear, norm: Norm | None) -> Doubles:
    """The projection's matrix times the norm's gain."""
    matrix = linear.matrix().astype(np.float64)
    return matrix if norm is None or norm.gain is None else matrix * norm.gain


def _shifted(linear: Linear, norm: Norm | None) -> Doubles:
    """What the projection gives for a stream of zeros: its bias, and the norm's bias projected."""
    shift = np.zeros(linear.matrix().shape[0]) if linear.bias is None else linear.offsets.astype(np.float64)  # type: ignore[union-attr]
    return shift if norm is None or norm.bias is None else shift + linear.matrix() @ norm.bias


def _attention_power(body: Attention, norm: Norm | None) -> float:
    """||Wo E Wv diag(g)||_F^2 / d, without building the product: trace of (Wo^T Wo)(V V^T)."""
    values = _gained(body.value, norm)
    if body.latent is not None:
        latent = body.latent.matrix().astype(np.float64)
        size = latent.shape[1]
        values = values[:size] / np.sqrt(np.square(values[:size]).sum(axis=1).mean())  # the norm between them
        values = (latent if body.norm is None or body.norm.gain is None else latent * body.norm.gain) @ values
    values = values if body.expand is None else values[body.expand]
    output = body.output.matrix().astype(np.float64)
    return float(((output.T @ output) * (values @ values.T)).sum() / output.shape[0])


def _feed_forward_power(body: FeedForward, norm: Norm | None) -> float:
    """(||Wd E h||^2 + sum of Var(h_j) ||Wd_j||^2) / d for hidden units h taken for independent."""
    down = body.down.matrix().astype(np.float64)
    mean, variance = _moments(body, norm)
    fixed = down @ mean
    return float((fixed @ fixed + np.square(down).sum(axis=0) @ variance) / down.shape[0])


def _moments(body: FeedForward, norm: Norm | None) -> tuple[Doubles, Doubles]:
    """Mean and variance of each hidden unit for a standard normal stream."""
    up, shift = _gained(body.up, norm), _shifted(body.up, norm)
    if body.gate is None:
        parts = [_plain(body, np.linalg.norm(up[each], axis=1), shift[each]) for each in _slices(len(up))]
    else:
        gate, offset = _gained(body.gate, norm), _shifted(body.gate, norm)
        parts = [_gated(body, gate[each], offset[each], up[each], shift[each]) for each in _slices(len(up))]
    mean, square = (np.concatenate(each) for each in zip(*parts, strict=True))
    return mean, np.maximum(square - mean**2, 0)


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + _UNITS_AT_ONCE) for start in range(0, count, _UNITS_AT_ONCE))


def _plain(body: FeedForward, size: Doubles, shift: Doubles) -> tuple[Doubles, Doubles]:
    values = body.act(shift[:, None] + size[:, None] * _NODES)
    return values @ _MEASURE, values**2 @ _MEASURE


def _gated(body: FeedForward, gate: Doubles, offset: Doubles, up: Doubles, shift: Doubles) -> tuple[Doubles, Doubles]:
    """h = act(s z + a) (t (rho z + sqrt(1 - rho^2) w) + b), z and w independent standard normals."""
    s, t = np.linalg.norm(gate, axis=1), np.linalg.norm(up, axis=1)
    rho = np.clip((gate * up).sum(axis=1) / np.maximum(s * t, 1e-300), -1, 1)
    values = body.act(offset[:, None] + s[:, None] * _NODES)
    along = shift[:, None] + (t * rho)[:, None] * _NODES
    mean = (values * along) @ _MEASURE
    return mean, (values**2 * along**2) @ _MEASURE + t**2 * (1 - rho**2) * (values**2 @ _MEASURE)
