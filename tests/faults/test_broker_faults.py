"""B1 to B5 and C1 to C5: brokers and collectors that die, overflow, refuse, are taken over, put back or poisoned."""

import contextlib
import json
import pathlib
import queue
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import controls
import link_rig
import msgspec
import pytest
from link_rig import CollectorProcess, PubackDevice, SessionEar, until
from power import Tmpfs

from edge_sdk import errors
from edge_sdk.link import mending, mqtt, reading, window
from edge_sdk.link.mqtt import MqttLink, MqttSettings
from edge_sdk.records import telemetry
from edge_sdk.wire import codec

pytestmark = pytest.mark.skipif(link_rig.MOSQUITTO is None, reason=link_rig.NO_MOSQUITTO)
GOLDEN = link_rig.ROOT / "tests/golden/messages"


def killed_broker_rounds(rig):
    """Collector away, messages with the broker, broker killed; five times. Gives the device at the end."""
    first = rig.open(persistence=True).collect()
    until(lambda: first.snapshot().is_running, "the collector")
    first.close()
    device = rig.device()
    assert device.link.wait_for_connected(link_rig.WAIT_S)
    for _ in range(5):
        device.make(200)
        until(lambda: device.link.snapshot().published >= 200, "the broker's acknowledgements")
        time.sleep(0.3)
        rig.broker.kill()
        rig.broker.start()
        assert until(lambda: device.link.snapshot().is_connected, "the device to be back")
    rig.collect()
    time.sleep(1.0)
    return device


@pytest.mark.fault("B1")
def test_the_broker_is_killed_with_messages_in_it(fault, rig):
    ours = killed_broker_rounds(rig)
    rig.wait_until_drained(ours)
    assert rig.verdict(ours) == (0, 0)
    lost, made = lost_by_control(rig.beside("control"), count=200, kills=5, persistence=True)
    assert lost > 0, "the control must lose"
    fault(
        what="broker killed with -9 while the collector is away, five times",
        injected=f"5 kills, {ours.made} records, persistence on as installed",
        bar="0 lost, 0 stored twice",
        measured="0 lost, 0 twice",
        control=f"delete on the broker's acknowledgement, with a session kept at the broker: {lost} of {made} lost",
    )


@pytest.mark.fault("B2")
def test_the_brokers_queue_overflows(fault, rig):
    rig.open()  # as installed: 1,000 messages for one who is away
    rig.collect().close()
    ours = rig.device()
    ours.make(5000)
    until(lambda: ours.link.snapshot().published >= 5000, "the broker to acknowledge")
    rig.collect()
    rig.wait_until_drained(ours)
    assert rig.verdict(ours) == (0, 0)
    lost, made = lost_by_control(rig.beside("control"), count=5000, kills=0)
    assert lost > 0, "the control must lose"
    fault(
        what="5,000 messages for a collector that is away, where the broker keeps 1,000",
        injected="5,000 records, mosquitto as installed",
        bar="0 lost, 0 stored twice",
        measured="0 lost, 0 twice",
        control=f"delete on the broker's acknowledgement, with a session kept at the broker: {lost} of {made} lost",
    )


def lost_by_control(rig, *, count, kills, **options):
    """The same with a device that deletes on the broker's acknowledgement; gives (lost, made)."""
    broker = rig.open(**options).broker
    ear = SessionEar(broker.url)
    rig.closing.callback(ear.leave)
    ear.come()
    ear.leave()
    device = rig.device(PubackDevice)
    assert device.link.wait_for_connected(link_rig.WAIT_S)
    for _ in range(max(1, kills)):
        device.make(count)
        until(lambda: device.held == 0, "the broker to acknowledge")
        if kills:
            broker.kill()
            broker.start()
            until(lambda: device.link.snapshot().is_connected, "the device to be back")
    ear.come()
    heard = -1
    while heard != len(ear.seqs):
        heard = len(ear.seqs)
        time.sleep(1.0)
    return device.made - len(ear.seqs), device.made


