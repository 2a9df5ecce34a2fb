"""`influence`: what a layer adds to the stream, computed from the norms of its matrices instead of followed.

Matrices are read a piece at a time: none of the feed-forward is ever in memory, of attention the value projection is.
The stream is taken for Gaussian: after a norm each of the d components has unit variance and the gain's scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rewriter.errors import UnsupportedError
from rewriter.scoring.forward.attention import Attention
from rewriter.scoring.forward.feed_forward import Experts, FeedForward
from rewriter.scoring.forward.primitives import Floats, Linear, Norm
from rewriter.scoring.forward.transformer_layer import ResidualBranch
from rewriter.scoring.metrics.residual_stream import KAPPA
from rewriter.scoring.model import ScoringModel
from rewriter.system.threads import ThreadPool

Doubles = NDArray[np.float64]
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_MEASURE = _WEIGHTS / _WEIGHTS.sum()  # E f(z) = sum of _MEASURE * f(_NODES) for a standard normal z
_OUTPUTS_AT_ONCE = 256


def influence(model: ScoringModel) -> list[float]:
    """One minus the ratio of the stream's size before and after the layer, in closed form (ours)."""
    stream = model.known_stream()
    power, scores = stream.embedding_power, []
    for number in model.numbers():
        layer = stream.layers[number]
        if layer.attention.closing is not None:
            raise UnsupportedError("influence is about streams that grow; this one is normed after every layer")
        branches = (layer.attention, KAPPA), (layer.feed_forward, 1.0)
        before, added = power, sum(_power(branch, share, model.team) for branch, share in branches)
        power += added * layer.multiplier**2
        scores.append(1 - float(np.sqrt(before / power)) if power != 0 else 0.0)  # nothing added to nothing
    return scores


def _power(branch: ResidualBranch, share: float, team: ThreadPool) -> float:
    """Mean square of what the branch adds. A norm at the end sets it by itself."""
    if branch.after is not None and branch.after.gain is not None:
        return float(np.square(branch.after.gain.astype(np.float64)).mean())
    return _body_power(branch.body, branch.before, share, team)


def _body_power(body: Attention | FeedForward | Experts, norm: Norm | None, share: float, team: ThreadPool) -> float:
    if isinstance(body, Attention):
        return share * _attention_power(body, norm, team)
    if isinstance(body, FeedForward):
        return _feed_forward_power(body, norm, team)
    powers = [_feed_forward_power(expert, norm, team) for expert in body.experts]
    router = body.router
    routed = float(np.mean(powers)) * (1 / len(powers) if router is None else router.scale**2 / router.used)
    return routed + (_feed_forward_power(body.shared, norm, team) if body.shared is not None else 0.0)


def _gain(norm: Norm | None, width: int) -> Floats:
    return np.ones(width, np.float32) if norm is None or norm.gain is None else norm.gain


def _attention_power(body: Attention, norm: Norm | None, team: ThreadPool) -> float:
    """||Wo E Wv diag(g)||_F^2 / d, without building the product: over pieces C of Wo E, trace of C (V V^T) C^T."""
    gram, inner = _gram(body.value, norm, team), None
    if body.latent is not None:
        size = body.latent.shape[1]
        gram = gram[:size, :size] / gram.diagonal()[:size].mean()  # the norm between them
        inner = body.latent.matrix() * _gain(body.norm, size)
    values = len(gram) if inner is None else len(inner)
    gathered = _gathering(body.expand, values)
    output = body.output.matrix() if body.output.transposed else None
    outputs, inputs = body.output.shape

    def trace(first: int) -> float:
        which = slice(first, min(first + _OUTPUTS_AT_ONCE, outputs))
        piece = body.output.tile(which, slice(0, inputs)) if output is None else output[which]
        piece = gathered(piece) if inner is None else gathered(piece) @ inner
        return float(np.einsum("ij,ij->", piece @ gram, piece, dtype=np.float64))

    return sum(team.map(trace, range(0, outputs, _OUTPUTS_AT_ONCE))) / outputs


def _gram(value: Linear, norm: Norm | None, team: ThreadPool) -> Floats:
    """V V^T of the projection V times the norm's gain."""
    matrix = value.matrix()
    matrix *= _gain(norm, matrix.shape[1])
    gram = np.empty((len(matrix), len(matrix)), np.float32)

    def fill(first: int) -> None:
        rows = slice(first, first + _OUTPUTS_AT_ONCE)
        gram[rows] = matrix[rows] @ matrix.T

    team.map(fill, range(0, len(matrix), _OUTPUTS_AT_ONCE))
    return gram


