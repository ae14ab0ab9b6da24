"""A real broker on a real socket, and a link to it, for the tests of this folder."""

import itertools
import time

import postgres_server
import pytest

from edge_sdk.link import broker as brokers
from edge_sdk.link.mqtt import MqttLink, MqttSettings

WAIT_S = 10.0


@pytest.fixture
def broker():
    """Whatever broker is installed, on a port of its own."""
    with brokers.open_broker(port=0) as running:
        yield running


@pytest.fixture
def new_link(broker):
    """Makes unopened links to the broker; closes them in the end."""
    links, names = [], itertools.count()

    def make(will=None, **settings):
        values = {"url": broker.url, "client_id": f"test-{next(names)}", "reconnect_cap_s": 0.2, **settings}
        links.append(MqttLink(MqttSettings(**values), will))
        return links[-1]

    yield make
    for link in links:
        link.close(0.5)


@pytest.fixture
def until():
    """Waits for a condition; fails with `what` if it does not come about."""

    def wait(condition, what, timeout_s=WAIT_S):
        deadline = time.monotonic() + timeout_s
        while not (result := condition()):
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
            time.sleep(0.01)
        return result

    return wait


@pytest.fixture
def database():
    """URL of a PostgreSQL of the test's own."""
    with postgres_server.running("fsync=off") as url:
        if url is None:
            pytest.skip("no PostgreSQL server here: apt install postgresql")
        yield url + "postgres"