@pytest.mark.fault("B3")
def test_the_broker_does_not_let_us_publish(fault, rig, tmp_path, caplog):
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    acl.chmod(0o644)
    tmp_path.chmod(0o755)
    broker = rig.open(f"acl_file {acl}", "user root").broker
    ours = rig.device(resend_s=5.0)
    ours.make(30)
    until(lambda: ours.link.snapshot().refused >= 30, "the refusals")
    state = ours.link.snapshot()
    told = [record for record in caplog.records if "Not authorized" in record.message]
    assert "Not authorized" in state.last_error
    assert (state.published, ours.held, len(told)) == (0, 30, 1)
    heard = rig.hear("#")
    believed = controls.publish_by_mqtt_3(broker.port, f"{link_rig.UP}/telemetry", [b"x"] * 30)
    time.sleep(0.5)
    assert (believed, heard.qsize()) == (30, 0)
    acl.write_text("topic readwrite #\n")
    broker.kill()
    broker.start()
    rig.collect()
    rig.wait_until_drained(ours)
    assert rig.verdict(ours) == (0, 0)
    fault(
        what="an access list that denies us by mistake",
        injected="30 records without the right to publish, then with it",
        bar="reason seen, record kept, one alert, not counted as delivered",
        measured=f"{state.refused} refused (Not authorized), 30 held, 0 counted as published, 1 warning; 0 lost after",
        control=f"the same over MQTT 3.1.1: {believed} of 30 acknowledged as taken, 0 arrived",
    )


@pytest.mark.fault("B4")
@pytest.mark.parametrize("line", ["message_size_limit 2000", "max_packet_size 2000"])
def test_the_broker_refuses_the_size(fault, rig, line, monkeypatch):
    rig.open(line)
    arrived, refused, state = small_and_large(rig, MqttLink, link_rig.WAIT_S)
    assert arrived == 20
    assert refused + state.refused >= 2
    assert state.connects <= 4
    if line.startswith("max_packet_size"):
        monkeypatch.setattr(window, "ATTEMPTS_MAX", 10**9)
        few, _, worse = small_and_large(rig, controls.StubbornLink, 3.0)
        assert few < 20
        assert worse.connects >= 5
        control = (
            f"sent again on every connection, neither measured, dropped nor given up: {worse.connects} connects in 3 s, "
            f"{few} of 20 small ones arrived"
        )
    else:
        monkeypatch.setattr(reading, "refusal", lambda _reason: "")
        _, _, worse = small_and_large(rig, MqttLink, link_rig.WAIT_S)
        assert worse.published == 22
        control = f"every answer of the broker taken for success: {worse.published} counted as delivered, 20 arrived"
    fault(
        part=line.split()[0],
        what="messages that are larger than the broker takes, between others",
        injected=f"2 of 5,000 bytes among 20 small ones, {line}",
        bar="the large ones refused, the others not held up",
        measured=f"20 of 20 small ones arrived; {refused} refused before sending, {state.connects} connects",
        control=control,
    )


def small_and_large(rig, kind, wait_s):
    """Sends 20 small messages and 2 large ones; gives how many small ones arrived, and what the link refused."""
    heard = rig.hear("t/#")
    link = rig.link(kind, client_id=f"sender-{kind.__name__}", reconnect_cap_s=0.1)
    arrived, refused, deadline = set(), 0, time.monotonic() + wait_s
    waiting = [b"%d" % number for number in range(20)]
    waiting[11:11] = waiting[6:6] = [b"x" * 5000]
    while len(arrived) < 20 and time.monotonic() < deadline:
        try:
            if waiting:
                link.publish("t/x", waiting[0])
                del waiting[0]
        except errors.OversizeError:
            refused += 1
            del waiting[0]
        except errors.LinkError:
            time.sleep(0.02)
        with contextlib.suppress(queue.Empty):
            arrived.add(heard.get(timeout=0.001 if waiting else 0.2).payload)
    while link.snapshot().in_flight and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(arrived), refused, link.snapshot()


