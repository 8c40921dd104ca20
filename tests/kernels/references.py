"""Convolution and pooling written out in NumPy, in float64, with their gradients: place by place of the window."""

import itertools

import numpy as np


def _places(window, dilation, strides, counts):
    """(number of the place, what it lies on at all positions)."""
    for place in itertools.product(*map(range, window)):
        lies = [slice(p * d, p * d + (n - 1) * s + 1, s) for p, d, n, s in zip(place, dilation, counts, strides)]
        yield place, (slice(None), *lies)


def _padded(x, pads, value=0.0):
    """x between values; negative padding takes pixels away, of the other side's values too."""
    for axis, (low, high) in enumerate(pads, 1):
        around = [(max(p, 0), max(q, 0)) if i == axis else (0, 0) for i in range(x.ndim) for p, q in [(low, high)]]
        wide = np.pad(x, around, constant_values=value)
        x = wide.take(range(max(-low, 0), wide.shape[axis] - max(-high, 0)), axis)
    return x


def _unpadded(padded, pads, shape):
    """The transpose of `_padded`: what came from each pixel, zero of those that were taken away."""
    numbers = _padded(np.arange(1, np.prod(shape) + 1).reshape(shape), pads).ravel()
    return np.bincount(numbers, padded.ravel(), np.prod(shape) + 1)[1:].reshape(shape)


def convolution(x, w, dy, strides, pads, dilation, groups):
    """(y, dx, dw) of `[B, *spatial, C]` and `[*window, C / groups, O]`; dy may be None: ones."""
    window, inside, outside = w.shape[:-2], w.shape[-2], w.shape[-1] // groups
    padded = _padded(x, pads)
    counts = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(padded.shape[1:-1], window, strides, dilation)]
    y, dx, dw = np.zeros((len(x), *counts, w.shape[-1])), np.zeros(padded.shape), np.zeros(w.shape)
    dy = np.ones(y.shape) if dy is None else dy
    for place, lies in _places(window, dilation, strides, counts):
        for g in range(groups):
            ins, outs = slice(g * inside, (g + 1) * inside), slice(g * outside, (g + 1) * outside)
            seen, kernel = padded[lies][..., ins], w[place][:, outs]
            y[..., outs] += seen @ kernel
            dx[(*lies, ins)] += dy[..., outs] @ kernel.T
            dw[place][:, outs] = seen.reshape(-1, inside).T @ dy[..., outs].reshape(-1, outside)
    return y, _unpadded(dx, pads, x.shape), dw


def max_pool(x, dy, window, strides, pads):
    """(y, dx); of equal values the first, row by row, gets the gradient."""
    padded = _padded(x, pads, -np.inf)
    counts = [(n - k) // s + 1 for n, k, s in zip(padded.shape[1:-1], window, strides)]
    ones = (1,) * len(window)
    taps = np.stack([padded[lies] for _, lies in _places(window, ones, strides, counts)])
    taken, dx = taps.argmax(0), np.zeros(padded.shape)
    for number, (_, lies) in enumerate(_places(window, ones, strides, counts)):
        dx[lies] += np.where(taken == number, np.ones(taken.shape) if dy is None else dy, 0)
    return taps.max(0), _unpadded(dx, pads, x.shape)


def batch_norm(x, scale, bias, dy, epsilon):
    """(y, mean, var, dx, dscale, dbias, sizes of what these two add up): Ioffe & Szegedy 2015, section 3."""
    rows, d = x.reshape(-1, x.shape[-1]), dy.reshape(-1, x.shape[-1])
    mean, var = rows.mean(0), rows.var(0)
    normal = (rows - mean) / np.sqrt(var + epsilon)
    dnormal = d * scale
    dvar = (dnormal * (rows - mean)).sum(0) * -0.5 * (var + epsilon) ** -1.5
    dmean = -dnormal.sum(0) / np.sqrt(var + epsilon)
    dx = dnormal / np.sqrt(var + epsilon) + dvar * 2 * (rows - mean) / len(rows) + dmean / len(rows)
    y = (normal * scale + bias).reshape(x.shape)
    added = tuple(np.sqrt((terms**2).sum(0)).max() for terms in (d * normal, d))
    return y, mean, var, dx.reshape(x.shape), (d * normal).sum(0), d.sum(0), added


def response_norm(x, dy, n, k, alpha, beta):
    """(y, dx), channel by channel."""
    channels, half = x.shape[-1], n // 2
    u = np.stack([k + alpha * (x[..., max(0, i - half) : i + half + 1] ** 2).sum(-1) for i in range(channels)], -1)
    dx = dy * u**-beta
    for i in range(channels):
        for j in range(max(0, i - half), min(channels, i + half + 1)):
            dx[..., j] -= dy[..., i] * x[..., i] * beta * u[..., i] ** (-beta - 1) * 2 * alpha * x[..., j]
    return x * u**-beta, dx
