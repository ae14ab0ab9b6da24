"""The configuration of a fleet's broker: mosquitto, tuned as measured, certificates required, topics bound to names.

A device speaks only as itself, hears only what is for it, and can't take another's client id; a collector hears all
devices and may answer them. Written for mosquitto 2.0.
"""

from collections.abc import Sequence
from pathlib import Path

from edge_sdk import errors
from edge_sdk.wire import codec, topics

CONFIG, ACL = "mosquitto.conf", "acl"

_CONFIG = """\
# Made by `edge-sdk broker --write-config`. Start: mosquitto -c {folder}/{config}
# Certificates: `edge-sdk ca` (server.crt, server.key, ca.crt, crl.pem). After a revocation: kill -HUP, or restart.

listener {port} {host}
cafile {folder}/ca.crt
certfile {folder}/server.crt
keyfile {folder}/server.key
crlfile {folder}/crl.pem
tls_version tlsv1.2
# Who has no certificate of the fleet does not get in; its common name is its user, and its client id.
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file {folder}/{acl}

# Without it a burst of publishes waits for delayed ACKs: 22,000 instead of 77,000 QoS 1 messages a second.
set_tcp_nodelay true
# The defaults, 20 and 1,000, lost 69 % of QoS 1 messages to a slow subscriber; "unlimited" drops QoS 0 in some.
max_inflight_messages 200
max_queued_messages 1000000
max_queued_bytes {queued_bytes}
max_packet_size {packet_bytes}
max_connections {connections}
allow_zero_length_clientid false

# Retained status and birth outlive a kill -9 only if they are saved often; the default is every half hour.
persistence true
persistence_location {folder}/data/
autosave_interval 1
persistent_client_expiration 7d

log_type error
log_type warning
log_type notice
sys_interval 10
"""

_ACL = """\
# Every device, by the common name of its certificate (%u): speaks as itself, hears what is for it.
pattern write edge/v1/{site}/%u/up/#
pattern read edge/v1/{site}/%u/down/#
"""

_COLLECTOR = """
user {name}
topic read edge/v1/{site}/+/up/#
topic write edge/v1/{site}/+/down/#
topic read $SYS/broker/#
"""


def write_config(
    folder: Path,
    *,
    host: str = "0.0.0.0",  # noqa: S104  # a fleet's broker is for others, and lets only certificates in
    port: int = 8883,
    site: str = "+",
    collectors: Sequence[str] = ("collector",),
    connections: int = 20_000,
    queued_bytes: int = 256 * 2**20,
) -> list[Path]:
    """Writes the configuration into a folder, made if it is not there; gives the files.

    Args:
        folder: where the certificates are, or will be.
        host: address to listen on.
        port: likewise.
        site: the only one that is served; ``+`` for all, of which a device may then name any.
        collectors: common names of the collectors' certificates; no device may be called so.
        connections: most at once.
        queued_bytes: most that waits for one slow client.

    Raises:
        UsageError: a name that breaks the rule, a folder that can't be written, or a configuration that is there.
    """
    for name in collectors:
        topics.check_name("collector", name)
    if site != "+":
        topics.check_name("site", site)
    place = folder.resolve()
    if any(letter.isspace() for letter in str(place)):
        raise errors.UsageError(f"mosquitto takes no path with a space in it, as {place} has; choose another folder")
    acl = _ACL.format(site=site) + "".join(_COLLECTOR.format(name=name, site=site) for name in collectors)
    config = _CONFIG.format(
        folder=place,
        config=CONFIG,
        acl=ACL,
        host=host,
        port=port,
        connections=connections,
        queued_bytes=queued_bytes,
        packet_bytes=2 * codec.MAX_PAYLOAD_BYTES,
    )
    return _written(place, {CONFIG: config, ACL: acl})


def _written(folder: Path, files: dict[str, str]) -> list[Path]:
    try:
        (folder / "data").mkdir(parents=True, exist_ok=True)
        for name in files:
            if (folder / name).exists():
                raise errors.UsageError(f"{folder / name} is there already; it is not overwritten: move it away first")
        for name, content in files.items():
            (folder / name).write_text(content)
    except OSError as error:
        raise errors.UsageError(f"cannot write to {folder}: {error.strerror}") from error
    return [folder / name for name in files]
