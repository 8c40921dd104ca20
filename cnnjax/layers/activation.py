"""Non-linearities, as Modules without parameters, so that a table of layers shows them."""

import flax.linen as nn
import jax

from cnnjax.knobs import nearest


class ReLU(nn.Module):
    """max(x, 0) (Nair & Hinton 2010)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(x)


class ReLU6(nn.Module):
    """min(max(x, 0), 6) (Krizhevsky 2010, "Convolutional deep belief networks on CIFAR-10")."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu6(x)


class Sigmoid(nn.Module):
    """1 / (1 + exp(-x))."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.sigmoid(x)


class Softmax(nn.Module):
    """exp(x) over its sum along the channels: probabilities. Networks here end in logits; their losses hold it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.softmax(x, axis=-1)


class Tanh(nn.Module):
    """The hyperbolic tangent."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.tanh(x)


class GELU(nn.Module):
    """x times the normal distribution function of x, exactly (Hendrycks & Gimpel 2016)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.gelu(x, approximate=False)


class SiLU(nn.Module):
    """x * sigmoid(x) (Elfwing et al. 2017)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.silu(x)


ACTIVATIONS = dict(relu=ReLU, relu6=ReLU6, sigmoid=Sigmoid, tanh=Tanh, gelu=GELU, silu=SiLU)


def activation(name: str, /, **kwargs) -> nn.Module:
    """The activation of a name. Raises ValueError for an unknown one."""
    if name not in ACTIVATIONS:
        raise ValueError(f"There is no activation {name!r}.{nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name](**kwargs)
