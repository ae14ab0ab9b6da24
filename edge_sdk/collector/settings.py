"""What collector.toml may say."""

from typing import Annotated, Literal

import msgspec

from edge_sdk.records import telemetry


class CollectorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The collector's settings; every one has a default, so an empty file is a valid one.

    Attributes:
        broker: URL of the MQTT broker, ``mqtt://host:port`` or ``mqtts://host:port``. Default the loopback one, as
            ``edge-sdk broker`` opens it.
        client_id: name of this collector at the broker. Default ``edge-collector``; a second collector on the same
            broker needs another, else the two push each other out.
        username: at the broker; empty, the default, for none.
        password: at the broker: ``file:PATH`` for the content of that file, ``credential:NAME`` for what systemd gives
            by ``LoadCredential=NAME:...``, or as it is; goes with `username`, and is never shown.
        ca_file: certificates to trust with ``mqtts``, relative to the settings file; empty, the default, for the
            system's.
        cert_file: our own certificate for mutual TLS, likewise; goes with `key_file`.
        key_file: its private key, likewise, or ``credential:NAME`` for what systemd gives by
            ``LoadCredential=NAME:...``.
        database: the SQLite file, made if it is not there; relative to the settings file. Default ``telemetry.db``
            in the working folder. ``postgresql://USER@HOST/NAME`` for PostgreSQL, which several collectors can share.
        web: ``HOST:PORT`` of the query API and of ``/metrics``; empty for none. Default ``127.0.0.1:8780``: it asks
            nobody who they are, so that what else may read it is for a proxy to say.
        victoria: ``http://HOST:8428`` of a VictoriaMetrics to which stored Samples are carried on, ``https://USER:PASSWORD@HOST``
            likewise (never shown), or ``credential:NAME`` for such a URL; empty, the default, for none. Start that
            with ``-dedup.minScrapeInterval=1ms``: after a break it gets its last half minute once more.
        share: group of collectors that share one fleet and one PostgreSQL, each message going to one of them (MQTT 5
            shared subscription); empty, the default, for a collector alone. The process number goes behind
            `client_id`.
        site: collect only this site; None, the default, collects all of the broker's.
        batch_records: most messages in one transaction. Default 2000: at that size the disk's sync costs less than
            the rows.
        batch_wait_s: seconds to gather a batch once its first message is there. Default 0.05: a receipt is back
            well within a Sample's interval, and a hundred devices share each sync.
        queue_bytes: most bytes of messages waiting for the database; what comes beyond is dropped, counted, and sent
            again by its device, as it gets no receipt. Default 32 MiB: half a minute of a thousand devices.
        retry_s: seconds until a batch that the database did not take is tried again. Default 0.5.
        payload: form in which this collector asks for Samples; devices follow whose own setting is ``auto``. Default
            ``json``, as other tools on the broker may read them too; ``compact`` is a third of its size.
        refused_kept: refused messages kept as they came, the first of each database; the rest is only counted.
            Default 1000.
        raw_days: days for which every Sample is kept as it came. Default 7.
        minute_days: days for which every point is kept packed by the minute, histograms merged. Default 60.
        hour_days: days for which hours are kept, at least as long as minutes. Default 1830, five years.
    """

    broker: str = "mqtt://127.0.0.1:1883"
    client_id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] = "edge-collector"
    username: str = ""
    password: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    database: Annotated[str, msgspec.Meta(min_length=1)] = "telemetry.db"
    web: Annotated[str, msgspec.Meta(max_length=300)] = "127.0.0.1:8780"
    victoria: Annotated[str, msgspec.Meta(max_length=300)] = ""
    share: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{0,63}$(?!\n)")] = ""
    site: telemetry.DeviceId | None = None
    batch_records: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 2000
    batch_wait_s: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.05
    queue_bytes: Annotated[int, msgspec.Meta(ge=65536, le=2**34)] = 32 * 2**20
    retry_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 0.5
    payload: Literal["json", "compact"] = "json"
    refused_kept: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 1000
    raw_days: Annotated[float, msgspec.Meta(gt=0, le=36500)] = 7.0
    minute_days: Annotated[float, msgspec.Meta(gt=0, le=36500)] = 60.0
    hour_days: Annotated[float, msgspec.Meta(gt=0, le=36500)] = 1830.0

    def __repr__(self) -> str:
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        hidden = {"password": "***" if self.password else "", "database": shown_database(self.database)}
        hidden["victoria"] = shown_database(self.victoria)
        return f"CollectorSettings({', '.join(f'{name}={hidden.get(name, value)!r}' for name, value in fields)})"


def shown_database(database: str) -> str:
    """Gives a database as it may be logged: of a URL neither user nor options, which may hold a password.

    >>> shown_database("postgresql://me:secret@db.example/fleet?sslmode=require"), shown_database("telemetry.db")
    ('postgresql://db.example/fleet', 'telemetry.db')
    """
    scheme, separator, rest = database.partition("://")
    if not separator or scheme == "sqlite":
        return database
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
