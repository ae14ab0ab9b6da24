"""A real PostgreSQL server for tests: its own folder and port, trust on loopback, gone afterwards."""

import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path


def find() -> str | None:
    """Gives the folder of initdb and postgres."""
    for folder in [
        *sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True),
        os.path.dirname(shutil.which("initdb") or ""),
    ]:
        if folder and os.path.exists(f"{folder}/initdb") and os.path.exists(f"{folder}/postgres"):
            return folder
    return None


@contextlib.contextmanager
def running(*settings):
    """Gives the URL of a server up to the database's name; None where PostgreSQL is not installed."""
    programs = find()
    user = _user()
    if programs is None or user is None:
        yield None
        return
    folder = tempfile.mkdtemp(prefix="edge-pg-")
    try:
        _own(folder, user)
        data = f"{folder}/data"
        subprocess.run([f"{programs}/initdb", "-D", data, "-A", "trust", "-U", "edge", "-N", "-E", "UTF8", "--locale=C"],
                       check=True, capture_output=True, cwd=folder, **_as(user))  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = ["-p", str(port), "-h", "127.0.0.1", "-k", folder]
        for setting in ("max_connections=40", *settings):
            options += ["-c", setting]
        log = open(f"{folder}/log", "wb")
        server = subprocess.Popen(
            [f"{programs}/postgres", "-D", data, *options], stdout=log, stderr=log, cwd=folder, **_as(user)
        )
        try:
            _wait(programs, port, server, f"{folder}/log")
            yield f"postgresql://edge@127.0.0.1:{port}/"
        finally:
            server.send_signal(2)
            server.wait(20)
            log.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user():
    """Gives whom to run it as: PostgreSQL refuses root."""
    if os.getuid():
        return os.getuid(), os.getgid()
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    return None


def _own(folder, user):
    if not os.getuid():
        os.chown(folder, *user)


def _as(user):
    return {} if os.getuid() else {"user": user[0], "group": user[1], "extra_groups": []}


def _wait(programs, port, server, log):
    deadline = time.monotonic() + 30
    while subprocess.run([f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], check=False).returncode:
        assert server.poll() is None, Path(log).read_text()
        assert time.monotonic() < deadline, Path(log).read_text()
        time.sleep(0.05)
