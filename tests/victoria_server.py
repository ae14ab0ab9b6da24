"""A real VictoriaMetrics for tests: its own folder and port, killed and started anew on request, gone afterwards."""

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

PROGRAM = shutil.which("victoria-metrics")


class Server:
    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        command = [
            PROGRAM, f"-storageDataPath={self.folder}", f"-httpListenAddr=127.0.0.1:{self.port}",
            "-dedup.minScrapeInterval=1ms", "-search.latencyOffset=0s", "-memory.allowedPercent=5",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                self.asked("/health")
                return
            assert time.monotonic() < deadline, "VictoriaMetrics did not start"
            time.sleep(0.05)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def asked(self, path, body=None):
        with urllib.request.urlopen(self.url + path, body, timeout=30) as reply:
            return reply.read()

    def points(self, selector):
        """Gives {labels: [(ms, value)]}, sorted, of all series that match."""
        self.asked("/internal/force_flush")
        found = self.asked("/api/v1/export?" + urllib.parse.urlencode({"match[]": selector, "start": "0"}))
        rows = [json.loads(line) for line in found.splitlines()]
        return {
            tuple(sorted(row["metric"].items())): sorted(zip(row["timestamps"], row["values"], strict=True))
            for row in rows
        }


@contextlib.contextmanager
def running():
    folder = tempfile.mkdtemp(prefix="edge-vm-")
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
