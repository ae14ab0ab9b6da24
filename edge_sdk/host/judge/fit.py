"""Over- and underfitting, from the float model's score on its training data and on data that it never saw."""

from edge_sdk.records.bundle import Score

FAR_APART = 5.0
"""Points between training and test from which the model is called overfitted, if chance can't explain them."""

POOR = 0.7
"""A classifier that is surely below this on its own training data has not learnt it."""


def remark(train: Score, test: Score, *, metric: str, classes: int | None) -> str:
    """Gives a warning in plain words, or an empty text where both scores are well.

    >>> remark(Score(0.99, 0.98, 0.995), Score(0.8, 0.77, 0.82), metric="top-1", classes=10)[:11]
    'overfitting'
    """
    gap = 100 * (train.value - test.value)
    if gap >= FAR_APART and train.low > test.high:
        return (
            f"overfitting: {metric} is {train.value:.1%} on the training data and {test.value:.1%} on the evaluation "
            f"data, {gap:.1f} points apart; more data, augmentation or regularisation would gain more than any "
            "quantisation can lose"
        )
    chance = 1 / classes if classes else 0.0
    if train.high < max(POOR, 2 * chance):
        return (
            f"underfitting: {metric} is only {train.value:.1%} on the training data itself; train longer or take a "
            "larger model before thinking of INT8"
        )
    return ""
