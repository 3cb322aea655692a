"""Measures the embedded backend and a bare hyper server under load."""

import json
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from processes import (FLUX, RELEASE, Failed, Wrk, audit, drained, end, environment, example, get,
                       run, running, waiting)

STOCK = 1_000_000_000
# The backlog counts as growing if it grows by more than this fraction of the accepted orders.
GROWTH = 0.02


@contextmanager
def temporary_directory():
    """A temporary directory on the disk of the build, because a sync in memory costs nothing."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=RELEASE) as directory:
        yield Path(directory)


def bare(connections, seconds, kind="plain"):
    """Requests a second of the bare server."""
    with ExitStack() as stack:
        here = stack.enter_context(temporary_directory())
        server = stack.enter_context(running([example("bare_server")], here))
        result = Wrk(stack, here, server.address(), connections, seconds, kind).result()
        if result["refused"] or result["broken"]:
            raise Failed(f"the bare server refused requests or closed connections: {result}")
        return result["accepted_per_s"]


class Deployment:
    """`flux serve` on a new embedded store with one item, and workers."""

    def __init__(self, stack, serve_workers=4, workers=0, settings=None):
        self.directory = stack.enter_context(temporary_directory())
        self.env = environment({"FLUX_DATA": str(self.directory / "flux.db")} | (settings or {}))
        run([FLUX, "provision", "--item", "hot", "--stock", STOCK], self.directory, self.env)
        serve = [FLUX, "serve", "--listen", "127.0.0.1:0", "--workers", serve_workers]
        self.serve = stack.enter_context(running(serve, self.directory, self.env))
        self.address = self.serve.address()
        self.stack, self.workers = stack, []
        for _ in range(workers):
            self.start_worker()

    def start_worker(self):
        worker = running([FLUX, "work"], self.directory, self.env)
        self.workers.append(self.stack.enter_context(worker))

    def audit(self, at_least):
        end([*self.workers, self.serve])
        return audit(self.directory, self.env, at_least)


def growth(samples):
    """Orders a second by which the backlog grew, after the first fifth of the samples."""
    later = samples[len(samples) // 5:]
    if len(later) < 3:
        return 0.0
    return statistics.linear_regression(*zip(*later)).slope


def load(connections, seconds, kind="plain", serve_workers=4, workers=0):
    """Sends as many orders as the connections can; workers decide them in parallel. Audited."""
    with ExitStack() as stack:
        deployment = Deployment(stack, serve_workers, workers)
        began = time.monotonic()
        wrk = Wrk(stack, deployment.directory, deployment.address, connections, seconds, kind)
        samples = []
        while wrk.running():
            time.sleep(0.25)
            samples.append((time.monotonic() - began, waiting(deployment.address)))
        result = wrk.result()
        sent = time.monotonic()
        empty = drained(deployment.address)
        orders = deployment.audit(result["accepted"])["orders"]
        grew = growth(samples) / result["accepted_per_s"]
        return result | {
            "connections": connections,
            "orders": orders,
            "decided_per_s": orders / (empty - began),
            "drain_s": empty - sent,
            "backlog_max": max(backlog for _, backlog in samples),
            "backlog_growth": grew,
            "sustained": grew <= GROWTH,
        }


def open_loop(rate, seconds):
    """The report of `flux stress` for orders at a fixed rate."""
    with ExitStack() as stack:
        deployment = Deployment(stack)
        report = stress(deployment.directory, deployment.env, "--yes-sell-real-stock",
                        "--target", f"http://{deployment.address}", "--item", "hot",
                        "--users", int(rate * seconds), "--rate", int(rate),
                        "--connections", 256, "--duplicates", 0)
        deployment.audit(report["accepted"])
        return report


def stress(here, env, *arguments):
    """The report of `flux stress`, whose audit must pass."""
    file = here / "report.json"
    run([FLUX, "stress", *arguments, "--report", file], here, env, ok=(0, 1))
    report = json.loads(file.read_text())
    if report["verdict"] != "pass":
        raise Failed(f"flux stress: {report['faults']}")
    return report


def memory(orders):
    """Peak memory of `serve` with `orders` orders waiting, and of the `work` that drains them."""
    with ExitStack() as stack:
        deployment = Deployment(stack, serve_workers=0)
        wrk = Wrk(stack, deployment.directory, deployment.address, 256, 240)
        while wrk.running() and get(deployment.address, "/stats")["accepted"] < orders:
            time.sleep(0.1)
        wrk.interrupt()
        accepted = wrk.result()["accepted"]
        if accepted < orders:
            raise Failed(f"only {accepted} of {orders} orders were accepted")
        serving = deployment.serve.peak_mb()
        deployment.start_worker()
        began = time.monotonic()
        empty = drained(deployment.address)
        peaks = {"serve_waiting_mb": serving, "serve_mb": deployment.serve.peak_mb(),
                 "work_mb": deployment.workers[0].peak_mb(), "orders": accepted,
                 "drained_per_s": accepted / (empty - began)}
        deployment.audit(accepted)
        return peaks


def start_up(times):
    """Milliseconds from the start of `serve` to `listening`: on a new store, on an existing one."""
    with temporary_directory() as here:
        env = environment({"FLUX_DATA": str(here / "flux.db")})
        took = []
        for _ in range(times + 1):
            began = time.monotonic()
            command = [str(FLUX), "serve", "--listen", "127.0.0.1:0"]
            serve = subprocess.Popen(command, cwd=here, env=env, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            listening = any(b"listening on" in line for line in serve.stderr)
            took.append((time.monotonic() - began) * 1000)
            serve.terminate()
            serve.stderr.read()
            if serve.wait(20) != 0 or not listening:
                raise Failed("flux serve failed to start")
        return {"first_ms": took[0], "ms": statistics.median(took[1:])}
