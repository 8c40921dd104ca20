"""Objects in a picture, such as nuclei: which pixels are one, and how well those of a prediction match the true ones.

Objects are numbered in an array of labels `[H, W]`: 0 is none, others need not be contiguous. All sums add up over pictures.
"""

import numpy as np
import scipy  # its parts load where they are first used

THRESHOLDS = tuple(round(0.5 + 0.05 * n, 2) for n in range(10))  # of intersection over union


def objects(foreground: np.ndarray, smallest: int = 0) -> np.ndarray:
    """Connected parts of `[H, W]` bool as labels 1, 2, ... `[H, W]` int32, without those of fewer pixels than `smallest`.

    Pixels that touch at a corner alone are of different objects: a border one pixel wide then parts what it runs between.
    """
    labels, count = scipy.ndimage.label(foreground, output=np.int32)
    if smallest > 1:
        sizes = np.zeros(count + 1, np.int64)
        for row in labels:  # row by row, here and below: a large picture is held once
            np.add.at(sizes, row, 1)
        kept = sizes >= smallest
        kept[0] = False
        numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
        for row in labels:
            row[:] = numbers[row]
    return labels


def counted(true: np.ndarray, predicted: np.ndarray, ignored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels `[H, W]`, true and predicted, without `ignored` pixels `[H, W]` bool: what is said of these counts for nothing.

    Predicted objects more than half of whose pixels are ignored are dropped, for nobody knows whether they are there.
    """
    if not ignored.any():
        return true, predicted
    numbers = np.unique(predicted, return_inverse=True)[1].reshape(predicted.shape)
    outside = np.bincount(numbers.ravel(), ~ignored.ravel())
    kept = 2 * outside >= np.bincount(numbers.ravel())
    return np.where(ignored, 0, true), np.where(ignored | ~kept[numbers], 0, predicted)


def contingency(true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(true label, predicted label, pixels they share) of every pair that shares any, `[n]` each; 0 is a label too."""
    true, predicted = (np.unique(labels, return_inverse=True) for labels in (true.ravel(), predicted.ravel()))
    width = len(predicted[0])
    pairs, counts = np.unique(true[1].ravel().astype(np.int64) * width + predicted[1].ravel(), return_counts=True)
    return true[0][pairs // width], predicted[0][pairs % width], counts


def overlaps(true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, int, int]:
    """(the largest intersection over union of each true object with a predicted one `[n]`, n, how many are predicted)."""
    a, b, shared = contingency(true, predicted)
    a_labels, a_numbers = np.unique(a, return_inverse=True)
    b_labels, b_numbers = np.unique(b, return_inverse=True)
    a_sizes, b_sizes = np.bincount(a_numbers, shared), np.bincount(b_numbers, shared)
    union = a_sizes[a_numbers] + b_sizes[b_numbers] - shared
    best = np.zeros(len(a_labels))
    both = (a > 0) & (b > 0)
    np.maximum.at(best, a_numbers[both], (shared / union)[both])
    return best[a_labels > 0], int((a_labels > 0).sum()), int((b_labels > 0).sum())


def object_sums(true: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """What `object_scores` needs of a picture, `[H, W]` labels each: sums that add up over pictures.

    `found`, `missed` and `invented` `[10]`: a true object is found at a threshold t if a predicted one has an intersection
    over union above t with it. From 1/2 on at most one has, and it has so with no other: the match is one to one.
    `bowl` is the picture's score in the 2018 Data Science Bowl: the mean over t of found / (found + missed + invented), 1
    where there is nothing and nothing was predicted (Caicedo et al. 2019, "Nucleus segmentation across imaging
    experiments: the 2018 Data Science Bowl").
    """
    best, truly, guessed = overlaps(true, predicted)
    found = (best[None, :] > np.array(THRESHOLDS)[:, None]).sum(1).astype(np.float64)
    missed, invented = truly - found, guessed - found
    total = found + missed + invented
    bowl = float(np.where(total > 0, found / np.maximum(total, 1), 1.0).mean())
    return dict(pictures=1.0, found=found, missed=missed, invented=invented, bowl=bowl)


def object_scores(sums: dict) -> dict[str, float]:
    """Over all pictures: precision, recall and F1 at an intersection over union of 1/2; `mean_average_precision` as in the
    2018 Data Science Bowl; and the foreground-restricted Rand score with its two parts, where `rand_sums` are there."""
    found, missed, invented = (float(np.asarray(sums[name])[0]) for name in ("found", "missed", "invented"))
    ratio = lambda a, b: a / b if b else 0.0
    scores = dict(
        precision=ratio(found, found + invented),
        recall=ratio(found, found + missed),
        f1=ratio(2 * found, 2 * found + missed + invented),
        mean_average_precision=ratio(float(sums["bowl"]), float(sums["pictures"])),
    )
    if "rand_both" in sums:
        both, true, predicted = (float(sums[f"rand_{name}"]) for name in ("both", "true", "predicted"))
        split, merge = ratio(both, true), ratio(both, predicted)
        scores |= dict(rand=ratio(2 * both, true + predicted), rand_split=split, rand_merge=merge)
    return scores


def rand_sums(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """What the foreground-restricted Rand score needs of a picture, sums that add up over pictures.

    Over the pixels that are of a true object, n of them, with p_ij the share that true object i and predicted object j
    have in common: sum p_ij^2, sum of the true objects' shares squared, and of the predicted ones'. The Rand F-score is
    2 sum p_ij^2 / (the other two), the split and merge scores its parts (Arganda-Carreras et al. 2015, "Crowdsourcing the
    creation of image segmentation algorithms for connectomics", eq. 3 to 5). Pixels that are predicted to be of none count
    as an object each: pooled in one they would seem merged. Pictures are pooled with as many pixels as each has.
    """
    inside = true > 0
    n = int(inside.sum())
    if not n:
        return dict(rand_both=0.0, rand_true=0.0, rand_predicted=0.0)
    a, b, shared = contingency(true[inside], predicted[inside])
    shared = shared.astype(np.float64)
    alone = b == 0
    squares = lambda labels, weights: float(
        np.square(np.bincount(np.unique(labels, return_inverse=True)[1], weights)).sum()
    )
    both = np.square(shared[~alone]).sum() + shared[alone].sum()
    guessed = squares(b[~alone], shared[~alone]) if (~alone).any() else 0.0
    return dict(
        rand_both=both / n, rand_true=squares(a, shared) / n, rand_predicted=(guessed + shared[alone].sum()) / n
    )
