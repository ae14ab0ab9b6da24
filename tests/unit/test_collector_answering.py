"""Questions over HTTP and in Python: right figures, whatever is rolled up yet, and refusals that say what to do."""

import contextlib
import json
import math
import urllib.error
import urllib.request

import msgspec
import numpy as np
import pytest

from edge_sdk import errors
from edge_sdk.collector.answering import Answering
from edge_sdk.collector.settings import CollectorSettings
from edge_sdk.collector.store import opening
from edge_sdk.collector.store.asking import Scope
from edge_sdk.collector.store.query import Queries
from edge_sdk.collector.store.rows import SampleRow
from edge_sdk.numerics import histogram
from edge_sdk.records import telemetry
from edge_sdk.records.histograms import Histogram
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec, histograms

START_T = 1_750_000_020.0  # on a whole minute
BOOT = "00c0ffee"


def row(device, seq, *, values=(), site="plant", model="m", **readings):
    windows = ()
    if len(values):
        text = histograms.to_text(histogram.histogram_from_values(np.array(values)))
        windows = (
            telemetry.Window(
                model=model, digest="d", count=len(values), errors={"busy": 1}, throughput_hz=1.0, queue_depth_max=1,
                latency_p50_ms=1.0, latency_p99_ms=2.0, latency_hist=text, stage_ms={}, energy_j=2.0,
                energy_per_inference_j=None,
            ),
        )  # fmt: skip
    t = START_T + seq
    sample = telemetry.Sample(
        v=1, device=device, boot=BOOT, seq=seq, t=t, up_s=1.0, interval_s=1.0, models=windows, **readings
    )
    return SampleRow(device, site, BOOT, seq, t, t + 0.5, codec.to_bytes(sample).decode())


def changed(row, old, new):
    """Gives a row whose payload says `new` where it said `old`."""
    return row._replace(payload=row.payload.replace(old, new))


@pytest.fixture
def database(tmp_path):
    return str(tmp_path / "t.db")


@pytest.fixture
def store(database):
    with contextlib.closing(opening.open_store(database)) as store:
        yield store


@pytest.fixture
def ask(database, store):
    reader = opening.open_reader(database)
    yield Queries(reader, FakeClock(wall_s=START_T + 4000))
    reader.close()


@pytest.fixture
def url(database, store):
    clock = FakeClock(wall_s=START_T + 200)
    settings = CollectorSettings(database=database, web="127.0.0.1:0")
    answering = Answering(settings, lambda: {"stored": 7.0}, clock)
    yield answering.url
    answering.close()


def put(store, rows, *, rolled=0):
    with store.transaction():
        assert all(store.add_samples(rows))
    while rolled > 0:
        rolled -= store.roll_up(limit=rolled)


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize("rolled", [0, 100, 337, 600])
def test_fleet_quantiles_are_within_half_a_bucket_of_the_truth_however_much_is_rolled_up(store, ask, rolled):
    rng = np.random.default_rng(5)
    truth, rows = [], []
    for seq in range(200):
        for device in range(3):
            values = rng.lognormal(device, 0.5, 40) * (1 + 8 * (rng.random(40) < 0.01))
            truth.append(values)
            rows.append(row(f"cam-{device}", seq, values=values))
    put(store, rows, rolled=rolled)
    (answer,) = ask.quantiles([0.5, 0.99, 0.999], START_T, START_T + 200)
    ordered = np.sort(np.concatenate(truth))
    assert (answer.answers, answer.errors) == (len(ordered), 600)
    for share in (0.5, 0.99, 0.999):
        exact = ordered[math.ceil(share * len(ordered)) - 1]
        assert answer.latency_ms[f"{share:g}"] == pytest.approx(exact, rel=0.006)


def test_groups_are_those_asked_for_and_windows_are_whole_minutes(store, ask):
    rows = [
        row("cam-1", 0, values=[10.0]),
        row("cam-2", 1, values=[20.0], site="yard"),
        row("cam-1", 70, values=[40.0]),
    ]
    put(store, rows, rolled=2)
    by_device = ask.quantiles([0.5], START_T + 1, START_T + 59, by=["device"])
    assert [(one.group, one.answers, one.since_t, one.until_t) for one in by_device] == [
        ({"device": "cam-1"}, 1, START_T, START_T + 60),
        ({"device": "cam-2"}, 1, START_T, START_T + 60),
    ]
    by_site = ask.quantiles([1.0], START_T, START_T + 120, by=["site", "model"])
    assert [(one.group, one.answers) for one in by_site] == [
        ({"site": "plant", "model": "m"}, 2),
        ({"site": "yard", "model": "m"}, 1),
    ]
    assert ask.quantiles([0.5], START_T, START_T + 60, scope=Scope(site="yard"))[0].answers == 1
    assert ask.quantiles([0.5], START_T, START_T + 60, model="other") == []