def test_a_sample_that_is_too_large_holds_up_no_other(rig, tmp_path):
    collector = rig.open("max_packet_size 2000").collect()
    ours = rig.device(resend_s=5.0, file=tmp_path / "spool/queue.db")
    assert ours.link.wait_for_connected(link_rig.WAIT_S)
    ours.make(10)
    ours.make(1, missing={f"metric-{number}": "x" * 200 for number in range(20)})
    ours.make(10)
    until(lambda: link_rig.stored(rig.database, ours.boot)[0] == 20, "all but the large one")
    until(lambda: ours.held == 0, "receipts past the large one")
    assert ours.forwarder.snapshot().dropped == 1
    until(lambda: collector.snapshot().lost == 1, "the gap")

    def told():
        with contextlib.closing(sqlite3.connect(rig.database)) as db:
            rows = db.execute("SELECT payload FROM events").fetchall()
        return {event.kind: event for event in (codec.from_bytes(row[0].encode(), telemetry.Event) for row in rows)}

    until(lambda: {"gap", "record_refused"} <= set(told()), "the events")
    gap, refused = told()["gap"], told()["record_refused"]
    assert (gap.details["first"], gap.details["last"], gap.details["unseen"]) == (10, 10, 0)
    assert (refused.details["of_boot"], refused.details["seq"]) == (ours.boot, 10)
    aside = (tmp_path / "spool/queue.db.refused").read_bytes()
    assert codec.from_bytes(aside.strip(), telemetry.Sample).seq == 10


@pytest.mark.fault("B5")
def test_another_client_takes_our_name(fault, rig, caplog, monkeypatch):
    rig.open().collect()
    ours = rig.device(reconnect_cap_s=20.0)
    assert ours.link.wait_for_connected(link_rig.WAIT_S)
    ours.make(10)
    rig.wait_until_drained(ours)
    thief = rig.link(client_id=link_rig.DEVICE, reconnect_cap_s=60.0)
    until(lambda: not ours.link.snapshot().is_connected, "the take-over")
    ours.make(20)
    time.sleep(6.0)
    connects = ours.link.snapshot().connects
    told = [
        record for record in caplog.records if "another client" in record.message and "closed" not in record.message
    ]
    assert connects <= 2
    assert "another client" in ours.link.snapshot().last_error
    assert ours.held in (0, 20)
    thief.close()
    rig.wait_until_drained(ours, 60)
    assert rig.verdict(ours) == (0, 0)
    monkeypatch.setattr(mqtt, "_TAKEN_OVER", -1)
    monkeypatch.setattr(mending, "_CLOSED_TWICE", 10**9)
    twins = [
        rig.keep(MqttLink(MqttSettings(url=rig.broker.url, client_id="twin", reconnect_cap_s=0.5))) for _ in range(2)
    ]
    for twin in twins:
        twin.open()
    time.sleep(6.0)
    war = sum(twin.snapshot().connects for twin in twins)
    assert war > 8
    fault(
        what="a second client with the same id",
        injected="one take-over, held for 6 s",
        bar="detected, <= 1 reconnect in 10 s, 0 lost",
        measured=f"named in the state, {connects - 1} reconnects in 6 s, {len(told)} warnings, 0 lost after",
        control=f"with the usual wait of at most 0.5 s after it the two push each other out: {war} connects in 6 s",
    )


@pytest.mark.fault("C1")
def test_the_collector_is_killed_between_commit_and_receipt(fault, rig):
    broker = rig.open().broker
    ours = rig.device()
    heard = rig.hear(f"{link_rig.UP}/telemetry")
    rng, kills = random.Random(1), 50
    process = CollectorProcess(broker.url, rig.database)
    rig.closing.callback(process.kill)
    for _ in range(kills):
        before = link_rig.stored(rig.database, ours.boot)[0]
        ours.make(40)
        until(lambda: link_rig.stored(rig.database, ours.boot)[0] > before, "a commit")
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.start()
    rig.wait_until_drained(ours)
    sent_again = ours.link.snapshot().published - ours.made
    assert rig.verdict(ours) == (0, 0)
    process.stop()
    blind = rows_without_a_unique_key(heard)
    assert blind > 0
    fault(
        what="collector killed with -9 after a commit, before or amid its receipts",
        injected=f"{kills} kills, {ours.made} records, {sent_again} sent again",
        bar="0 lost, 0 stored twice",
        measured="0 lost, 0 twice",
        control=f"the same arrivals in a table without a unique key: {blind} rows twice",
    )


