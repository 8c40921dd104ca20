"""How a gradient becomes an update: optimizers, learning-rate schedules, and the parameters that they leave out.

Everything is a pure function over optax. All states are pytrees of arrays, so a checkpoint holds them as they are.
Parameters are float32; kernels are `[*spatial, in, out]`, dense ones `[in, out]`.
"""

import fnmatch
from functools import partial
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

from cnnjax import config
from cnnjax.errors import UserError
from cnnjax.knobs import nearest

ONE_CYCLE_RISE = 0.3  # part of the run, where no warm-up is given
LARS_TRUST = 0.001  # the coefficient eta of You et al. 2017, section 5
MUON_RMS = 0.2  # of an update's entries, as AdamW's typically are: Liu et al. 2025, section 2.2


# --- Learning rate ----------------------------------------------------------------------------------------------------


def schedule(options: config.Schedule, peak: float, total_steps: int, steps_per_epoch: float) -> optax.Schedule:
    """The learning rate as a function of the step, which counts from 0; traceable, float32.

    With W steps of warm-up (0: none), rate(t) = peak * min(1, (t + 1) / W) * form(t): the first step has a rate above
    zero, step W - 1 the peak. The form is one of:

    - constant, plateau: 1. (The training step multiplies updates by `Plateau.scale`.)
    - step: factor to the number of boundaries b <= t (one within the warm-up counts too).
    - cosine: half a cosine from 1 at t = W to `final` at t = total_steps (Loshchilov & Hutter 2017, without restarts).
    - one_cycle: a straight line from 1 at t = W to `final` at t = total_steps (Smith & Topin 2018; momentum stays).
      W is 30 % of the run where no warm-up is given.

    Like the first step, the last (total_steps - 1) is just short of the end of the line, so that with final = 0 it is
    not wasted. From total_steps on the rate stays. Warm-up and boundaries are rounded to whole steps.

    Args:
      peak: the largest learning rate.
      total_steps: length of the run.
      steps_per_epoch: may be a fraction: batches run across the ends of epochs.

    Raises:
      UserError: a warm-up longer than the run, step without boundaries, or boundaries that do not increase.
    """

    def in_steps(length: float) -> int:
        return round(length * steps_per_epoch if options.unit == "epochs" else length)

    warmup = in_steps(options.warmup)
    if options.name == "one_cycle" and options.warmup == 0:
        warmup = round(ONE_CYCLE_RISE * total_steps)
    if warmup > total_steps:
        raise UserError(
            f"config.schedule.warmup = {options.warmup:g} {options.unit} is {warmup} steps, but the run has only "
            f"{total_steps}. Shorten the warm-up or lengthen the run."
        )
    if options.name == "step" and not options.boundaries:
        raise UserError(
            "config.schedule.name = 'step' needs config.schedule.boundaries: when to multiply the rate by factor."
        )
    if any(a >= b for a, b in zip(options.boundaries, options.boundaries[1:])):
        raise UserError(f"config.schedule.boundaries must increase, not {options.boundaries}.")
    boundaries = [in_steps(b) for b in options.boundaries]

    def form(step):
        """Fraction of the peak, without the warm-up."""
        # Written as 1 minus something, so that rounding cannot lift the rate above the peak.
        progress = jnp.clip((step - warmup) / max(total_steps - warmup, 1), 0.0, 1.0)
        match options.name:
            case "step":
                return options.factor ** sum((step >= b).astype(jnp.float32) for b in boundaries)
            case "cosine":
                return 1 - (1 - options.final) * 0.5 * (1 - jnp.cos(jnp.pi * progress))
            case "one_cycle":
                return 1 - (1 - options.final) * progress
            case "constant" | "plateau":
                return jnp.ones_like(progress)
        raise UserError(f"There is no schedule {options.name!r}.")

    def rate(step):
        step = jnp.minimum(jnp.asarray(step), total_steps)
        rise = jnp.minimum(1.0, (step + 1) / warmup) if warmup else 1.0
        return jnp.asarray(peak * (rise * form(step)), jnp.float32)

    return rate


# --- Update rules -----------------------------------------------------------------------------------------------------