def test_histograms_of_another_scale_are_added_up_in_the_coarser_one(store, ask):
    fine = row("cam-1", 0, values=[8.0] * 10)
    coarse_text = histograms.to_text(histogram.histogram_from_values(np.full(10, 8.0), scale=3))
    fine_text = histograms.to_text(histogram.histogram_from_values(np.full(10, 8.0)))
    coarse = row("cam-2", 0, values=[8.0] * 10)
    put(store, [fine, changed(coarse, fine_text, coarse_text)], rolled=1)
    (answer,) = ask.quantiles([0.01, 1.0], START_T, START_T + 60)
    assert answer.answers == 20
    assert list(answer.latency_ms.values()) == [pytest.approx(8.0, rel=0.05)] * 2


@pytest.mark.parametrize("rolled", [0, 61, 90])
def test_a_series_has_every_point_once_in_order(store, ask, rolled):
    put(store, [row("cam-1", seq, power_w=5.0 + seq) for seq in reversed(range(90))], rolled=rolled)
    (series,) = ask.series("power_w", START_T + 1, START_T + 89)
    assert series.t == [START_T + seq for seq in range(1, 89)]
    assert series.value == [5.0 + seq for seq in range(1, 89)]
    (minutes,) = ask.series("power_w", START_T, START_T + 120, step_s=60)
    assert (minutes.value, minutes.least, minutes.most) == ([34.5, 79.5], [5.0, 65.0], [64.0, 94.0])
    (hours,) = ask.series("power_w", START_T - 3600, START_T + 3600, step_s=3600)
    assert (hours.value, hours.least, hours.most) == ([49.5], [5.0], [94.0])


def test_a_sensor_without_a_value_leaves_no_point(store, ask):
    put(store, [row("cam-1", 0, power_w=None), row("cam-1", 1, throttled=True)], rolled=2)
    assert ask.series("power_w", START_T, START_T + 60)[0].t == []
    assert ask.series("throttled", START_T, START_T + 60)[0].value == [1.0]


def test_energy_adds_up_and_says_for_how_long_it_was_known(store, ask):
    rows = [row("cam-1", seq, energy_j=6.0 if seq % 2 else None, values=[1.0]) for seq in range(10)]
    put(store, [*rows, row("cam-2", 3, energy_j=1.5, site="yard")], rolled=4)
    assert [(one.group, one.energy_j, one.covered_s) for one in ask.energy(START_T, START_T + 60, by=["site"])] == [
        ({"site": "plant"}, 30.0, 5.0),
        ({"site": "yard"}, 1.5, 1.0),
    ]
    (model,) = ask.energy(START_T, START_T + 60, by=["model"])
    assert (model.group, model.energy_j, model.answers) == ({"model": "m"}, 20.0, 10)


def test_gaps_name_what_is_missing_and_whether_it_is_lost(store, ask):
    put(store, [row("cam-1", seq) for seq in (2, 3, 7, 8)])
    with store.transaction():
        store.set_marks({("cam-1", BOOT): (3, 2)})
    found = [(gap.after_seq, gap.before_seq, gap.missing, gap.is_lost) for gap in ask.gaps()]
    assert found == [(-1, 2, 2, True), (3, 7, 3, False)]


def test_latest_is_the_newest_by_its_own_time_of_each_device(store, ask):
    put(store, [row("cam-2", 5, power_w=7.0), row("cam-1", 9), row("cam-1", 4)])
    found = {one.device: msgspec.json.decode(one.sample) for one in ask.latest()}
    assert {name: sample["seq"] for name, sample in found.items()} == {"cam-1": 9, "cam-2": 5}
    assert [one.device for one in ask.latest(Scope(("cam-2", "cam-3")))] == ["cam-2"]


def test_a_clock_that_was_ahead_once_does_not_hide_what_comes_later(store, ask):
    ahead = row("cam-1", 0)
    put(
        store,
        [ahead._replace(t=3e10, payload=ahead.payload.replace(f'"t":{START_T}', '"t":3e10')), row("cam-1", 1)],
    )
    assert [msgspec.json.decode(one.sample)["seq"] for one in ask.latest()] == [1]


