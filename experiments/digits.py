"""A small CNN on the embedded handwritten digits."""

from cnnjax import models
from cnnjax.config import Config


def get_config() -> Config:
    config = Config(model=models.options("cnn"))
    return config