def optimizer(options: config.Optimizer, learning_rate: optax.Schedule, params) -> optax.GradientTransformation:
    """Clipping by the global norm, the update rule with its weight decay, and the learning rate last.

    With gradient g, weight w, decay d and `kernels` the parameters that `decay_mask` picks:

    - sgd: d w is added to g of kernels, then momentum v = m v + g (Nesterov: g + m v; Sutskever et al. 2013).
    - adamw: Adam, then d w is added to the update of kernels (Loshchilov & Hutter 2019).
    - lamb: as adamw; then the update of each kernel is scaled to the kernel's own norm (You et al. 2020, phi(z) = z).
    - lars: (g + d w) of each kernel is scaled by 0.001 |w| / (|g| + d |w|), then momentum (You et al. 2017).
    - muon: momentum of every parameter with two axes or more is orthogonalised as a matrix `[spatial * in, out]`
      (Jordan et al. 2024) and scaled to AdamW's usual size (root mean square 0.2: Liu et al. 2025), so that one
      learning rate suits it and Adam, which takes biases and normalisation; then d w is added as in adamw. The rule
      goes by shape alone: first convolution and classifier are orthogonalised too.

    lamb and lars do not rescale parameters outside `kernels` (a bias of norm 0 would hardly get off the ground);
    a kernel that is all zero has ratio 1. The decoupled decay (adamw, lamb, muon) is multiplied by the learning rate,
    and so is the whole momentum (as in PyTorch; You et al. 2017 put the rate inside, which differs while it changes).
    Since the rate comes last, multiplying updates is the same as multiplying the rate.

    Frozen parameters have no state, an update of zero, and no part in the norm that is clipped.

    Args:
      learning_rate: a function of the step, such as `schedule` returns.
      params: the parameters, or their shapes; looked at only for their paths.

    Raises:
      UserError: `options.frozen` names nothing, or everything.
    """
    transform = optax.chain(
        optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity(),
        _rule(options),
        optax.scale_by_learning_rate(learning_rate),
    )
    if not options.frozen:
        return transform
    labels = jax.tree.map(lambda frozen: "frozen" if frozen else "trained", frozen_mask(params, options.frozen))
    return optax.partition({"trained": transform, "frozen": optax.set_to_zero()}, labels)


def _rule(options: config.Optimizer) -> optax.GradientTransformation:
    """The update for a learning rate of 1, with its sign still that of the gradient."""
    kernels = partial(decay_mask, decay_all=options.decay_all)
    decay = optax.add_decayed_weights(options.weight_decay, kernels)
    adam = optax.scale_by_adam(options.beta1, options.beta2, options.epsilon)
    momentum = optax.trace(options.momentum, options.nesterov) if options.momentum else optax.identity()
    match options.name:
        case "sgd":
            return optax.chain(decay, momentum)
        case "adamw":
            return optax.chain(adam, decay)
        case "lamb":
            return optax.chain(adam, decay, optax.masked(optax.scale_by_trust_ratio(), kernels))
        case "lars":
            return optax.chain(optax.masked(_lars_scaling(options.weight_decay), kernels), momentum)
        case "muon":
            rules = {"matrix": _orthogonal_momentum(options), "other": adam}
            return optax.chain(optax.partition(rules, _muon_labels), decay)
    raise UserError(f"There is no optimizer {options.name!r}.")


def _lars_scaling(weight_decay: float) -> optax.GradientTransformation:
    """g -> ratio * (g + d w), with the paper's ratio. optax's own divides by |g + d w| instead of |g| + d |w|."""

    def scaled(gradient, weight):
        weight_norm, gradient_norm = jnp.sqrt(jnp.sum(weight**2)), jnp.sqrt(jnp.sum(gradient**2))
        below = gradient_norm + weight_decay * weight_norm
        defined = (weight_norm > 0) & (below > 0)
        ratio = jnp.where(defined, LARS_TRUST * weight_norm / jnp.where(defined, below, 1.0), 1.0)
        return ratio * (gradient + weight_decay * weight)

    return optax.stateless_with_tree_map(scaled)


def _muon_labels(params):
    return jax.tree.map(lambda p: "matrix" if p.ndim >= 2 else "other", params)