@pytest.mark.parametrize("rolled", [0, 2])
def test_a_device_that_claims_the_impossible_leaves_the_others_their_figures(store, ask, rolled):
    liar, honest = row("cam-0", 0, values=[1.0]), row("cam-1", 0, values=[10.0] * 50, power_w=6.0)
    text = histograms.to_text(histogram.histogram_from_values(np.array([1.0])))
    huge = histograms.to_text(Histogram(6, 2**64 - 1, 2**62, (2**64 - 1, 2**63)))
    coarse = histograms.to_text(Histogram(-20, 0, 0, (5,)))
    lies = changed(liar, text, huge).payload.replace('"count":1', f'"count":{2**63 - 1}').replace("null", "1e308")
    again = row("cam-0", 1, values=[1.0])
    put(
        store,
        [liar._replace(payload=lies), changed(again, text, coarse), honest],
        rolled=rolled,
    )
    window = START_T, START_T + 60
    by_device = {one.group["device"]: one.latency_ms["0.5"] for one in ask.quantiles([0.5], *window, by=["device"])}
    assert by_device["cam-1"] == pytest.approx(10.0, rel=0.006)
    assert len(ask.quantiles([0.0, 1.0], *window)) == 1
    assert ask.series("power_w", *window)[1].value == [6.0]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (lambda ask: ask.series("powr_w", 0, 1), "no series of 'powr_w'"),
        (lambda ask: ask.series("power_w", 5, 5), "window .* is empty"),
        (lambda ask: ask.quantiles([2.0], 0, 1), "between 0 and 1"),
        (lambda ask: ask.quantiles([0.5], 0, 1, by=["boot"]), "cannot group by 'boot'"),
    ],
)
def test_a_wrong_question_is_refused_in_words(ask, question, message):
    with pytest.raises(errors.UsageError, match=message):
        question(ask)


def test_over_http_the_same_answers_come_as_json(store, url):
    put(store, [row("cam-1", seq, values=[10.0], power_w=6.0, energy_j=6.0) for seq in range(100)], rolled=60)
    (latest,) = get(f"{url}/v1/latest?device=cam-1")
    assert (latest["site"], latest["sample"]["seq"], latest["sample"]["power_w"]) == ("plant", 99, 6.0)
    window = f"since={START_T}&until={START_T + 100}"
    (found,) = get(f"{url}/v1/quantiles?q=0.5,0.999&by=device&{window}")
    assert (found["group"], found["answers"]) == ({"device": "cam-1"}, 100)
    assert found["latency_ms"]["0.999"] == pytest.approx(10.0, rel=0.006)
    assert len(get(f"{url}/v1/series?metric=power_w&{window}")[0]["t"]) == 100
    assert get(f"{url}/v1/energy?{window}")[0]["energy_j"] == 600.0
    assert get(f"{url}/v1/gaps") == []


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        ("/v1/series", 400, "'metric' is missing"),
        ("/v1/series?metric=power_w&since=yesterday", 400, "since must be a number"),
        ("/v1/series?metric=power_w&until=nan", 400, "until must be a number"),
        ("/v1/latest?devise=cam-1", 400, "did you mean 'device'"),
        ("/v1/latest?" + "&".join(["site=a"] * 40), 400, "name=value"),
        ("/v2/latest", 404, "/v1/latest"),
    ],
)
def test_over_http_a_wrong_question_is_refused_in_words(url, target, status, message):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url + target, timeout=10)
    with refused.value as answer:
        assert answer.code == status
        assert message in json.loads(answer.read())["error"]


