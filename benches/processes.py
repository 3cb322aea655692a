"""Starts the processes of a measurement on loopback, and stops them by pid."""

import http.client
import json
import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
FLUX = RELEASE / "flux"
# Prefixes of the variables that flux reads. A measurement starts without them.
OURS = ("FLUX_", "AWS_", "SQS_", "DYNAMODB_", "REDIS_")


class Failed(Exception):
    """A measurement failed. The message is one line with the reason."""


def environment(extra=None):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
    return clean | (extra or {})


def example(name):
    return RELEASE / "examples" / name


class Process:
    """A started process. Its output is in its log."""

    def __init__(self, command, directory, env=None):
        self.name = Path(command[0]).name + "-" + (command[1] if len(command) > 1 else "")
        self.name = re.sub(r"[^\w.-]", "_", self.name)
        self.log = directory / f"{self.name}-{time.monotonic_ns()}.log"
        with open(self.log, "wb") as log:
            self.popen = subprocess.Popen(
                [str(part) for part in command], cwd=directory, env=env or environment(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def address(self, within=15):
        """HOST:PORT from its log line `listening on ...`."""
        end = time.monotonic() + within
        while time.monotonic() < end and self.popen.poll() is None:
            found = re.search(rb"listening on (?:http://)?([\d.]+:\d+)\s", self.log.read_bytes())
            if found:
                return found[1].decode()
            time.sleep(0.005)
        raise Failed(f"{self.name} failed to start: {self.last_lines()}")

    def last_lines(self):
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-3:])

    def peak_mb(self):
        """Peak resident memory so far, in MB (10^6 bytes)."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e6

    def end(self, within=20):
        end([self], within)


def end(processes, within=20):
    """Stops all processes: SIGTERM at once, and SIGKILL for each that does not exit in time."""
    left = [process.popen for process in processes if process.popen.poll() is None]
    for popen in left:
        popen.send_signal(signal.SIGTERM)
    for popen in left:
        try:
            popen.wait(within)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


@contextmanager
def running(command, directory, env=None):
    process = Process(command, directory, env)
    try:
        yield process
    finally:
        process.end()


def run(command, directory, env=None, within=600, ok=(0,)):
    """Runs a command and returns its output. Raises `Failed` with its last line of output."""
    done = subprocess.run(
        [str(part) for part in command], cwd=directory, env=env or environment(), timeout=within,
        stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode not in ok:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no output"]
        raise Failed(f"{Path(str(command[0])).name} {command[1]}: {lines[-1]}")
    return done.stdout


def get(address, path, within=10):
    connection = http.client.HTTPConnection(address, timeout=within)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def waiting(address):
    """The number of undecided orders (embedded) or messages (SQS)."""
    backlog = get(address, "/stats")["backlog"]
    return None if backlog is None else backlog["waiting"]


def drained(address, within=300, poll=0.02):
    """Waits for an empty backlog; returns that time. Fails after a minute without progress."""
    least, since, end = None, time.monotonic(), time.monotonic() + within
    while time.monotonic() < end:
        now = waiting(address)
        if now == 0:
            return time.monotonic()
        if least is None or (now is not None and now < least):
            least, since = now, time.monotonic()
        if time.monotonic() - since > 60:
            break
        time.sleep(poll)
    raise Failed(f"the backlog does not drain: {least} waiting")


class Wrk:
    """wrk against /buy, until the stack ends. Closed loop: each connection sends its next request
    after the response."""

    def __init__(self, stack, directory, address, connections, seconds, kind="plain", item="hot"):
        env = environment({
            "BUY": kind, "BUY_ITEM": item, "BUY_RUN": str(time.time_ns())})
        script = ROOT / "benches/buy.lua"
        command = ["wrk", f"-t{min(2, connections)}", f"-c{connections}", f"-d{seconds}s",
                   "--timeout", "10s", "-s", script, f"http://{address}/buy"]
        self.seconds = seconds
        self.process = stack.enter_context(running(command, directory, env))

    def running(self):
        return self.process.popen.poll() is None

    def interrupt(self):
        self.process.popen.send_signal(signal.SIGINT)

    def result(self):
        """Waits for the end. Returns the numbers of requests, 202 responses and 202s per second."""
        try:
            self.process.popen.wait(self.seconds + 30)
        except subprocess.TimeoutExpired:
            self.process.end()
            raise Failed("wrk did not exit") from None
        lines = [line for line in self.process.log.read_text().splitlines() if line[:1] == "{"]
        if not lines:
            raise Failed(f"wrk: {self.process.last_lines()}")
        result = json.loads(lines[-1])
        result["accepted"] = result["requests"] - result["refused"]
        result["accepted_per_s"] = result["accepted"] / result["seconds"]
        return result


def audit(directory, env, at_least):
    """Runs `flux audit` on a run's store, and returns the report. Raises `Failed` if it fails."""
    figures = json.loads(run([FLUX, "audit", "--json"], directory, env, ok=(0, 1)))
    del figures["items"]
    if figures["verdict"] != "pass":
        raise Failed(f"flux audit failed: {figures}")
    if figures["undecided"] or figures["orders"] < at_least:
        raise Failed(f"of {at_least} accepted orders {figures['orders']} are stored, "
                     f"{figures['undecided']} undecided")
    return figures