def rows_without_a_unique_key(heard):
    """Stores what arrived as it arrived; gives how many rows are there twice."""
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE samples (boot, seq)")
        with contextlib.suppress(queue.Empty):
            while True:
                sample = codec.from_bytes(heard.get_nowait().payload, telemetry.Sample)
                db.execute("INSERT INTO samples VALUES (?, ?)", (sample.boot, sample.seq))
        return db.execute("SELECT COUNT(*) - COUNT(DISTINCT seq) FROM samples").fetchone()[0]


LOCK_S = 30.0


@pytest.mark.fault("C2")
@pytest.mark.timeout(150)
def test_the_database_is_locked(fault, rig):
    collector = rig.open().collect()
    ours = rig.device()
    ours.make(50)
    rig.wait_until_drained(ours)
    receipts, rss_before = collector.snapshot().receipts, rss_bytes()
    with contextlib.closing(sqlite3.connect(rig.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began_s = time.monotonic()
        ours.make(500)
        until(lambda: collector.snapshot().store_failures > 0, "a failed commit")
        time.sleep(max(0.0, began_s + LOCK_S - time.monotonic()))
        state = collector.snapshot()
        grown_mb = (rss_bytes() - rss_before) / 2**20
        assert state.receipts == receipts
        assert ours.held == 500
        assert ours.link.snapshot().is_connected
        other.execute("ROLLBACK")
    rig.wait_until_drained(ours)
    assert rig.verdict(ours) == (0, 0)
    assert "locked" in state.last_error
    assert grown_mb <= 32
    lost = lost_where_receipts_go_first(rig.beside("control"))
    assert lost > 0, "the control must lose"
    fault(
        part="locked",
        what="another program holds the database",
        injected=f"locked for {LOCK_S:g} s, 500 records meanwhile, {state.store_failures} failed commits",
        bar="no receipt, memory bounded (32 MB), link stays up",
        measured=f"0 receipts, 500 held by the device, device and collector together +{grown_mb:.0f} MB, 0 lost and "
        "0 twice after",
        control=f"receipts before the commit, and the collector ends while it is locked: {lost} of 500 lost",
    )


def rss_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def lost_where_receipts_go_first(rig):
    """The control: gives how many of 500 are neither stored nor held after a lock that outlives the collector."""
    collector = rig.open().collect(kind=controls.EagerCollector)
    device = rig.device()
    with contextlib.closing(sqlite3.connect(rig.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        device.make(500)
        until(lambda: collector.snapshot().store_failures > 0 and device.held < 500, "a receipt too early")
        collector.close()
        other.execute("ROLLBACK")
    return device.made - link_rig.stored(rig.database, device.boot)[0] - device.held


@pytest.mark.fault("C2")
@pytest.mark.usefixtures("needs_root")
def test_the_disk_of_the_database_is_full(fault, rig, tmp_path):
    with Tmpfs(tmp_path / "disk", size_mb=8) as disk, contextlib.closing(rig.beside("inside")) as inside:
        inside.database = disk.root / "t.db"
        collector = inside.open().collect()
        ours = inside.device()
        ours.make(50)
        inside.wait_until_drained(ours)
        disk.fill()
        rss_before, made = rss_bytes(), 0
        while not collector.snapshot().store_failures:  # what the write-ahead log has room for is still stored
            ours.make(500)
            made += 500
            time.sleep(0.2)
            assert made < 50_000, "the disk is not full"
        ours.make(500)
        time.sleep(3.0)
        state, stored = collector.snapshot(), link_rig.stored(inside.database, ours.boot)[0]
        grown_mb = (rss_bytes() - rss_before) / 2**20
        assert state.is_running
        assert ours.link.snapshot().is_connected
        assert ours.held >= 500
        assert stored + ours.held >= ours.made
        assert "full" in state.last_error
        held = ours.held
        disk.empty()
        inside.wait_until_drained(ours)
        assert inside.verdict(ours) == (0, 0)
        made = ours.made
    lost = lost_where_receipts_go_first(rig.beside("control"))
    assert lost > 0, "the control must lose"
    fault(
        part="full",
        what="the disk of the collector's database is full",
        injected=f"tmpfs of 8 MB filled to the last byte, {made} records, {state.store_failures} failed commits",
        bar="no receipt without a commit, collector alive, link stays up, drains when there is room",
        measured=f"{held} held by the device, device and collector together +{grown_mb:.0f} MB, 0 lost and 0 twice after",
        control=f"receipts before a commit that fails: {lost} of 500 lost",
    )


POISON = {
    "bad UTF-8": b'{"v":1,"device":"\xff"}',
    "deep JSON": b"[" * 50_000 + b"]" * 50_000,
    "10 MB": b"x" * 10_000_000,
    "deep MessagePack": b"\x91" * 60_000,
    "NaN": b'{"v":1,"t":NaN}',
}


@pytest.mark.fault("C3")
def test_poison(fault, rig, monkeypatch):
    broker = rig.open().broker
    fenceless = rig.keep(controls.FencelessEar(broker.port, f"{link_rig.UP}/telemetry", monkeypatch))
    collector = rig.collect()
    ours = rig.device()
    ours.make(5)
    rig.wait_until_drained(ours)
    poisoner = rig.link(client_id="poisoner")
    worst_s, connected = 0.0, 0
    for count, payload in enumerate(POISON.values(), start=1):
        poisoner.publish(f"{link_rig.UP}/telemetry", payload)
        if len(payload) <= 4 * 2**20:  # more than the collector announced to take never reaches it
            connected += 1
            until(lambda: collector.snapshot().refused >= connected, f"poison {count}")
        ours.make(1)
        worst_s = max(worst_s, rig.wait_until_drained(ours))
    state = collector.snapshot()
    assert state.is_running
    assert state.refused == connected
    assert rig.verdict(ours) == (0, 0)
    assert fenceless.ended == ["UnicodeDecodeError"]
    assert len(fenceless.heard) == 5 < ours.made, "the control went on"
    fault(
        what="payloads that are no record",
        injected=", ".join(POISON),
        bar="alive, each counted once, the next good record stored",
        measured=f"alive, {state.refused} counted and kept (10 MB never delivered), next record stored within {worst_s:.2f} s",
        control=f"a callback of paho's that decodes without a fence: its thread ended by {fenceless.ended[0]}, "
        f"{len(fenceless.heard)} of {ours.made} records heard",
    )


@pytest.mark.fault("C4")
def test_old_and_new_schemas_mixed(fault, rig):
    collector = rig.open().collect()
    link = rig.link(client_id="mixed")
    payloads = []
    for number in range(60):
        document = json.loads((GOLDEN / f"v{number % 3 + 1}/telemetry.json").read_text())
        payloads.append(json.dumps(document | {"seq": number, "oldest_seq": 0}).encode())
        link.publish(f"{link_rig.UP}/telemetry", payloads[-1])
    until(lambda: collector.snapshot().stored == 60, "all versions")
    state = collector.snapshot()
    assert (state.refused, state.newer) == (0, 20)
    with contextlib.closing(sqlite3.connect(rig.database)) as db:
        kept = [row[0].encode() for row in db.execute("SELECT payload FROM samples ORDER BY seq")]
    assert kept == payloads

    class Strict(telemetry.Sample, forbid_unknown_fields=True):
        pass

    strict = 0
    for payload in payloads:
        with contextlib.suppress(msgspec.ValidationError):
            msgspec.json.decode(payload, type=Strict)
            strict += 1
    assert strict == 40
    fault(
        what="devices one version older and one newer than the collector",
        injected="60 Samples of wire versions 1, 2 and 3 in turns",
        bar="N-1 stored fully, unknown fields kept or counted, never a crash",
        measured=f"60 stored byte for byte, {state.newer} counted as newer, 0 refused",
        control=f"a decoder that forbids unknown fields takes {strict} of 60",
    )


@pytest.mark.fault("C5")
def test_an_old_copy_of_the_database_is_put_back(fault, rig, tmp_path):
    first = rig.open().collect()
    ours = rig.device()
    ours.make(50)
    rig.wait_until_drained(ours)
    first.close()
    backup = tmp_path / "yesterday.db"
    shutil.copy(rig.database, backup)
    second = rig.collect()
    ours.make(70)
    rig.wait_until_drained(ours)
    second.close()
    shutil.copy(backup, rig.database)
    third = rig.collect()
    ours.make(10)
    until(lambda: ours.held == 0, "the device to be done")
    until(lambda: third.snapshot().unseen, "the gap")
    with contextlib.closing(sqlite3.connect(rig.database)) as db:
        have = {row[0] for row in db.execute("SELECT seq FROM samples WHERE boot = ?", (ours.boot,))}
        events = [
            codec.from_bytes(row[0].encode(), telemetry.Event) for row in db.execute("SELECT payload FROM events")
        ]
    missing = set(range(ours.made)) - have
    gaps = [event for event in events if event.kind == "gap"]
    assert missing == set(range(50, 120))
    assert [(gap.details["first"], gap.details["last"], gap.details["missing"]) for gap in gaps] == [(50, 119, 70)]
    assert third.snapshot().lost == 70
    top = max(have) + 1
    fault(
        what="the collector's database of yesterday is put back",
        injected="70 receipted records that the copy does not have",
        bar="the gap reported exactly, never a silent hole",
        measured="one event `gap`: 50 to 119, 70 records",
        control=f"a mark taken from the highest number stored ({top}) would say that nothing is missing",
    )


@pytest.mark.fault("H7")
def test_no_secret_reaches_a_log_or_a_message(fault, rig, tmp_path, caplog):
    caplog.set_level(0)
    secret = "s3cr3t-of-this-test"
    rig.open_behind_proxy("allow_anonymous true").collect()
    heard = rig.hear("#")
    ours = rig.device(username="me", password=secret)
    ours.make(20)
    rig.wait_until_drained(ours)
    rig.proxy.reset()
    rig.proxy.mode = "refuse"
    ours.make(5)
    time.sleep(0.5)
    rig.proxy.mode = "ok"
    rig.wait_until_drained(ours)
    seen = [repr(ours.link.snapshot()), repr(ours.link._settings), caplog.text, *map(repr, threading.enumerate())]
    with contextlib.suppress(queue.Empty):
        while True:
            seen.append(repr(heard.get_nowait()))
    for file in tmp_path.iterdir():
        if file.is_file():
            seen.append(file.read_bytes().decode(errors="replace"))
    with pytest.raises(errors.SettingsError) as refusal:
        MqttLink(MqttSettings(url=f"mqtt://me:{secret}@127.0.0.1", client_id="x"))
    seen.append(str(refusal.value))
    hits = sum(secret in text for text in seen)
    assert hits == 0
    assert secret in str(ours.link._settings.password), "the search must be able to find it"
    fault(
        what="a password in logs, telemetry, state or the database",
        injected=f"a link with a password through cuts and refusals; {len(seen)} texts searched",
        bar="0 hits",
        measured=f"{hits} hits",
        control="the same search finds it in the setting itself",
    )


DYING = """
import os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (0 if sys.argv[2] == "0" else hard, hard))
password = "".join(sys.argv[1].split("+"))
os.abort()
"""


@pytest.mark.fault("H7")
def test_no_core_dump_is_left_behind(fault, tmp_path):
    units = sorted((link_rig.ROOT / "systemd").glob("*.service"))
    assert units
    assert all("LimitCORE=0" in unit.read_text().splitlines() for unit in units)
    pattern = pathlib.Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if "/" in pattern or pattern.startswith("|") or resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip(f"SKIPPED LOUDLY: this kernel leaves no core file in the working folder ({pattern!r})")
    left = {}
    for limit in ("0", "hard"):
        folder = tmp_path / limit
        folder.mkdir()
        done = subprocess.run([sys.executable, "-c", DYING, "s3cr3t+of+this+test", limit], cwd=folder, check=False)
        assert done.returncode == -6
        left[limit] = [file.read_bytes() for file in folder.iterdir()]
    found = sum(b"s3cr3tofthistest" in core for core in left["hard"])
    assert left["0"] == []
    assert found == 1, "the control left no core with the secret in it"
    fault(
        part="core dump",
        what="a process with a password in memory that crashes",
        injected=f"abort under each limit; {len(units)} units looked at",
        bar="LimitCORE=0 in every unit; no core file with that limit",
        measured=f"{len(units)} of {len(units)} units have it; 0 files",
        control=f"without the limit: {len(left['hard'])} core file, the password in it",
    )
