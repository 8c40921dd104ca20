"""The architectures, by the names that `--config.model=NAME` takes.

A new family is a file beside this and a line here. It holds `Options`, a dataclass of knobs with

    name                                   under which these options stand in the table
    build(num_classes, dtype, remat)       -> linen Module
    narrow()                               -> Options of a small form of the same make, for tests
    input_shape                            (H, W, C) as published

and the Module, which maps images `[B, *spatial, C]` to float32 logits `[B, num_classes]` as `model(x, train=...)`; in
training it may give a dict of `logits` and `auxiliary` logits instead.
"""

import copy

from cnnjax.errors import UserError
from cnnjax.knobs import nearest
from cnnjax.models import alexnet, cnn, convnext, densenet, efficientnet, googlenet, lenet, mobilenet, resnet, vgg

MODELS = {
    "cnn": cnn.Options(),
    "lenet5": lenet.Options(),
    "alexnet": alexnet.Options(),
    **vgg.VARIANTS,
    **googlenet.VARIANTS,
    **resnet.VARIANTS,
    **densenet.VARIANTS,
    **mobilenet.VARIANTS,
    **efficientnet.VARIANTS,
    **convnext.VARIANTS,
}


def options(name: str):
    """A fresh copy of the options of the architecture of a name. Raises UserError for an unknown one."""
    if name not in MODELS:
        hint = nearest(name, MODELS)
        raise UserError(f"There is no model {name!r}.{hint} The models are {', '.join(MODELS)}.")
    return copy.deepcopy(MODELS[name])


def name_of(model_options) -> str:
    """The name under which options of this type stand in the table."""
    named = getattr(model_options, "name", None)
    if named in MODELS and type(MODELS[named]) is type(model_options):
        return named
    for name, known in MODELS.items():
        if type(known) is type(model_options):
            return name
    raise UserError(f"config.model must hold the options of a model ({', '.join(MODELS)}), not {model_options!r}.")
