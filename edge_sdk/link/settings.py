"""How to reach a broker."""

from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

import msgspec

from edge_sdk import errors

PORTS = {"mqtt": 1883, "mqtts": 8883}
"""The schemes we speak, with their registered ports."""


class MqttSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One MQTT 5 connection.

    Attributes:
        url: ``mqtt://host:port``, or ``mqtts://host:port`` for TLS; ports 1883 and 8883 unless said.
        client_id: name of this client at the broker; a second client of the same name pushes the first one out.
        keepalive_s: longest silence in seconds before a ping; a dead peer is noticed within twice that. 30 keeps
            the path through a home router open, whose idle limit is often 60 s.
        session_expiry_s: seconds for which the broker keeps what is meant for us while we are away. One hour
            outlasts a reboot; what lasts longer is sent again by the device's spool anyway.
        in_flight_max: most messages handed over and not yet acknowledged. 100 fills a link of 100 ms round trip
            with 1,000 messages per second, and is what at most is sent twice after a break.
        connect_timeout_s: seconds for TCP, TLS and the broker's answer together until an attempt counts as failed.
        reconnect_cap_s: upper bound in seconds of the random wait between attempts (see link/backoff.py).
        batched_reads: take all messages of a read together (link/batched.py), which costs a third of the CPU time of
            paho's own reading; where the installed paho does not allow it, its own is taken anyway.
        username: at the broker; empty for none.
        password: at the broker; never shown.
        ca_file: certificates to trust with ``mqtts``; empty for the system's.
        cert_file, key_file: our own certificate and its key for mutual TLS; both or none.
    """

    url: str = "mqtt://127.0.0.1:1883"
    client_id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    keepalive_s: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 30
    session_expiry_s: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 3600
    in_flight_max: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 100
    connect_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=300)] = 5.0
    reconnect_cap_s: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 60.0
    batched_reads: bool = True
    username: str = ""
    password: str = ""
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def __repr__(self) -> str:
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = (f"{name}={'***' if name == 'password' and value else repr(value)}" for name, value in fields)
        return f"MqttSettings({', '.join(shown)})"


class Address(NamedTuple):
    """Where a broker listens."""

    host: str
    port: int
    is_tls: bool


def parse_url(url: str) -> Address:
    """Gives the address in ``mqtt://host:port`` or ``mqtts://host:port``.

    Raises:
        SettingsError: anything else.

    >>> parse_url("mqtt://127.0.0.1")
    Address(host='127.0.0.1', port=1883, is_tls=False)
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise errors.SettingsError(f"broker url {_shown(url)}: {error}; expected mqtt://host:port") from error
    if parts.scheme not in PORTS or not parts.hostname or parts.path.strip("/") or parts.query or port == 0:
        raise errors.SettingsError(f"broker url {_shown(url)}; expected mqtt://host:port, or mqtts://host:port for TLS")
    if "@" in parts.netloc:
        raise errors.SettingsError("the broker url holds a user or password; give them as username and password")
    return Address(parts.hostname, port or PORTS[parts.scheme], parts.scheme == "mqtts")


def _shown(url: str) -> str:
    """Gives `url` for a message, without what stands before an ``@``: it may be a password."""
    return repr(url.rpartition("@")[2][:200])
