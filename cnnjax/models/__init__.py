"""The architectures, by the names that `--config.model=NAME` takes.

A new one is a file beside this and a line here. The file holds a dataclass `Options` and its published values by name,
`VARIANTS = {name: Options(name, ...)}`. Options have

- `name`, a plain field: the name in this table; then knobs for what an experiment may vary;
- `build(num_classes, dtype, remat) -> linen Module`, which maps images `[B, H, W, C]` to float32 logits
  `[B, num_classes]` as `model(x, train=...)`. A network with auxiliary heads gives
  `dict(logits=..., auxiliary=(...))` while training;
- `input_shape`, (H, W, C) of the published input;
- `narrow()`, a copy with an eighth of the channels and one block in each stage, for tests.

What a network needs of its input shows when it is built: a layer that finds no room raises DoesNotFit.
"""

from cnnjax import foreign
from cnnjax.errors import UserError
from cnnjax.inspection import findings
from cnnjax.knobs import pick
from cnnjax.models import alexnet, cnn, convnext, densenet, efficientnet, googlenet, lenet, mobilenet, resnet, unet, vgg

MODELS = {
    "cnn": cnn.Options(),
    "lenet5": lenet.Options(),
    **alexnet.VARIANTS,
    **vgg.VARIANTS,
    **googlenet.VARIANTS,
    **resnet.VARIANTS,
    **densenet.VARIANTS,
    **mobilenet.VARIANTS,
    **efficientnet.VARIANTS,
    **convnext.VARIANTS,
}
# Networks with logits for each pixel: to inspect and to benchmark.
PER_PIXEL = dict(unet.VARIANTS)


def options(name: str):
    """A fresh copy of the options of the architecture of a name. Raises UserError for an unknown one."""
    return pick(MODELS | PER_PIXEL, "model", name)


def name_of(options) -> str:
    """The name of options: that in the table, or of a class of one's own.

    Raises:
      UserError: these are no options of a model.
    """
    return foreign.name_of(options, MODELS | PER_PIXEL, "model", ("build", "input_shape"), "cnnjax/models/__init__.py")


def least_size(model, channels: int = 3) -> int:
    """Pixels: the side of the smallest square picture that a network, given by name or options, takes.

    Nothing is computed, only shapes are followed. Raises UserError for an unknown name.
    """
    chosen = options(model) if isinstance(model, str) else model
    if hasattr(chosen, "fitting_sides"):  # not all larger ones fit, so that halving does not find it
        return chosen.fitting_sides(1)[0]
    return findings.least_size(chosen.build(2), (1, *chosen.input_shape[:-1], channels), train=True)