def _gathering(expand: NDArray[np.intp] | None, values: int) -> Callable[[Floats], Floats]:
    """W -> W E: columns that read the same one of `values` are added up."""
    if expand is None:
        return lambda piece: piece
    order = np.argsort(expand, kind="stable")
    used, starts = np.unique(expand[order], return_index=True)

    def gather(piece: Floats) -> Floats:
        gathered = np.zeros((len(piece), values), np.float32)
        gathered[:, used] = np.add.reduceat(piece[:, order], starts, axis=1)
        return gathered

    return gather


def _feed_forward_power(body: FeedForward, norm: Norm | None, team: ThreadPool) -> float:
    """(||Wd E h||^2 + sum of Var(h_j) ||Wd_j||^2) / d for hidden units h taken for independent."""
    mean, variance = _moments(body, norm, team)

    def measure(inputs: slice, down: Doubles) -> list[Doubles]:
        return [down @ mean[inputs], np.square(down) @ variance[inputs]]

    fixed, spread = _sums((body.down,), measure, team)
    return float((fixed @ fixed + spread.sum()) / len(fixed))


def _sums(linears: Sequence[Linear], measure: Callable[..., list[Doubles]], team: ThreadPool) -> Doubles:
    """What `measure(inputs, *pieces)` gives for each output, added up over the inputs, (measures, outputs).

    Only pieces of the matrices are in memory, in float64. Raises ValueError where their shapes differ.
    """
    shapes, tiles = {each.shape for each in linears}, linears[0].tiles()
    if len(shapes) > 1 or not tiles:
        raise ValueError(f"projections of {' and '.join(map(str, sorted(shapes)))}")
    parts = team.map(lambda tile: measure(tile[1], *(each.tile(*tile).astype(np.float64) for each in linears)), tiles)
    found = np.zeros((len(parts[0]), linears[0].shape[0]))
    for (outputs, _), part in zip(tiles, parts, strict=True):
        found[:, outputs] += part
    return found


def _moments(body: FeedForward, norm: Norm | None, team: ThreadPool) -> tuple[Doubles, Doubles]:
    """Mean and variance of each hidden unit for a standard normal stream."""
    width = body.up.shape[1]
    gain = _gain(norm, width)
    bias = np.zeros(width) if norm is None or norm.bias is None else norm.bias
    linears = (body.up,) if body.gate is None else (body.gate, body.up)

    def measure(inputs: slice, *parts: Doubles) -> list[Doubles]:
        shifts = [part @ bias[inputs] for part in parts]
        gained = [np.multiply(part, gain[inputs], out=part) for part in parts]
        return [*shifts, *(_dots(part, part) for part in gained), _dots(gained[0], gained[-1])]

    *sums, product = _sums(linears, measure, team)
    shifts = [sums[n] if each.offsets is None else sums[n] + each.offsets for n, each in enumerate(linears)]
    sizes = [np.sqrt(each) for each in sums[len(linears) :]]
    if body.gate is None:
        values = body.act(shifts[0][:, None] + sizes[0][:, None] * _NODES)
        mean, square = values @ _MEASURE, values**2 @ _MEASURE
    else:
        mean, square = _gated(body, (*shifts,), (*sizes,), product)
    return mean, np.maximum(square - mean**2, 0)


def _dots(one: Doubles, other: Doubles) -> Doubles:
    return np.asarray(np.einsum("ij,ij->i", one, other))


def _gated(
    body: FeedForward, shifts: tuple[Doubles, ...], sizes: tuple[Doubles, ...], product: Doubles
) -> tuple[Doubles, Doubles]:
    """h = act(s z + a) (t (rho z + sqrt(1 - rho^2) w) + b), z and w independent standard normals."""
    (offset, shift), (s, t) = shifts, sizes
    rho = np.clip(product / np.maximum(s * t, 1e-300), -1, 1)
    values = body.act(offset[:, None] + s[:, None] * _NODES)
    along = shift[:, None] + (t * rho)[:, None] * _NODES
    mean = (values * along) @ _MEASURE
    return mean, (values**2 * along**2) @ _MEASURE + t**2 * (1 - rho**2) * (values**2 @ _MEASURE)
