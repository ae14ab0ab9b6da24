"""The usual consumer: paho's own loop, msgspec, SQLite in batches of 1,000. No receipt, no check, no roll-up.

usage: bare_paho.py URL FILE
"""

import sqlite3
import sys
import time
from urllib.parse import urlsplit

import msgspec
from paho.mqtt import client as paho

from edge_sdk.records import telemetry

url, file = urlsplit(sys.argv[1]), sys.argv[2]
db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
db.execute("PRAGMA journal_mode = WAL")
db.execute(
    "CREATE TABLE samples (device TEXT, boot TEXT, seq INTEGER, t REAL, payload TEXT, UNIQUE (device, boot, seq))"
)
decoder = msgspec.json.Decoder(telemetry.Sample)
rows = []


def flush():
    db.execute("BEGIN")
    db.executemany("INSERT OR IGNORE INTO samples VALUES (?, ?, ?, ?, ?)", rows)
    db.execute("COMMIT")
    rows.clear()


def on_message(_client, _data, message):
    sample = decoder.decode(message.payload)
    rows.append((sample.device, sample.boot, sample.seq, sample.t, message.payload.decode()))
    if len(rows) >= 1000:
        flush()


client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="bare", protocol=paho.MQTTv5)
client.on_message = on_message
client.on_connect = lambda *_: client.subscribe("edge/v1/+/+/up/telemetry", qos=1)
client.on_subscribe = lambda *_: print("ready", flush=True)
client.connect(url.hostname, url.port)
last = time.monotonic()
while True:
    client.loop(0.1)
    if rows and time.monotonic() - last > 0.25:
        flush()
        last = time.monotonic()
