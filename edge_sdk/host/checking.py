"""What data says about model and preprocessing, apart from INT8: mistakes, over- and underfitting, NaN and infinity."""

from collections.abc import Iterator
from contextlib import contextmanager

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.host.calibrate import samples
from edge_sdk.host.gating import Gate
from edge_sdk.host.graph import finite
from edge_sdk.host.graph import model as models
from edge_sdk.host.job import Graph, Job, Opened, Scan
from edge_sdk.host.judge import fit, gate, pairs, preparation


def preparation_notes(job: Job, data: Opened, graph: Graph) -> tuple[str, ...]:
    """Gives a warning where a usual mistake in the preprocessing, undone, makes the float model score better.

    Raises:
        DataError: it makes it score far better.
    """
    outputs = graph.model.outputs
    if not data.evaluation.is_labelled or pairs.class_count(outputs) is None or ":" in job.metric:
        return ()
    with job.stages("check"):
        run = ort.runner_from_model(graph.model.content())
        batches = list(_labelled(data.evaluation.batches()))
        step = preparation.step_over([labels for _, labels in batches], data.evaluation.expected)
        if step > 1:
            batches = list(_labelled(data.evaluation.batches(), step))
        found = preparation.finding(run, outputs[0].name, batches, job.preprocess)
        return tuple(filter(None, [preparation.check_far(found)]))


@contextmanager
def naming_node(model: models.Model, data: samples.Data, *, is_inside: bool = False) -> Iterator[None]:
    """Adds to a ModelError from inside the node that makes the first NaN or infinity of `data`, where one does.

    `is_inside` where tensors on the way are looked at, and not the outputs alone.
    """
    try:
        yield
    except errors.ModelError as error:
        name = _first_not_finite(model, data, is_inside=is_inside)
        if not name:
            raise
        raise errors.ModelError(
            f"{error}. The first node that makes it of finite values is {name}: see what it divides by, takes the "
            "logarithm or root of, or lets grow too large"
        ) from error


def _first_not_finite(model: models.Model, data: samples.Data, *, is_inside: bool) -> str:
    try:
        find = finite.finder(model, is_inside=is_inside)
        for batch in data.batches():
            for row in range(len(batch.digests)):
                if name := find({key: values[row : row + 1] for key, values in batch.feeds.items()}):
                    return name
    except errors.EdgeError:
        return ""  # it can't be run with every tensor as an output; what was wrong is told anyway
    return ""


def fit_notes(gatekeeper: Gate, scan: Scan, judgement: gate.Judgement) -> tuple[str, ...]:
    """Gives what the float model's scores on evaluation data and, where that was given, on training data say.

    Raises:
        DataError: the training data has no labels that the metric can be scored on.
    """
    job, train = gatekeeper.job, gatekeeper.data.train
    classes = pairs.class_count(gatekeeper.graph.model.outputs)
    notes = []
    if classes is not None and judgement.verdict.metric == "top-1":
        notes.append(preparation.remark_on_guessing(judgement.verdict.float_score, classes))
    if train is None:
        return tuple(filter(None, notes))
    seen: set[str] = set()
    with job.stages("train"):
        found = gate.judged(
            gatekeeper.run_float,
            gatekeeper.run_float,
            _digested(train.batches(), seen),
            outputs=gatekeeper.graph.model.outputs,
            metric=gatekeeper.metric,
            max_drop=gatekeeper.max_drop,
            on_samples=job.stages.counter("train", train.expected),
        )
    if shared := len(seen & set(scan.digests)):
        notes.append(
            f"{shared} of {len(scan.digests)} evaluation samples are in the training data too: the accuracy is not "
            "that of unseen data"
        )
    scores = found.verdict.float_score, judgement.verdict.float_score
    notes.append(fit.remark(*scores, metric=judgement.verdict.metric, classes=classes))
    return tuple(filter(None, notes))


def check_train(train: samples.Data | None, evaluation: samples.Data) -> None:
    """Raises DataError unless training and evaluation data both have labels."""
    for data in (train, evaluation) if train is not None else ():
        if not data.is_labelled:
            raise errors.DataError(
                f"{data.name} has no labels; over- and underfitting are told by labels of both --train and --evaluate"
            )


def _labelled(batches: Iterator[samples.Batch], step: int = 1) -> Iterator[preparation.Labelled]:
    """Gives every `step`-th sample, until there are enough."""
    left = preparation.SAMPLES
    for batch in batches:
        assert batch.labels is not None
        rows = slice(-batch.first % step, None, step)
        labels = batch.labels[rows][:left]
        if len(labels):
            yield {name: values[rows][:left] for name, values in batch.feeds.items()}, labels
        left -= len(labels)
        if left <= 0:
            return


def _digested(batches: Iterator[samples.Batch], seen: set[str]) -> Iterator[gate.Evaluated]:
    for batch in batches:
        seen.update(batch.digests)
        yield batch.feeds, batch.labels
