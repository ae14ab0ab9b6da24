"""The machine's own systemd as PID 1 of a throw-away namespace, with our units and nothing else.

Needs root. Nothing of the host is touched: /etc, /opt, /run and /var/lib are replaced for the namespace, the network
is its own, the control group is one below ours, and everything ends with the process that was started here.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
SYSTEMD = next((path for path in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd") if os.path.exists(path)), None)

INNER = r"""
set -e
mount --make-rprivate /
mkdir -p $STAGE/etc $STAGE/opt $STAGE/var_lib $STAGE/cover/edge-sdk
cp -a /etc/passwd /etc/group /etc/ld.so.cache /etc/nsswitch.conf $STAGE/etc/
ln -s /etc/passwd $STAGE/etc/shadow.not 2>/dev/null || true
mount --bind $STAGE/etc /etc
mkdir -p $STAGE/opt/edge-sdk $STAGE/opt/source/edge_sdk $STAGE/opt/packages
mount --bind $STAGE/opt /opt
mount --bind $PYTHON_PREFIX /opt/edge-sdk
mount --bind $ROOT/edge_sdk /opt/source/edge_sdk   # the units see no /home and no /tmp, wherever the checkout lies
mount --bind $PACKAGES /opt/packages
mount --bind $STAGE/srv /srv
mount --bind $STAGE/var_lib /var/lib
mount -t tmpfs tmpfs /run
mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up
: > /etc/shadow; : > /etc/gshadow
systemd-sysusers $UNITS/edge-sdk.sysusers
systemd-tmpfiles --create $UNITS/edge-sdk.tmpfiles
cp /srv/device.toml /etc/edge-sdk/device.toml
: > /run/jtop.sock
export SYSTEMD_UNIT_PATH=/srv/units container=edge-sdk-test
unset NOTIFY_SOCKET
mount --make-rshared /   # as a booted system has it: credentials are mounted by a child of PID 1
exec $SYSTEMD --system --unit=edge.target --log-target=console --log-level=info --show-status=0
"""

WAYS = '''
"""A back end that misbehaves when it is told to: by a file while it loads, by its input while it runs."""
import os, signal, threading, time, urllib.request
from pathlib import Path
import numpy as np
from edge_sdk.records.tensors import TensorSpec

class Backend:
    def __init__(self, model, options):
        if Path("/srv/crash_at_load").exists():
            os.kill(os.getpid(), signal.SIGSEGV)
        way = Path("/srv/ways") / model.parent.name
        word = way.read_text() if way.exists() else ""
        if word == "segfault at load":
            os.kill(os.getpid(), signal.SIGSEGV)
        if word == "hang at load":
            time.sleep(3600)
        if word == "crash after READY":
            threading.Thread(target=self.crash_when_ready, daemon=True).start()

    def crash_when_ready(self):
        while True:
            try:
                urllib.request.urlopen("http://127.0.0.1:8000/v2/health/ready", timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGSEGV)

    def inputs(self):
        return (TensorSpec("x", "float32", (None, 3)),)

    def run(self, feeds, spent):
        word = float(feeds["x"][0, 0])
        if word == 100:
            time.sleep(3600)
        if word == 200:
            os.kill(os.getpid(), signal.SIGSEGV)
        if word == 300:
            hoard = bytearray(256 * 2**20)
            hoard[::4096] = b"x" * len(hoard[::4096])
        return {"y": np.zeros((len(feeds["x"]), 2), np.float32)}

    def close(self):
        pass
'''

REPOSITORY = """
model_repository = "/srv/models"
backend = "misbehaving:Backend"
device = "cam-7"
http_port = 8000
trial_window_s = 3

[models.tiny]
instances = 1
"""
"""Settings for a repository that is filled by `Namespace.install`."""

FORGETFUL = "[Service]\nExecStartPre=-/bin/rm -f %S/edge-sdk/trials.json\n"
"""A daemon that does not know what the start before died of, for controls."""

DEVICE = """
bundles = ["/srv/tiny.edge"]
backend = "misbehaving:Backend"
device = "cam-7"
http_port = 8000

