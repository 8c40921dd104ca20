"""From a run directory to predictions on new pictures. Needs nothing but that directory."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax import evaluation, experiment, parallel, scenes
from cnnjax.config import Config, Data
from cnnjax.data import open_dataset, open_scenes, pictures
from cnnjax.data.source import Dataset, Scenes, Split
from cnnjax.errors import UserError
from cnnjax.experiment import Network
from cnnjax.run_directory import records
from cnnjax.run_directory.checkpoint import Checkpoints
from cnnjax.run_directory.records import DatasetRecord
from cnnjax.tiling import stitched

BATCH = 64  # pictures that go through the network at once


class Run(NamedTuple):
    """A trained network."""

    config: Config
    record: DatasetRecord
    network: Network
    variables: dict[str, Any]
    step: int


def load(workdir: str | Path, which: str = "tested") -> Run:
    """The network of a run directory, with the parameters of its 'best' or 'last' checkpoint.

    'tested' are those whose test score the run reports: as its `config.checkpoint.test` says.

    Raises:
      UserError: the folder holds no run, or no checkpoint.
    """
    workdir = Path(workdir)
    records.require_run(workdir)
    config = experiment.from_json(records.read_json(workdir / "config.json"))
    record = records.read_dataset(workdir)
    network = experiment.build_network(config, record)
    options = dict(best_metric=config.checkpoint.best_metric, read_only=True, log=partial(print, file=sys.stderr))
    with Checkpoints(workdir, **options) as checkpoints:
        step = checkpoints.chosen(config.checkpoint.test if which == "tested" else which)
        if step is None:
            raise UserError(f"{workdir} has no checkpoint yet: let `python run.py train` go on in it.")
        variables = evaluation.evaluated_variables(checkpoints.restore_model(step))
    return Run(config, record, network, variables, step)


def predictor(run: Run, kernels: str = "auto") -> Callable[[np.ndarray], np.ndarray]:
    """A function of images `[N, H, W, C]` as stored (uint8: 0..255) to probabilities `[N, K]`, compiled once.

    `kernels`, here and below, is as `config.kernels`.
    """
    network = run.network
    if run.config.task == "segmentation":
        raise UserError("This run gives a class to each pixel: take segmenter.")

    def outputs(variables, image):
        with jax.default_matmul_precision(run.config.matmul_precision):
            return network.task.predictions(evaluation.logits_of(network, variables, image))

    compiled = parallel.compile_eval_step(parallel.layout(devices=1, kernels=kernels), outputs)
    variables = jax.device_put(run.variables)

    def predict(images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.shape[1:] != run.record.image_shape:
            shape = "x".join(map(str, run.record.image_shape))
            raise UserError(f"This run takes images [N, {shape.replace('x', ', ')}], not {list(images.shape)}.")
        rows = []
        for start in range(0, len(images), BATCH):
            block = images[start : start + BATCH]
            filled = np.concatenate(
                [block, np.repeat(block[-1:], BATCH - len(block), axis=0)]
            )  # one shape: one compilation
            rows.append(np.asarray(compiled(variables, filled))[: len(block)])
        return np.concatenate(rows) if rows else np.zeros((0, len(run.record.class_names)), np.float32)

    return predict


def segmenter(
    run: Run, blend: bool | None = None, kernels: str = "auto"
) -> Callable[[np.ndarray], Iterator[tuple[int, np.ndarray]]]:
    """A function of a picture `[H, W, C]` of any size, as stored, to rows of probabilities (top, `[rows, W, K]`), in order.

    The picture goes through the network in tiles, whose seams leave no trace; device memory does not grow with it.

    Args:
      blend: average overlapping tiles; None: as `config.segmentation.seams` says.

    Raises:
      UserError: the run classifies, or a picture has other channels than those that it was trained on.
    """
    network, channels = run.network, run.record.image_shape[-1]
    if run.config.task != "segmentation":
        raise UserError("This run gives a class to a whole picture, not to its pixels: take predictor.")
    reach = scenes.reach_of(run.config, network)
    variables = jax.device_put(run.variables)

    def outputs(variables, image):
        with jax.default_matmul_precision(run.config.matmul_precision):
            return network.task.predictions(evaluation.logits_of(network, variables, image))

    compiled = parallel.compile_eval_step(parallel.layout(devices=1, kernels=kernels), outputs)
    blend = run.config.segmentation.seams == "blend" if blend is None else blend

    def segment(image: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[-1] != channels or 0 in image.shape:
            raise UserError(f"This run takes pictures [H, W, {channels}], not {list(image.shape)}.")
        tiling = scenes.tiling_of(run.config, reach, max(image.shape[:2]))
        return stitched(lambda tiles: compiled(variables, tiles), image, tiling, blend, reach.stride)

    return segment


def predict_files(run: Run, paths: Sequence[Path], kernels: str = "auto") -> Iterator[tuple[Path, np.ndarray | str]]:
    """For each picture file its probabilities `[K]`, or one line on why it cannot be read, in order."""
    predict = predictor(run, kernels)
    height, width, channels = run.record.image_shape
    if channels not in (1, 3) or run.record.dtype.startswith("float"):
        raise UserError(
            f"Picture files are grey or RGB; this run was trained on {channels} channels of {run.record.dtype}."
        )
    for start in range(0, len(paths), BATCH):
        block, results = paths[start : start + BATCH], []
        for path in block:
            try:
                size = (height, width)
                results.append(pictures.read_picture(path, channels=channels, size=size, resize=run.config.data.resize))
            except pictures.BadPicture as error:
                results.append(str(error))
        good = [image for image in results if not isinstance(image, str)]
        rows = iter(predict(np.stack(good)) if good else ())
        yield from ((path, image if isinstance(image, str) else next(rows)) for path, image in zip(block, results))


def dataset_for(run: Run, data: Data) -> Dataset:
    """A data set brought to the shape that a run was trained on; its labels must mean the same classes.

    Masks are read as the run's were, where nothing else is said of them.

    Raises:
      UserError: other classes, or another kind of pixels.
    """
    height, width, channels = run.record.image_shape
    shape = dict(channels=channels if channels in (1, 3) else 0, image_size=height if height == width else 0)
    data = dataclasses.replace(data, **shape)
    if run.config.task == "segmentation":
        same = all(getattr(data, name) == getattr(run.config.data, name) for name in ("mask_kind", "legend", "ignore"))
        dataset = open_scenes(data, run.record.mask_code if same else None)
    else:
        dataset = open_dataset(data)
    if dataset.class_names != run.record.class_names:
        raise UserError(
            f"{dataset.name} has other classes than the run: {_few(dataset.class_names)} instead of {_few(run.record.class_names)}."
        )
    if dataset.image_shape != run.record.image_shape:
        raise UserError(
            f"{dataset.name} has images {dataset.image_shape}, the run was trained on {run.record.image_shape}."
        )
    return dataset


def split_for(run: Run, dataset: Dataset, config: Config, name: str) -> Split:
    """The split of a name as the run had it (train is without what was cut off for validation), or of a tfds spec.

    Pictures with a class for every pixel come as tiles.
    """
    split = _split_for(run, dataset, config, name)
    if run.config.task != "segmentation":
        return split
    return scenes.tiles(config, scenes.reach_of(run.config, run.network), experiment.placed(split, dataset, config))


def _split_for(run: Run, dataset: Dataset, config: Config, name: str) -> Split | Scenes:
    if name == "test":
        return dataset.split(config.data.test or name)
    if name not in ("train", "validation") or dataset.name != run.record.name:
        return dataset.split(name)
    train, validation, _ = experiment.splits(dataset, config)
    split = train if name == "train" else validation
    if split is None:
        raise UserError("This run has no validation split.")
    return split


def _few(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")
