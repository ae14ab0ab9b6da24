"""A real sshd on loopback, run by this user with keys of its own; and a board behind it, made of a test's own folder."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
WAIT_S = 20.0

BOARD = '''
"""edge-sdk on a machine whose TensorRT is this file: it builds as one is told, and writes down what it was given."""

import json
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
MODE = (HERE / "mode").read_text() if (HERE / "mode").exists() else ""

if __name__ == "__main__":
    from edge_sdk import errors
    from edge_sdk.cli import main
    from edge_sdk.engines import compilers, guest

    compilers.COMPILERS["tensorrt"] = compilers.Row("board:compile_model", "", machine="board:read_here")
    if MODE == "full":
        usage = guest.shutil.disk_usage
        guest.shutil.disk_usage = lambda folder: usage(folder)._replace(free=1000)
    if MODE == "old":
        guest.SCHEMA = 0
    if MODE == "greets":
        print("Welcome to the board!", flush=True)
    sys.exit(main.run(sys.argv[1:]))


def read_here():
    from edge_sdk import errors
    from edge_sdk.records.passport import Passport

    if MODE == "no gpu":
        raise errors.EngineError("no GPU answers")
    if MODE == "nano":
        return Passport(module="p3448-0000", compute_capability="5.3", sm_count=1, tensorrt="8.2.1.9")
    return Passport(module="p3767-0000", compute_capability="8.7", sm_count=8, tensorrt="10.3.0.26")


def compile_model(model, *, shapes, progress, options):
    import hashlib

    from edge_sdk.engines.nvidia import Compiled
    from edge_sdk.records.bundle import CompilerReport
    from edge_sdk.records.passport import SCHEMA, EnginePassport

    given = sorted(path.name for path in options.timings.iterdir())
    (HERE / "given").write_text(json.dumps({"files": given, "shapes": shapes, "dla": options.dla_core}))
    (HERE / "pid").write_text(str(os.getpid()))
    while MODE == "slow":
        progress("build", 1, 2)
        time.sleep(0.05)
    if MODE == "refuses":
        return Compiled(CompilerReport("tensorrt", "10.3", False, 0, 0.1, ("no layer like that",)), b"", "x")
    here, plan = read_here(), b"engine of " + hashlib.sha256(model).digest()
    passport = EnginePassport(
        schema=SCHEMA,
        built_on=here,
        model=hashlib.sha256(b"" if MODE == "lies" else model).hexdigest(),
        sha256=hashlib.sha256(plan).hexdigest(),
        size_bytes=len(plan),
    )
    report = CompilerReport("tensorrt", "10.3", True, len(plan), 0.1, ())
    target = "../../model" if MODE == "strays" else here.token()
    return Compiled(report, plan, target, passport, b"timings")
'''


class Ssh:
    """The server, and how a client reaches it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        for name in ("host", "client"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        shutil.copy(folder / "client.pub", folder / "authorized")
        settings = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": folder / "host",
            "AuthorizedKeysFile": folder / "authorized",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "yes",
            "PidFile": "none",
        }
        (folder / "config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where root's sshd puts its unprivileged half
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stdout=log, stderr=log)

    def command(self, *options: str) -> str:
        fixed = {
            "UserKnownHostsFile": self.folder / "known",
            "StrictHostKeyChecking": "accept-new",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
        }
        words = ["ssh", "-F", "none", *options, "-p", self.port, "-i", self.folder / "client"]
        return shlex.join(map(str, [*words, *(f"-o{key}={value}" for key, value in fixed.items())]))

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"sshd ended: {self.log.read_text()}"
            words = [*shlex.split(self.command()), target(), "true"]
            if subprocess.run(words, capture_output=True, check=False).returncode == 0:
                return
        pytest.skip(f"this user can't log in to an sshd of his own: {self.log.read_text()[-500:]}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(WAIT_S)


class Board:
    """A folder that is a machine: its temporary files, its edge-sdk, and what its compiler was given."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.temporary = folder, folder / "tmp"
        self.temporary.mkdir(parents=True)
        (folder / "board.py").write_text(BOARD)
        self.edge_sdk = self.script("edge-sdk", f'exec {shlex.quote(sys.executable)} {folder}/board.py "$@"')

    def script(self, name: str, line: str) -> str:
        file = self.folder / name
        file.write_text(f"#!/bin/sh\nexport TMPDIR={shlex.quote(str(self.temporary))}\n{line}\n")
        file.chmod(0o755)
        return str(file)

    def will(self, mode: str) -> None:
        (self.folder / "mode").write_text(mode)

    def left(self) -> list[str]:
        """What edge-sdk left behind."""
        return sorted(path.name for path in self.temporary.iterdir())


def target() -> str:
    import getpass

    return f"{getpass.getuser()}@127.0.0.1"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