[models.tiny]
instances = 1
"""

TIMES = """
[Service]
ExecStart=
ExecStart=/opt/edge-sdk/bin/python3 -m edge_sdk daemon --config /etc/edge-sdk/device.toml --closing /var/lib/edge-sdk/closing.json
Environment=PYTHONPATH=/srv:{packages} LD_LIBRARY_PATH=/opt/edge-sdk/lib PYTHONDONTWRITEBYTECODE=1
WatchdogSec={watchdog_s}
RestartSec=0.3
StandardOutput=append:/srv/log/daemon
StandardError=append:/srv/log/daemon
[Unit]
StartLimitBurst={burst}
Wants=
"""

OTHERS = """
[Service]
ExecStart=
ExecStart=/opt/edge-sdk/bin/python3 -m {command}
Environment=PYTHONPATH=/srv:{packages} LD_LIBRARY_PATH=/opt/edge-sdk/lib PYTHONDONTWRITEBYTECODE=1
StandardOutput=append:/srv/log/{name}
StandardError=append:/srv/log/{name}
[Unit]
Wants=
"""

COMMANDS = {
    "collector": "edge_sdk collector --config %d/collector.toml --database %S/edge-sdk-collector/telemetry.db",
    "jtop": "edge_sdk.device.sense.jtop_reader /run/edge-sdk-jtop/jtop.sock",
}

LOADER = '''
"""Asks the daemon from four threads until it goes away; prints how many answers came."""
import http.client, json, threading

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 0, 0]}]})
answered = []

def ask():
    client = http.client.HTTPConnection("127.0.0.1", 8000, timeout=10)
    try:
        while True:
            client.request("POST", "/v2/models/tiny/infer", BODY)
            answer = client.getresponse()
            answer.read()
            if answer.status == 200:
                answered.append(1)
    except (OSError, http.client.HTTPException):
        pass

threads = [threading.Thread(target=ask) for _ in range(4)]
for one in threads:
    one.start()
for one in threads:
    one.join()
print(len(answered), flush=True)
'''

FAILED = """
[Service]
ExecStart=
ExecStart=/bin/sh -c 'echo %i >>"$STATE_DIRECTORY/fired"'
StateDirectory=edge-sdk-failed
"""


def why_not():
    """Why the real systemd can't be run here; empty when it can."""
    if os.geteuid() != 0:
        return "the real systemd needs root to be PID 1 of a namespace; run `sudo tools/test systemd`"
    if SYSTEMD is None:
        return "there is no systemd on this machine: apt-get install systemd"
    for tool in ("unshare", "nsenter", "systemctl", "systemd-sysusers", "ip"):
        if shutil.which(tool) is None:
            return f"{tool} is not on PATH: apt-get install util-linux systemd iproute2"
    if _cgroup2() is None:
        return "no cgroup2 hierarchy is mounted"
    return ""


