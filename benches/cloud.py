"""Measures the AWS backend on the stand-ins, with a simulated network delay to each of them."""

import http.client
import json
import re
import socket
import statistics
import subprocess
import threading
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

from embedded import STOCK, stress, temporary_directory
from processes import (FLUX, ROOT, Failed, Wrk, audit, drained, end, environment, example, get,
                       run, running)

SERVICES = {"sqs": "AWS_ENDPOINT_URL_SQS", "dynamodb": "AWS_ENDPOINT_URL_DYNAMODB"}


class Cloud:
    """New stand-ins with tables, queue and items, behind proxies that delay requests."""

    def __init__(self, stack, delay_ms, items=("hot",)):
        self.stack = stack
        self.directory = stack.enter_context(temporary_directory())
        local = [ROOT / "scripts/local-cloud"]
        state = ["--state", self.directory / "cloud"]
        stack.callback(run, [*local, "down", *state], self.directory)
        out = run([*local, "up", *state], self.directory)
        variables = dict(re.findall(r"(\w+)=(\S+)", out)) | {"FLUX_BACKEND": "aws"}
        self.direct = environment(variables)
        self.delayed = self.direct
        if delay_ms:
            self.delayed = environment(variables | self.delays(variables, delay_ms))
        catalog = self.directory / "items.json"
        catalog.write_text(json.dumps([{"item_id": i, "stock": STOCK} for i in items]))
        made = run([FLUX, "provision", "--catalog", catalog], self.directory, self.direct)
        queue = re.search(r"SQS_QUEUE_URL=(\S+)", made)[1]
        for env in (self.direct, self.delayed):
            env["SQS_QUEUE_URL"] = queue

    def delays(self, variables, delay_ms):
        upstream = {name: urlsplit(variables[name]).netloc for name in SERVICES.values()}
        redis = f"127.0.0.1:{variables['REDIS_PORT']}"
        through = {name: f"http://{self.proxy(at, delay_ms)}" for name, at in upstream.items()}
        before = self.proxy(redis, delay_ms)
        self.measured_ms = round_trip(before) - round_trip(redis)
        return through | {"REDIS_PORT": before.split(":")[1]}

    def proxy(self, upstream, delay_ms):
        command = [example("delay_proxy"), upstream, delay_ms]
        return self.stack.enter_context(running(command, self.directory)).address()

    def serve(self, workers):
        serve = [FLUX, "serve", "--listen", "127.0.0.1:0"]
        self.processes = [self.stack.enter_context(running(serve, self.directory, self.delayed))]
        for _ in range(workers):
            work = running([FLUX, "work"], self.directory, self.delayed)
            self.processes.append(self.stack.enter_context(work))
        self.address = self.processes[0].address()
        time.sleep(1)  # Gives the workers time to start.

    def audit(self, at_least):
        end(self.processes)
        return audit(self.directory, self.direct, at_least)


def round_trip(address):
    """Median of a PING to Redis, in ms."""
    host, port = address.split(":")
    took = []
    with socket.create_connection((host, int(port))) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(100):
            began = time.monotonic()
            s.sendall(b"PING\r\n")
            s.recv(100)
            took.append((time.monotonic() - began) * 1000)
    return statistics.median(took)


def decided(orders, workers, delay_ms=5, kind="plain"):
    """Sends a burst of at least `orders` orders to `serve`, decided by `workers` processes. The
    time runs from the first order until the queue is empty."""
    items = [f"hot-{n}" for n in range(100)] if kind == "items" else ["hot"]
    with ExitStack() as stack:
        cloud = Cloud(stack, delay_ms, items)
        cloud.serve(workers)
        began = time.monotonic()
        wrk = Wrk(stack, cloud.directory, cloud.address, 64, 60, kind)
        while wrk.running() and get(cloud.address, "/stats")["accepted"] < orders:
            time.sleep(0.02)
        wrk.interrupt()
        sent = wrk.result()
        empty = drained(cloud.address, poll=0.05)
        found = cloud.audit(sent["accepted"])["orders"]
        return {"orders": found, "workers": workers, "delay_ms": cloud.measured_ms,
                "accepted_per_s": sent["accepted_per_s"],
                "decided_per_s": found / (empty - began)}


