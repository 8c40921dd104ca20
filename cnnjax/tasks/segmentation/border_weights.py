"""The weight map that teaches a U-Net to part objects that touch (Ronneberger, Fischer & Brox 2015, section 3, eq. 2)."""

import hashlib
from typing import NamedTuple

import numpy as np
import scipy  # its parts load where they are first used

from cnnjax.cache import cache_dir
from cnnjax.data import pipeline
from cnnjax.data.source import IGNORED, Batch, Scenes
from cnnjax.errors import UserError
from cnnjax.storage import written_whole

REACH = 4  # deviations: beyond, the weight is below exp(-8) of the largest, 0.03 %, and taken for 0
VERSION = 1  # of what is cached


def separated(instances: np.ndarray) -> np.ndarray:
    """Labels `[H, W]` -> mask `[H, W]` uint8, 1 in objects; where two touch, at a side or corner, the later one gives way.

    A pixel becomes background if a neighbour, of the eight, has a smaller label above 0: a line one pixel wide.
    """
    labels = instances.astype(np.int32)
    none = np.iinfo(np.int32).max
    lowest = scipy.ndimage.minimum_filter(np.where(labels > 0, labels, none), 3, mode="constant", cval=none)
    return ((labels > 0) & (lowest >= labels)).astype(np.uint8)


def border_weights(instances: np.ndarray, w0: float, sigma: float) -> np.ndarray:
    """`[H, W]` float32: w0 exp(-(d1 + d2)^2 / (2 sigma^2)) outside the `separated` objects, 0 in them.

    d1 and d2 are the distances in pixels to the nearest and second nearest object. Only objects within 4 sigma are seen.
    """
    mask = separated(instances)
    labels = np.where(mask, instances, 0)
    height, width = labels.shape
    far = REACH * sigma
    nearest, second = (np.full(labels.shape, np.inf, np.float32) for _ in range(2))
    reach = int(np.ceil(far)) + 1
    numbers = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)  # contiguous, 0 for none
    if labels.size and labels.min() > 0:
        numbers = numbers + 1
    for number, box in enumerate(scipy.ndimage.find_objects(numbers), 1):
        rows, columns = box
        area = (
            slice(max(0, rows.start - reach), min(height, rows.stop + reach)),
            slice(max(0, columns.start - reach), min(width, columns.stop + reach)),
        )
        distance = scipy.ndimage.distance_transform_edt(numbers[area] != number).astype(np.float32)
        distance[distance > far] = np.inf
        second[area] = np.minimum(second[area], np.maximum(nearest[area], distance))
        nearest[area] = np.minimum(nearest[area], distance)
    weights = w0 * np.exp(-np.square(nearest + second) / (2 * sigma**2))
    return np.where(mask, 0, weights).astype(np.float32)


def weighted(scenes: Scenes, w0: float, sigma: float) -> Scenes:
    """Scenes to train on: objects are parted, and `pixel_weight` `[H, W]` float32 is 1 and the border weights.

    Scenes in memory stay there. Scenes without objects stay as they are.
    """
    heavier = scenes._replace(read=_Weighted(scenes.read, w0, sigma))
    return pipeline.in_memory(heavier) if pipeline.is_held(scenes) else heavier


class _Weighted(NamedTuple):
    read: object
    w0: float
    sigma: float

    def __call__(self, index: int) -> Batch:
        scene = self.read(index)
        if "instances" not in scene:
            return scene
        instances = scene["instances"]
        mask = np.where(scene["mask"] == IGNORED, IGNORED, separated(instances)).astype(np.uint8)
        return scene | dict(mask=mask, pixel_weight=1 + cached_border_weights(instances, self.w0, self.sigma))


def cached_border_weights(instances: np.ndarray, w0: float, sigma: float) -> np.ndarray:
    """`border_weights` from the cache, where they were worked out before: kept in float16, so to 0.05 %."""
    what = f"{VERSION} {instances.shape} {instances.dtype} {sigma}".encode()
    name = hashlib.sha256(what + np.ascontiguousarray(instances).tobytes()).hexdigest()[:32]
    try:
        path = cache_dir("border_weights") / f"{name}.npz"
        with open(path, "rb") as file, np.load(file) as stored:
            weights = stored["weights"]
        if weights.shape == instances.shape:
            return w0 * weights.astype(np.float32)
    except Exception:  # there is none yet, or it is damaged, of which NumPy says in many ways
        pass
    weights = border_weights(instances, 1.0, sigma).astype(np.float16)
    try:
        path = cache_dir("border_weights") / f"{name}.npz"
        with written_whole(path) as file:  # another run may be reading it
            np.savez_compressed(file, weights=weights)
    except (UserError, OSError):
        pass  # it takes longer the next time, no more
    return w0 * weights.astype(np.float32)
