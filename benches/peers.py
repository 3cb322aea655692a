"""Measures alternatives to flux, called directly without HTTP: Redis and PostgreSQL."""

import os
import pwd
import re
import shutil
import socket
import tempfile
import time
from pathlib import Path

from embedded import temporary_directory
from processes import Failed, run, running

STOCK = 1_000_000_000
# One reservation: at most one per order, never beyond the stock, and the order is stored.
RESERVE = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return 0 end
if tonumber(redis.call('GET', KEYS[1])) < 1 then return -1 end
redis.call('DECR', KEYS[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
"""
SELL = """\\set buyer random(1, 1000000000)
BEGIN;
UPDATE items SET free = free - 1, sold = sold + 1 WHERE id = 'hot' AND free > 0;
INSERT INTO orders (item, buyer) VALUES ('hot', :buyer);
COMMIT;
"""
TABLES = f"""
CREATE TABLE items (id text PRIMARY KEY, free bigint NOT NULL, sold bigint NOT NULL);
CREATE TABLE orders (id bigserial PRIMARY KEY, item text NOT NULL, buyer bigint NOT NULL);
INSERT INTO items VALUES ('hot', {STOCK}, 0);
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def redis(clients, fsync, orders):
    """Reservations a second by a Lua script. With `fsync`, each is on disk before its reply;
    otherwise nothing is written to disk."""
    port = free_port()
    durable = ["--appendonly", "yes", "--appendfsync", "always"] if fsync else []
    command = ["redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", *durable]
    with temporary_directory() as here, running(command, here) as server:
        def ask(*arguments):
            return run(["redis-cli", "-p", port, *arguments], here).strip()

        await_log_line(server, b"Ready to accept connections")
        ask("SET", "stock", STOCK)
        script = ask("SCRIPT", "LOAD", RESERVE)
        out = run(["redis-benchmark", "-p", port, "-c", clients, "-n", orders, "-P", 1,
                   "-r", 2_000_000_000, "--csv", "EVALSHA", script, 2, "stock", "orders",
                   "order:__rand_int__", "buyer"], here)
        sold, kept = STOCK - int(ask("GET", "stock")), int(ask("HLEN", "orders"))
        if sold != kept or not 0.99 * orders <= sold <= orders:
            raise Failed(f"of {orders} orders Redis sold {sold} and stored {kept}")
        # Its first column is the command with its commas, its second the requests a second.
        return float(re.findall(r'"([\d.]+)"', out.splitlines()[-1])[0])


def await_log_line(server, text, within=30):
    """Waits until the server has logged this text."""
    end = time.monotonic() + within
    while time.monotonic() < end and server.popen.poll() is None:
        if text in server.log.read_bytes():
            return
        time.sleep(0.05)
    raise Failed(f"{server.name} failed to start: {server.last_lines()}")


def postgres_programs():
    """The directory of initdb, postgres, pgbench and psql; `None` if they are not installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    for directory in [*reversed(versions), *map(Path, os.environ["PATH"].split(":"))]:
        if all((directory / name).exists() for name in ("initdb", "postgres", "pgbench", "psql")):
            return directory
    return None


def postgres(clients, seconds):
    """Orders a second of transactions that update the one hot row and insert the order, on disk
    before the reply. `None` if PostgreSQL is not installed."""
    programs = postgres_programs()
    if programs is None:
        return None
    # PostgreSQL refuses to run as root.
    user = pwd.getpwnam("postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
    as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    as_user = as_user if os.geteuid() == 0 else []
    port = free_port()
    # Not in the build directory, which another user may not be able to enter.
    here = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp"))
    os.chown(here, user.pw_uid, user.pw_gid)
    try:
        run([*as_user, programs / "initdb", "-D", here / "data", "-A", "trust", "-U", "bench"],
            here)
        start = [*as_user, programs / "postgres", "-D", here / "data", "-p", port, "-k", here,
                 "-c", "listen_addresses=127.0.0.1"]
        with running(start, here) as server:
            await_log_line(server, b"ready to accept connections")
            to = ["-h", "127.0.0.1", "-p", port, "-U", "bench"]
            run([programs / "psql", *to, "-d", "postgres", "-q", "-c", TABLES], here)
            (here / "sell.sql").write_text(SELL)
            out = run([programs / "pgbench", *to, "-n", "-M", "prepared", "-c", clients, "-j", 2,
                       "-T", seconds, "-f", here / "sell.sql", "postgres"], here)
            balanced = run([programs / "psql", *to, "-d", "postgres", "-Atc",
                        "SELECT sold = (SELECT count(*) FROM orders) FROM items"], here)
            if balanced.strip() != "t":
                raise Failed("PostgreSQL: sold units and orders differ")
            return float(re.search(r"tps = ([\d.]+)", out)[1])
    finally:
        shutil.rmtree(here, ignore_errors=True)