def replay(transactions, delay_ms=5):
    """Orders a second of the transactions alone, one after another, with the same delay."""
    with ExitStack() as stack:
        cloud = Cloud(stack, delay_ms)
        at = urlsplit(cloud.delayed["AWS_ENDPOINT_URL_DYNAMODB"]).netloc
        out = run([example("replay"), at, "flux", transactions], cloud.directory)
        done = json.loads(out)
        return done["orders"] / done["seconds"]


def round_trips(connections, duplicates, users=10_000):
    """Round trips per order in a burst, as counted by `flux stress`, without delay."""
    with ExitStack() as stack:
        cloud = Cloud(stack, 0)
        return stress(cloud.directory, cloud.direct, "--item", "hot", "--users", users,
                      "--stock", users // 2, "--connections", connections,
                      "--duplicates", duplicates)


class QuietBuyers:
    """Sends orders for one item at a fixed rate and waits for each decision. Latencies are measured
    from the scheduled time, in ms."""

    def __init__(self, address, rate, seconds, buyers=16):
        self.address, self.rate, self.count = address, rate, int(rate * seconds)
        self.took, self.failed = [], []
        self.threads = [threading.Thread(target=self.buy, args=(first, buyers))
                        for first in range(buyers)]
        self.began = time.monotonic() + 0.1
        for thread in self.threads:
            thread.start()

    def buy(self, first, step):
        connection = http.client.HTTPConnection(self.address, timeout=40)
        try:
            for number in range(first, self.count, step):
                scheduled = self.began + number / self.rate
                time.sleep(max(0, scheduled - time.monotonic()))
                body = json.dumps({"user_id": f"quiet-{number}", "item_id": "quiet"})
                order = self.ask(connection, "POST", "/buy", body)["order_id"]
                seen = self.ask(connection, "GET", f"/orders/{order}?wait=30")
                if seen["status"] != "sold":
                    raise Failed(f"an order for the quiet item is {seen['status']} after 30 s")
                self.took.append((time.monotonic() - scheduled) * 1000)
        except (Failed, OSError, http.client.HTTPException, KeyError) as e:
            self.failed.append(e)
        finally:
            connection.close()

    @staticmethod
    def ask(connection, method, path, body=None):
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status not in (200, 202):
            raise Failed(f"{method} {path}: {answer.status}")
        return json.loads(body)

    def p99(self):
        for thread in self.threads:
            thread.join()
        if self.failed:
            raise Failed(f"quiet buyers: {self.failed[0]}")
        return statistics.quantiles(self.took, n=100)[98]


def quiet(seconds, hot_rate, delay_ms=5, rate=10):
    """p99 of the time to decision of a quiet item, in ms. `hot_rate` is the number of orders a
    second for another item."""
    with ExitStack() as stack:
        cloud = Cloud(stack, delay_ms, ["hot", "quiet"])
        cloud.serve(1)
        hot = None
        if hot_rate:
            command = [FLUX, "stress", "--yes-sell-real-stock",
                       "--target", f"http://{cloud.address}", "--item", "hot",
                       "--rate", int(hot_rate), "--users", int(hot_rate * (seconds + 3)),
                       "--connections", 64, "--duplicates", 0]
            hot = stack.enter_context(running(command, cloud.directory, cloud.delayed))
            time.sleep(2)
        buyers = QuietBuyers(cloud.address, rate, seconds)
        p99 = buyers.p99()
        if hot:
            try:
                hot.popen.wait(180)
            except subprocess.TimeoutExpired:
                raise Failed("the hot item's orders were not decided within 180 s") from None
            if hot.popen.returncode != 0:
                raise Failed(f"flux stress for the hot item failed: {hot.last_lines()}")
        cloud.audit(len(buyers.took))
        return p99