def _orthogonal_momentum(options: config.Optimizer) -> optax.GradientTransformation:
    def as_matrices(params):
        """All axes but the last are rows, so that the columns are the filters."""
        return jax.tree.map(lambda p: optax.contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1), params)

    def to_adam_size(update):
        # An orthogonal matrix [m, n] has min(m, n) singular values of 1, so its root mean square is max(m, n) ** -0.5.
        return update * (MUON_RMS * max(update.size // update.shape[-1], update.shape[-1]) ** 0.5)

    return optax.chain(
        optax.contrib.scale_by_muon(
            beta=options.momentum, nesterov=options.nesterov, weight_dimension_numbers=as_matrices
        ),
        optax.stateless_with_tree_map(lambda update, _: to_adam_size(update)),
    )


# --- Which parameters -------------------------------------------------------------------------------------------------


def decay_mask(params, decay_all: bool):
    """A tree of bool like `params`: what weight decay pulls at. Kernels (two axes or more), or everything."""
    return jax.tree.map(lambda p: decay_all or p.ndim >= 2, params)


def is_frozen(path: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    """Whether some pattern matches a path such as ('stage1', 'conv', 'kernel'), or that of a module that it lies in.

    Patterns are globs (`*`, `?`, `[...]`, case counts) over paths written `stage1/conv/kernel`; `*` crosses `/`.
    """
    return any(fnmatch.fnmatchcase(name, pattern) for name in _path_and_parents(path) for pattern in patterns)


def _path_and_parents(path: tuple[str, ...]) -> list[str]:
    return ["/".join(path[: n + 1]) for n in range(len(path))]


def frozen_mask(params, patterns: tuple[str, ...]):
    """A tree of bool like `params` (nested dicts): what some pattern freezes; `stage1` and `stage1/*` are the same.

    Raises:
      UserError: a pattern that matches nothing, or nothing left to train.
    """
    flat = flax.traverse_util.flatten_dict(params)
    every_name = dict.fromkeys(name for path in flat for name in _path_and_parents(path))
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in every_name):
            hint = nearest(pattern, every_name)
            parts = ", ".join(name for name in every_name if "/" not in name)
            raise UserError(
                f"config.optimizer.frozen: {pattern!r} matches no parameter.{hint or f' There are {parts}.'}"
            )
    mask = {path: is_frozen(path, patterns) for path in flat}
    if all(mask.values()):
        raise UserError(f"config.optimizer.frozen = {tuple(patterns)} leaves nothing to train. Take a pattern away.")
    return flax.traverse_util.unflatten_dict(mask)


# --- What follows the validation score --------------------------------------------------------------------------------


class Plateau(NamedTuple):
    """How long a score has not got better, and what that made of the learning rate."""

    best: jax.Array  # float32 scalar; -inf or +inf before the first evaluation
    waited: jax.Array  # int32 scalar: evaluations since the best one (or since the last fall of the rate)
    scale: jax.Array  # float32 scalar: multiplies the learning rate


def plateau_start(higher_is_better: bool) -> Plateau:
    """The state before the first evaluation: any finite score is better than its `best`."""
    return Plateau(jnp.float32(-jnp.inf if higher_is_better else jnp.inf), jnp.int32(0), jnp.float32(1.0))


def waited_update(best, waited, score, higher_is_better: bool) -> tuple[jax.Array, jax.Array]:
    """The best score and the number of evaluations since, after one more. An equal score is not better, nor is a NaN.

    Early stopping is this, and a look at `waited`.
    """
    score = jnp.asarray(score, jnp.float32)
    better = score > best if higher_is_better else score < best
    return jnp.where(better, score, best), jnp.where(better, 0, waited + 1)


def plateau_update(plateau: Plateau, score, *, patience: int, factor: float, higher_is_better: bool) -> Plateau:
    """The state after an evaluation: the `patience`-th in a row that is not better multiplies the scale by `factor`."""
    best, waited = waited_update(plateau.best, plateau.waited, score, higher_is_better)
    falls = waited >= patience
    return Plateau(best, jnp.where(falls, 0, waited), jnp.where(falls, plateau.scale * factor, plateau.scale))


# --- Average of parameters --------------------------------------------------------------------------------------------


def ema_update(ema, params, decay: float, step):
    """The moving average of parameters after one more: d * ema + (1 - d) * params, float32.

    d = min(decay, (1 + step) / (10 + step)), as in TensorFlow's ExponentialMovingAverage, so that the first parameters,
    which are random, are soon forgotten. `step` counts from 0. Start with a copy of the parameters.
    """
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step)).astype(jnp.float32)
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, params)
