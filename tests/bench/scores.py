"""How near a quantised model's answers are to the float model's: figures from two lists of outputs, one per sample.

Every figure is a share or a level in dB of which more is better.
"""

import math

import numpy as np

STRIDES = (8, 16, 32)
SIDE = 416
SCORE, OVERLAP, SAME = 0.3, 0.45, 0.5
"""A detection counts above this score; NMS drops above this overlap; two boxes are the same above this overlap."""


def sqnr_db(wanted, given):
    """Power of the float outputs over power of the difference, all samples together."""
    signal = sum(float(np.square(one, dtype=np.float64).sum()) for one in wanted)
    noise = sum(float(np.square(one.astype(np.float64) - two).sum()) for one, two in zip(wanted, given, strict=True))
    return 10 * math.log10(signal / noise) if noise and math.isfinite(noise) else (200.0 if noise == 0 else -200.0)


def classes(wanted, given, labels):
    float_answers, answers = (np.array([int(one.argmax()) for one in outputs]) for outputs in (wanted, given))
    return {
        "SQNR": sqnr_db(wanted, given),
        "agreement": float((float_answers == answers).mean()),
        "top-1": float((answers == labels).mean()),
    }


def texts(wanted, given, _labels=None):
    same = [_text(one) == _text(two) for one, two in zip(wanted, given, strict=True)]
    steps = np.concatenate([(one.argmax(-1) == two.argmax(-1)).ravel() for one, two in zip(wanted, given, strict=True)])
    return {"SQNR": sqnr_db(wanted, given), "agreement": float(steps.mean()), "lines read alike": float(np.mean(same))}


def _text(output):
    """Greedy CTC: the best symbol of each step, repeats and the blank (0) dropped."""
    symbols = output.reshape(-1, output.shape[-1]).argmax(-1)
    return [int(s) for i, s in enumerate(symbols) if s and (i == 0 or s != symbols[i - 1])]


def boxes(wanted, given, _labels=None):
    """Detections of the float model that are found again, and those of the INT8 model that the float model has too."""
    pairs = [(detections(one[0]), detections(two[0])) for one, two in zip(wanted, given, strict=True)]
    float_total, total = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    same = sum(_matches(one, two) for one, two in pairs)
    return {
        "SQNR": sqnr_db(wanted, given),
        "agreement": same / total if total else 0.0,
        "detections kept": same / float_total,
    }


def detections(output):
    """Boxes float[n, 4] (left, top, right, bottom) of one image, best first, after NMS; YOLOX's grid decoded."""
    score = output[:, 4] * output[:, 5]
    picked = score > SCORE
    grid, stride = _grid()
    centers = (output[picked, :2] + grid[picked]) * stride[picked]
    sizes = np.exp(np.minimum(output[picked, 2:4], 10.0)) * stride[picked]
    found = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1)
    return _without_overlaps(found[np.argsort(-score[picked], kind="stable")])


def _grid():
    cells = []
    for stride in STRIDES:
        side = SIDE // stride
        y, x = np.divmod(np.arange(side * side), side)
        cells.append(np.stack([x, y, np.full(side * side, stride)], axis=1))
    every = np.concatenate(cells).astype(np.float64)
    return every[:, :2], every[:, 2:]


def _without_overlaps(found):
    kept = []
    while len(found):
        kept.append(found[0])
        found = found[1:][overlaps(found[0], found[1:]) <= OVERLAP]
    return np.array(kept).reshape(-1, 4)


def overlaps(one, others):
    """Intersection over union of a box with others."""
    low, high = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    return shared / (np.prod(one[2:] - one[:2]) + areas - shared)


def _matches(wanted, given):
    """How many boxes of `wanted` have one of their own in `given`."""
    free, count = np.ones(len(given), bool), 0
    for box in wanted:
        near = np.where(free, overlaps(box, given), 0.0) if len(given) else np.zeros(0)
        if near.size and near.max() > SAME:
            free[int(near.argmax())] = False
            count += 1
    return count
