"""One Sample from each board, as it was looked at once; the boards' layouts were written from documentation.

``python tests/unit/test_sense_golden.py`` writes the files anew; look at the difference before it is committed.
"""

import json
import tempfile
from pathlib import Path

import pytest

from edge_sdk import errors
from edge_sdk.device import reports
from edge_sdk.device.sense import board, boards, machine, together
from edge_sdk.engines import modules, passport
from edge_sdk.records import metrics, telemetry
from edge_sdk.testing.board import BOARDS, FakeBoard, tree_of
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec

GOLDEN = Path(__file__).parents[1] / "golden" / "samples"
WHO = reports.Identity("plant", "cam-7", "0123456789abcdef")


def sample_of(name, root):
    """One Sample after a second in which nothing changed but the processor's counters."""
    fake, clock = FakeBoard(root), FakeClock()
    fake.become(name)
    sensors = together.Sensors(board.sensors_of(root, clocks=clock, state_folder=root))
    sensors.collect()
    clock.advance(1.0)
    fake.set_cpu(busy_ticks=37, idle_ticks=163)
    moment = reports.Moment(seq=3, wall_s=1.75e9, boot_s=101.0, interval_s=1.0, oldest_seq=0, dropped=0)
    return reports.sample(WHO, moment, sensors.collect(), [])


def document_of(name, root):
    document = json.loads(codec.to_bytes(sample_of(name, root)).decode().replace(str(root), ""))
    return document | {"disk_used_ratio": "of this machine", "process_memory_bytes": "of this machine"}


@pytest.mark.parametrize("name", BOARDS)
def test_the_sample_of_a_board_is_as_it_was_looked_at(name, tmp_path):
    assert document_of(name, tmp_path) == json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.mark.parametrize("name", BOARDS)
def test_every_gap_of_a_boards_sample_is_explained_and_it_says_that_it_is_simulated(name, tmp_path):
    sample = sample_of(name, tmp_path)
    assert sample.simulated
    for metric in metrics.NAMES:
        assert (getattr(sample, metric) is None) == (metric in sample.missing), metric
    assert codec.from_bytes(codec.to_bytes(sample), telemetry.Sample) == sample


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_is_known_and_its_power_is_its_total_rail_alone(name, tmp_path):
    sample = sample_of(name, tmp_path)
    row = boards.read_board(tmp_path)
    assert row is not None
    labels = {rail.label: rail.role for rail in row.rails}
    assert set(sample.rails_w) <= set(labels)
    totals = [label for label in sample.rails_w if labels[label] == boards.TOTAL]
    assert sample.power_w == (sample.rails_w[totals[0]] if totals else None)
    assert sample.power_boundary == (row.boundary or None)


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_says_how_it_came_about(name):
    tree = tree_of(name)
    assert tree.what == "written from documentation, not recorded on a board"
    assert all(len(source) > 10 for source in tree.sources)


def test_a_board_that_is_not_there_is_refused_by_the_nearest_name():
    with pytest.raises(errors.UsageError, match="did you mean 'agx_orin'"):
        tree_of("agx_orion")


def test_a_board_without_the_mark_is_not_called_simulated(tmp_path):
    fake = FakeBoard(tmp_path)
    fake.remove(machine.SIMULATED)
    clock = FakeClock()
    sensors = together.Sensors(board.sensors_of(tmp_path, clocks=clock, state_folder=tmp_path))
    moment = reports.Moment(seq=0, wall_s=1.75e9, boot_s=1.0, interval_s=1.0, oldest_seq=0, dropped=0)
    assert not reports.sample(WHO, moment, sensors.collect(), []).simulated


@pytest.mark.parametrize("row", [*boards.BOARDS, *(rail for one in boards.BOARDS for rail in one.rails)])
def test_every_fact_about_a_board_has_a_source(row):
    assert len(row.source) > 10


@pytest.mark.parametrize("row", [*modules.MODULES, *modules.RELEASES])
def test_every_fact_about_a_module_has_a_source(row):
    assert len(row.source) > 10


@pytest.mark.parametrize("row", boards.BOARDS, ids=lambda row: row.part)
def test_a_board_has_one_total_with_a_boundary_or_neither(row):
    totals = [rail for rail in row.rails if rail.role == boards.TOTAL]
    assert len(totals) == (1 if row.boundary else 0)
    assert {rail.role for rail in row.rails} <= {boards.TOTAL, boards.CHILD, boards.NONE}
    assert len({rail.label for rail in row.rails}) == len(row.rails)
    assert modules.find_module(row.part) or row.part == "p3767"


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit", "p3701"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "p3767"),
        ("NVIDIA Orin Nano Developer Kit", "p3767"),
        ("NVIDIA Jetson Xavier NX Developer Kit", "p3668"),
        ("Jetson-AGX", "p2888"),
        ("NVIDIA Jetson Nano Developer Kit", "p3448"),
        ("quill", "p3310"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "p3834"),
    ],
)
def test_a_board_without_a_p_number_is_known_by_its_model(model, part):
    assert boards.find_board(None, model).part == part


def test_an_unknown_module_is_not_taken_for_another_by_its_carriers_name(tmp_path):
    fake = FakeBoard(tmp_path)
    fake.write("proc/device-tree/compatible", "vendor,p9999-0000\0nvidia,tegra999\0")
    fake.write("proc/device-tree/model", "Carrier for Jetson Orin NX")
    assert passport.read_part_number(tmp_path) == "p9999-0000"
    assert boards.read_board(tmp_path) is None


@pytest.mark.parametrize(
    ("label", "part", "boundary"),
    [
        ("VDD_IN", None, "module"),
        ("VIN", None, "module+carrier"),
        ("VIN", "p3701", ""),  # a carrier of another maker may have a rail of that name
        ("VIN_SYS_5V0", None, ""),
        ("VIN_SYS_5V0", "p3701", ""),
        ("GPU", "p2888", ""),
        ("unheard_of", None, ""),
    ],
)
def test_only_a_rail_that_is_known_as_the_total_gives_a_boundary(label, part, boundary):
    assert boards.boundary_of(label, boards.find_board(part, "")) == boundary


def write_all():
    for name in BOARDS:
        with tempfile.TemporaryDirectory() as folder:
            text = json.dumps(document_of(name, Path(folder)), indent=1)
            (GOLDEN / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    write_all()
