"""The INT8 model once more for ONNX Runtime's integer kernels, packed only if it keeps what INT8 promises.

It must pass three questions, the cheap ones first: does rounding what the layers give add little to the noise of INT8;
does it answer the golden samples within the tolerance by which a device will check it; does it keep the accuracy
budget, and INT8's accuracy to a tenth of a point. Where it does not, the bundle is as good, and slower on a CPU.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_sdk.engines import golden, ort, variants
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.gating import Gate
from edge_sdk.host.graph import lowering
from edge_sdk.host.job import CpuForm, Int8, Judged
from edge_sdk.host.judge import gate
from edge_sdk.host.pack import report

NOISE_DB = 1.0
"""What it may lose of INT8's SQNR: 1 dB is a quarter of INT8's noise on top. Those with more have lost accuracy to it
in every model that was measured, so none of them is worth the evaluation data once more."""

MOST_LOST = 0.1
"""Points of the metric that it may lose against INT8; one sample where that is more."""

SAMPLES = 32
_MEASURED = 8


def with_cpu_form(gatekeeper: Gate, judged: Judged) -> Judged:
    """Gives `judged` with the form for the CPU, or with the reason why there is none; as it is without INT8."""
    if judged.int8 is None:
        return judged
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
        return judged._replace(cpu=_cpu_form(gatekeeper, judged, judged.int8, Path(folder)))


class _Form(NamedTuple):
    """A candidate: the rule of its scales, its file, what it measured on held-out samples."""

    rule: str
    file: Path
    sqnr_db: float


def _cpu_form(gatekeeper: Gate, judged: Judged, int8: Int8, folder: Path) -> CpuForm:
    """Gives the candidate with the least noise that passes; else the one with the least noise, and what it failed."""
    forms, int8_db = _forms(gatekeeper, int8, folder)
    failed: list[CpuForm] = []
    for form in sorted(forms, key=lambda one: -one.sqnr_db):
        found = _judged(gatekeeper, judged, form, int8_db)
        if found.content is not None:
            return found
        failed.append(found)
    none = CpuForm(None, report.CpuForm(is_packed=False, reason="no layer can use integer kernels"))
    return failed[0] if failed else none


def _forms(gatekeeper: Gate, int8: Int8, folder: Path) -> tuple[list[_Form], float]:
    """Gives the candidates, and INT8's own SQNR on the samples that theirs was measured on."""
    with gatekeeper.job.stages("lower"):
        feeds = int8.collected.held_feeds or _first(gatekeeper)
        unheld = [] if int8.collected.held_feeds else [(one, gatekeeper.run_float(one)) for one in feeds[:_MEASURED]]
        gatekeeper.rest()
        each = min(_MEASURED, len(feeds))
        most = len(feeds) + (len(lowering.RULES) + 1) * each
        steps = gatekeeper.job.stages.steps("lower", most)
        made = lowering.write_lowered(int8.content, steps.passing(feeds), folder)
        steps.reach(most - (len(made) + 1) * each)
        measured = unheld or int8.collected.references(_MEASURED)  # not before: prepared, they take room
        outputs = gatekeeper.graph.model.outputs

        def sqnr_of(model: str | bytes) -> float:
            run = steps.counted(ort.runner_from_model(model, is_frugal=True))
            return gate.worst_sqnr_db(run, measured, outputs)

        return [_Form(rule, file, sqnr_of(str(file))) for rule, file in made.items()], sqnr_of(int8.content)


def _first(gatekeeper: Gate) -> list[Tensors]:
    """Gives the first calibration samples, for where none were held out."""
    feeds: list[Tensors] = []
    for batch in gatekeeper.data.calibration.batches():
        feeds += [
            {name: values[row : row + 1] for name, values in batch.feeds.items()} for row in range(len(batch.digests))
        ]
        if len(feeds) >= SAMPLES:
            break
    return feeds[:SAMPLES]


def _judged(gatekeeper: Gate, judged: Judged, form: _Form, int8_db: float) -> CpuForm:
    figures = report.CpuForm(True, "", form.rule, form.sqnr_db, int8_db)
    if form.sqnr_db < int8_db - NOISE_DB:
        return _refused(
            figures, f"{form.sqnr_db:.1f} dB SQNR, where INT8 has {int8_db:.1f}: more than {NOISE_DB:g} lost"
        )
    content = form.file.read_bytes()
    if reason := _golden_fault(content, golden.golden_from_arrays(judged.golden)):
        return _refused(figures, reason)
    verdict = gatekeeper.judgement(content, stage="lower", is_integer=True).verdict
    figures = msgspec.structs.replace(figures, value=verdict.int8_score.value, drop=verdict.drop)
    if not verdict.passed:
        return _refused(figures, f"{verdict.drop:.2f} points lost against float, {verdict.max_drop:g} allowed")
    lost = round(verdict.drop - judged.judgement.verdict.drop, 9)
    if lost > _most_lost(judged):
        return _refused(figures, f"{lost:.2f} points lost against INT8, {MOST_LOST:g} allowed")
    return CpuForm(content, figures)


def _most_lost(judged: Judged) -> float:
    return max(MOST_LOST, 100 / judged.judgement.verdict.samples)


def _golden_fault(content: bytes, known: golden.Golden) -> str:
    run = ort.runner_from_model(content)
    answers = ((index, run(feeds)) for index, feeds in enumerate(known.feeds))
    words = (
        golden.excess(known, given, index, precision="int8", factor=variants.LOWERED_FACTOR) for index, given in answers
    )
    return next(filter(None, words), "")


def _refused(figures: report.CpuForm, reason: str) -> CpuForm:
    return CpuForm(None, msgspec.structs.replace(figures, is_packed=False, reason=reason))