class Namespace:
    """A running systemd with our device unit in it."""

    def __init__(self, stage, bundle, *, watchdog_s=2, burst=4, settings=DEVICE):
        self.stage = stage
        self.srv = stage / "srv"
        for folder in (self.srv / "units", self.srv / "log", self.srv / "models", self.srv / "ways"):
            folder.mkdir(parents=True)
        shutil.copytree(bundle, self.srv / "tiny.edge")
        (self.srv / "misbehaving.py").write_text(WAYS)
        (self.srv / "loader.py").write_text(LOADER)
        self.background = []
        (self.srv / "device.toml").write_text(settings)
        self._write_units(watchdog_s, burst)
        for path in (stage, *stage.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        self.process = self.pid = self.group = None

    def __enter__(self):
        self.group = _cgroup2() / f"edge-sdk-test-{os.getpid()}"
        self.group.mkdir()
        environment = {
            "PATH": os.environ["PATH"], "STAGE": str(self.stage), "SYSTEMD": SYSTEMD, "UNITS": str(UNITS),
            "PYTHON_PREFIX": sys.base_prefix, "ROOT": str(ROOT), "PACKAGES": sysconfig.get_path("purelib"),
        }  # fmt: skip
        inner = ["unshare", "--kill-child", "--fork", "--pid", "--mount-proc", "--mount", "--uts", "--ipc", "--cgroup",
                 "--net", "bash", "-c", INNER]  # fmt: skip
        with (self.stage / "manager.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", f'echo $$ > {self.group}/cgroup.procs; exec "$@"', "_", *inner],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        is_up = ("running", "degraded")  # before, it says "offline" or "starting", and loses what it is asked
        self.wait_for(lambda: self._find_pid() and self.systemctl("is-system-running").stdout.strip() in is_up, 30)
        return self

    def __exit__(self, *_):
        for one in self.background:
            one.kill()
            one.wait()
        self.process.kill()  # unshare takes PID 1 with it, and PID 1 the rest
        self.process.wait()
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            for folder in sorted((path for path in self.group.rglob("*") if path.is_dir()), reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            try:
                self.group.rmdir()
            except OSError:
                time.sleep(0.1)
            else:
                return

    def run(self, *command, timeout=30):
        """Runs a command inside."""
        return subprocess.run(
            ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", *command],
            capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip

    def python(self, *arguments, log):
        """Starts our Python inside, its output in a file of /srv/log; it ends with the namespace."""
        environment = [f"PYTHONPATH=/srv:{self.packages}", "LD_LIBRARY_PATH=/opt/edge-sdk/lib"]
        with (self.srv / "log" / log).open("wb") as stream:
            process = subprocess.Popen(
                ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup",
                 "env", *environment, "/opt/edge-sdk/bin/python3", "-u", *arguments],
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            )  # fmt: skip
        self.background.append(process)
        return process

    def broker(self):
        """Starts a broker inside, and two listeners: every Sample, and everything."""
        self.python("-m", "edge_sdk", "broker", "--json", log="broker")
        self.wait_for(lambda: b"mqtt://" in (self.srv / "log/broker").read_bytes(), 30)
        self.python("-m", "edge_sdk", "watch", "--json", log="samples")
        self.python("-m", "edge_sdk", "watch", "--raw", "--json", log="everything")

    def samples(self):
        """Every Sample that has come over the broker."""
        text = (self.srv / "log/samples").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]

    def events(self):
        """The kinds of the events that have come over the broker."""
        lines = (self.srv / "log/everything").read_text().splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [one["payload"]["kind"] for one in found if one["topic"].endswith("/up/event")]

    def systemctl(self, *arguments):
        return self.run("systemctl", "--no-pager", *arguments)

    def show(self, unit="edge-sdk-device.service"):
        """The properties of a unit."""
        keys = "ActiveState,SubState,Result,NRestarts,MainPID"
        return dict(
            line.split("=", 1) for line in self.systemctl("show", "-p", keys, unit).stdout.splitlines() if "=" in line
        )

    def infer(self, word, timeout_s=2):
        """Asks the model; gives curl's exit code, and the status of HTTP."""
        body = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [word, 0, 0]}]}
        url = "http://127.0.0.1:8000/v2/models/tiny/infer"
        done = self.run(
            "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", str(timeout_s), "-d", json.dumps(body), url
        )
        return done.returncode, done.stdout

    def wait_until_ready(self, *, unlike="0", timeout_s=60):
        """Waits until the unit is active with another main process than `unlike`; gives its id."""

        def ready():
            now = self.show()
            is_new = now.get("MainPID") not in ("0", unlike)
            return now["MainPID"] if now.get("ActiveState") == "active" and is_new else ""

        return self.wait_for(ready, timeout_s)

    def wait_for(self, condition, timeout_s):
        deadline_s = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < deadline_s, self.words()
            assert self.process.poll() is None, self.words()
            time.sleep(0.05)
        return found

    def words(self):
        """What the manager and the daemon said, for a failing test."""
        texts = [
            file.read_text(errors="replace")[-2500:]
            for file in (self.stage / "manager.log", self.srv / "log/daemon")
            if file.exists()
        ]
        return "\n---\n".join(texts)

    def crash_at_load(self):
        (self.srv / "crash_at_load").write_text("")

    def install(self, bundle, way=""):
        """Puts a bundle into the repository, whole at once; it behaves in its way."""
        (self.srv / "ways" / bundle.name).write_text(way)
        staging = self.srv / "models" / f".{bundle.name}"
        shutil.copytree(bundle, staging)
        for path in (staging, *staging.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        staging.rename(staging.with_name(bundle.name))

    def drop_in(self, text):
        """Changes the device unit."""
        file = self.srv / "units/edge-sdk-device.service.d/without.conf"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        self.systemctl("daemon-reload")

    def forget_trials(self):
        """Lets every version begin anew."""
        (self.stage / "var_lib/edge-sdk/trials.json").unlink(missing_ok=True)

    def trials(self):
        """What the device holds of each version, by its version."""
        file = self.stage / "var_lib/edge-sdk/trials.json"
        found = json.loads(file.read_text())["versions"] if file.exists() else []
        return {one["version"]: one for one in found}

    def ask(self, path="/v2/models/tiny"):
        """Gives what a GET answers; empty where nobody does."""
        said = self.run("curl", "-s", "-m", "2", f"http://127.0.0.1:8000{path}").stdout
        return json.loads(said) if said.startswith("{") else {}

    def closing(self):
        """What the daemon wrote at its end."""
        file = self.stage / "var_lib/edge-sdk/closing.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def last_end(self):
        file = self.stage / "var_lib/edge-sdk/last-end"
        return file.read_text().strip() if file.exists() else ""

    def fired(self):
        file = self.stage / "var_lib/private/edge-sdk-failed/fired"
        return file.read_text().splitlines() if file.exists() else []

    def _find_pid(self):
        """The id, out here, of the one that is PID 1 in there."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with contextlib.suppress(OSError):
            for pid in children.read_text().split():
                if "systemd" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]:
                    self.pid = int(pid)
        return self.pid

    def _write_units(self, watchdog_s, burst):
        units = self.srv / "units"
        for file in UNITS.glob("*.service"):
            shutil.copy(file, units)
        packages = "/opt/source:/opt/packages"
        self.packages = packages
        texts = {
            f"edge-sdk-{name}.service.d/test.conf": OTHERS.format(name=name, command=command, packages=packages)
            for name, command in COMMANDS.items()
        }
        texts |= {
            "edge-sdk-device.service.d/test.conf": TIMES.format(packages=packages, watchdog_s=watchdog_s, burst=burst),
            "edge-sdk-failed@.service.d/test.conf": FAILED,
            "edge.target": "[Unit]\nDescription=test\nDefaultDependencies=no\n",
        }
        for name in ("sysinit", "basic", "shutdown", "network-online"):
            texts[f"{name}.target"] = f"[Unit]\nDescription={name}\nDefaultDependencies=no\n"
        for name, text in texts.items():
            (units / name).parent.mkdir(exist_ok=True)
            (units / name).write_text(text)


def status_of(pid):
    """What the kernel says of a process, by its id out here."""
    return dict(re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))


def outer_pid(namespace, inner):
    """The id, out here, of a process by its id in there."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ids = status_of(folder.name).get("NSpid", "").split()
            ours = os.readlink(folder / "ns/pid_for_children") == os.readlink(
                f"/proc/{namespace.pid}/ns/pid_for_children"
            )
            if ours and ids[-1:] == [inner]:
                return int(folder.name)
    raise AssertionError(f"no process {inner} in the namespace")


def stop(pid):
    """Freezes a process, as a driver call that never returns does to all of its threads."""
    os.kill(pid, signal.SIGSTOP)


def _cgroup2():
    for line in Path("/proc/mounts").read_text().splitlines():
        fields = line.split()
        if fields[2] == "cgroup2":
            return Path(fields[1])
    return None