def test_a_page_in_a_browser_cannot_read_it_by_a_name_of_its_own(url):
    request = urllib.request.Request(f"{url}/v1/latest", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    with refused.value as answer:
        assert answer.code == 421
    control = urllib.request.Request(f"{url}/v1/latest", headers={"Host": "localhost:8780"})
    with urllib.request.urlopen(control, timeout=10) as answer:
        assert answer.status == 200


def test_the_openapi_document_names_every_path_and_type(url):
    document = get(f"{url}/openapi.json")
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {"/v1/latest", "/v1/series", "/v1/quantiles", "/v1/energy", "/v1/gaps"}
    text = json.dumps(document)
    for name in ("Latest", "Series", "Quantiles", "Energy", "Gap"):
        assert f"#/components/schemas/{name}" in text
        assert document["components"]["schemas"][name]["properties"]


def test_the_metrics_page_shows_present_devices_and_only_the_age_of_silent_ones(store, url):
    old = row("cam-0", 0, power_w=9.0)
    put(store, [old._replace(received_t=START_T - 400), row("cam-1", 150, power_w=6.5, values=[1.0])])
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        lines = answer.read().decode().splitlines()
    assert 'edge_power_watts{device="cam-1",site="plant"} 6.5' in lines
    assert 'edge_sample_age_seconds{device="cam-0",site="plant"} 600.000' in lines
    assert 'edge_model_latency_p99_seconds{device="cam-1",site="plant",model="m"} 0.002' in lines
    assert "edge_collector_stored 7" in lines
    assert not [line for line in lines if line.startswith("edge_power") and "cam-0" in line]


def test_the_same_port_twice_is_refused(database, store, url):
    taken = url.rpartition(":")[2]
    with pytest.raises(errors.UsageError, match=f"port {taken}"):
        Answering(CollectorSettings(database=database, web=f"127.0.0.1:{taken}"), dict, FakeClock())


def test_a_port_that_is_taken_gives_the_database_back(database, store, url, monkeypatch):
    closed, real = [], opening.open_reader

    def open_reader(name):
        reader = real(name)
        monkeypatch.setattr(reader, "close", lambda: closed.append(name))
        return reader

    monkeypatch.setattr(opening, "open_reader", open_reader)
    with pytest.raises(errors.UsageError, match="choose another"):
        Answering(CollectorSettings(database=database, web=url.removeprefix("http://")), dict, FakeClock())
    assert closed == [database]


def test_a_window_of_hours_begun_and_ended_in_their_middle_counts_each_sample_once(store, ask):
    rng = np.random.default_rng(5)
    values = {seq: rng.lognormal(1, 0.4, 5) for seq in range(0, 3 * 3600, 20)}
    put(store, [row("cam-1", seq, values=one) for seq, one in values.items()], rolled=len(values))
    since, until = 2400, 9000
    (answer,) = ask.quantiles([0.5, 0.99], START_T + since, START_T + until, by=["device"])
    expected = np.sort(np.concatenate([one for seq, one in values.items() if since <= seq < until]))
    assert (answer.answers, answer.errors) == (len(expected), len(expected) // 5)
    for share in (0.5, 0.99):
        exact = expected[math.ceil(share * len(expected)) - 1]
        assert answer.latency_ms[f"{share:g}"] == pytest.approx(exact, rel=0.0055)


def test_what_is_not_rolled_up_is_found_without_a_look_at_what_is(database, store, ask):
    put(store, [row("cam-1", seq, values=[5.0]) for seq in range(3000)], rolled=2999)
    steps = []
    with ask._reader.snapshot() as snapshot:
        snapshot._db.set_progress_handler(lambda: steps.append(1) and None, 10)
        span = ask._span(START_T, START_T + 3000)
        tail = ask._tail(snapshot, Scope(), span)
    assert tail.devices == ["cam-1"]
    assert len(steps) < 100  # thousands, were every row looked at


def test_a_roll_up_costs_no_more_where_much_is_rolled_up_already(store):
    def steps_of(*devices, seq):
        put(store, [row(device, seq, values=[5.0]) for device in devices])
        steps = []
        store._db.set_progress_handler(lambda: steps.append(1) and None, 10)
        assert store.roll_up(limit=100) == len(devices)
        store._db.set_progress_handler(None, 0)
        return len(steps)

    few = steps_of("cam-1", "cam-2", seq=0)
    put(store, [row(f"dev-{number}", 0, values=[5.0]) for number in range(2000)], rolled=2000)
    assert steps_of("cam-1", "cam-2", seq=1) < 2 * few  # dozens of times as many, were every chunk looked at


def test_a_minute_that_comes_in_parts_and_out_of_order_is_one_series(store, ask):
    parts = [range(0, 60, 7), range(1, 60, 3), [40, 2], range(60)]
    seen: set[int] = set()
    for part in parts:
        new = [seq for seq in part if seq not in seen]
        seen.update(new)
        put(store, [row("cam-1", seq, power_w=float(seq)) for seq in new], rolled=len(new))
        (series,) = ask.series("power_w", START_T, START_T + 60)
        assert series.value == sorted(map(float, seen))
    put(store, [row("cam-1", seq, fan_ratio=0.5) for seq in range(60, 63)], rolled=3)
    put(store, [row("cam-1", 63, power_w=1.0)], rolled=1)
    (fan,) = ask.series("fan_ratio", START_T + 60, START_T + 120)
    assert fan.value == [0.5] * 3
