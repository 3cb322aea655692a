"""Measures flux, its lower bounds and its peers, and prints a table with targets.

A figure is the median of its repetitions, and a ratio is computed from medians. A figure and the
one that it is compared with are measured alternately, so that other load on the machine affects
both. flux's stores are audited after each run; a run that fails its audit gives no figure."""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date

import cloud
import embedded
import peers
from processes import FLUX, RELEASE, ROOT, Failed

GROUPS = ["load", "postgres", "keyed", "apart", "open-loop", "memory", "start",
          "aws-trips", "aws-hot", "aws-items", "aws-quiet"]


class Bench:
    """The rows of the table so far, and all measurements behind them."""

    def __init__(self, quick):
        self.quick = quick
        self.rounds = 1 if quick else 3
        self.rows, self.raw = [], {}
        # Share of the CPU that was busy before each measurement.
        self.others = []

    def measure(self, name, measurement, *arguments, **named):
        """Runs one more repetition of `name`, and stores the result."""
        self.others.append(busy())
        began = time.monotonic()
        result = measurement(*arguments, **named)
        self.raw.setdefault(name, []).append(result)
        say(f"{name}: {short(result)} ({time.monotonic() - began:.0f} s)")
        return result

    def median(self, name, key=None):
        """The median of all repetitions; `None` if there are none."""
        results = self.raw.get(name, [])
        values = [result[key] if key else result for result in results]
        values = [value for value in values if value is not None]
        return statistics.median(values) if values else None

    def row(self, figure, target, value, met, beside=""):
        """Adds a row to the table; `met` is `None` if the figure has no target."""
        verdict = {None: "", True: "met", False: "NOT met"}[met]
        self.rows.append({"figure": figure, "target": target, "value": value, "verdict": verdict,
                          "beside": beside})


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def short(result):
    if isinstance(result, float):
        return f"{result:,.1f}"
    if not isinstance(result, dict):
        return str(result)
    shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}
    keys = ("accepted_per_s", "decided_per_s", "drain_s", "backlog_max", "backlog_growth")
    return json.dumps({k: shown[k] for k in keys if k in shown} or shown)[:400]


def busy(over=0.3):
    """Share of the CPU that other processes use, measured over `over` seconds."""
    def times():
        with open("/proc/stat") as stat:
            fields = [int(field) for field in stat.readline().split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    before = times()
    time.sleep(over)
    after = times()
    return round(1 - (after[1] - before[1]) / max(1, after[0] - before[0]), 3)


def seconds(bench, full, quick):
    return quick if bench.quick else full


def load(bench):
    for _ in range(bench.rounds):
        for c in (64, 256):
            bench.measure(f"bare-{c}", embedded.bare, c, seconds(bench, 8, 3))
            bench.measure(f"flux-{c}", embedded.load, c, seconds(bench, 30, 6))
            for name, fsync, orders in (("fsync", True, 150_000), ("none", False, 300_000)):
                orders //= 3 if bench.quick else 1
                bench.measure(f"redis-{name}-{c}", peers.redis, c, fsync, orders)
    for _ in range(bench.rounds):
        bench.measure("bare-1", embedded.bare, 1, seconds(bench, 4, 2))
        bench.measure("flux-1", embedded.load, 1, seconds(bench, 8, 3))
    for c, least in ((256, 0.60), (64, 0.45)):
        accepted, bare = bench.median(f"flux-{c}", "accepted_per_s"), bench.median(f"bare-{c}")
        ratio_row(bench, f"embedded: accepted/s, {c} connections", accepted, bare, least)
    for c, least in ((256, 0.50), (64, 0.40)):
        decided_row(bench, c, least)
    bench.row("embedded: decided/s, 1 connection: every batch is one order", "",
              per_s(bench.median("flux-1", "decided_per_s")), None,
              f"bare {per_s(bench.median('bare-1'))}")


def postgres(bench):
    for _ in range(bench.rounds):
        if bench.measure("postgres", peers.postgres, 32, seconds(bench, 8, 3)) is None:
            return say("PostgreSQL is not installed (Debian: postgresql): skipped")
    bench.row("PostgreSQL: one hot row and an order, 32 clients", "",
              per_s(bench.median("postgres")), None)


def decided_row(bench, c, least):
    runs = bench.raw[f"flux-{c}"]
    decided, bare = bench.median(f"flux-{c}", "decided_per_s"), bench.median(f"bare-{c}")
    fsync, none = bench.median(f"redis-fsync-{c}"), bench.median(f"redis-none-{c}")
    sustained = all(run["sustained"] for run in runs)
    backlog = "no growing backlog" if sustained else "the backlog GROWS"
    backlog += f" (at most {max(run['backlog_max'] for run in runs):,}), "
    ratio_row(bench, f"embedded: decided/s end to end, {c} connections", decided, bare, least,
              beside=f"{backlog}Redis fsync {per_s(fsync)}, none {per_s(none)}",
              more=f", above Redis with fsync ({per_s(fsync)})",
              also=sustained and decided > fsync)


def ratio_row(bench, figure, value, floor, least, beside="", more="", also=True):
    ratio = value / floor
    bench.row(figure, f">= {least:.2f} of the bare server{more}", f"{per_s(value)} = {ratio:.2f}",
              ratio >= least and also, f"bare {per_s(floor)}" + (f", {beside}" if beside else ""))


def per_s(value):
    return "not measured" if value is None else f"{value:,.0f}/s"


def keyed(bench):
    for _ in range(bench.rounds):
        for c in (64, 256):
            bench.measure(f"bare-keyed-{c}", embedded.bare, c, seconds(bench, 5, 3), "keyed")
            bench.measure(f"keyed-{c}", embedded.load, c, seconds(bench, 15, 6), "keyed")
    for c in (256, 64):
        decided, bare = bench.median(f"keyed-{c}", "decided_per_s"), bench.median(f"bare-keyed-{c}")
        ratio_row(bench, f"embedded: decided/s, keyed, {c} connections", decided, bare, 0.30)


def apart(bench):
    for _ in range(bench.rounds):
        bench.measure("bare-apart", embedded.bare, 256, seconds(bench, 5, 3))
        bench.measure("apart", embedded.load, 256, seconds(bench, 20, 6),
                      serve_workers=0, workers=2)
    runs = bench.raw["apart"]
    ratio_row(bench, "embedded: decided/s, serve and two separate work, 256 connections",
              bench.median("apart", "decided_per_s"), bench.median("bare-apart"), 0.35,
              f"backlog at most {max(run['backlog_max'] for run in runs):,}")


def open_loop(bench):
    if "flux-256" not in bench.raw:
        bench.measure("flux-256", embedded.load, 256, 5)
    highest = bench.median("flux-256", "decided_per_s")
    for _ in range(bench.rounds):
        bench.measure("open-loop", embedded.open_loop, highest / 2, seconds(bench, 15, 5))
    runs = bench.raw["open-loop"]
    median = lambda what, p: statistics.median(run[what][p] for run in runs)
    kept = statistics.median(run["accepted_per_s"] for run in runs)
    beside = (f"at {per_s(highest / 2)}, half of the highest (kept: {per_s(kept)}); "
              f"a sync takes {sync_ms():.2f} ms")
    for what, p, most in (("ack_ms", "p99", 5), ("ack_ms", "p999", 20), ("decision_ms", "p99", 50)):
        name = {"ack_ms": "acknowledgement", "decision_ms": "time to decision"}[what]
        value = median(what, p)
        bench.row(f"embedded: {name} {p.replace('p999', 'p99.9')}, open loop", f"<= {most} ms",
                  f"{value:.1f} ms", value <= most, beside)


def memory(bench):
    orders = 200_000 if bench.quick else 1_000_000
    peaks = bench.measure("memory", embedded.memory, orders)
    for name, key in (("serve, orders waiting", "serve_waiting_mb"), ("serve, whole run", "serve_mb"),
                      ("work, draining them", "work_mb")):
        bench.row(f"embedded: peak memory of {name}", "<= 150 MB", f"{peaks[key]:.0f} MB",
                  peaks[key] <= 150, f"{peaks['orders']:,} orders")


def start(bench):
    took = bench.measure("start", embedded.start_up, 10)
    bench.row("start to `listening`", "< 50 ms", f"{took['ms']:.0f} ms", took["ms"] < 50,
              f"{took['first_ms']:.0f} ms if the store has to be created")
    size = bench.measure("binary", FLUX.stat().st_size.__int__) / 1e6
    bench.row("size of the binary", "", f"{size:.1f} MB", None)


def aws_trips(bench):
    limits = {"sqs": 0.05, "redis": 0.1, "dynamodb": 0.05}
    say("write units are not measured: flux does not count them")
    for connections, duplicates in ((512, 0), (512, 0.1), (64, 0)):
        name = f"trips-{connections}-{duplicates}"
        for _ in range(bench.rounds):
            bench.measure(name, cloud.round_trips, connections, duplicates)
        for service, most in limits.items():
            values = [run["requests_per_order"][service] for run in bench.raw[name]]
            value, aim = statistics.median(values), (connections, duplicates) == (512, 0)
            bench.row(f"aws: {service} round trips per order, {connections} connections, "
                      f"duplicates {duplicates}", f"<= {most}" if aim else "", f"{value:.4f}",
                      value <= most if aim else None, "one by one: SQS 3, Redis 2, DynamoDB 2")


def aws_hot(bench):
    orders = 3_000 if bench.quick else 20_000
    for _ in range(bench.rounds):
        bench.measure("aws-1", cloud.decided, orders, 1)
        bench.measure("replay", cloud.replay, 30 if bench.quick else 150)
        bench.measure("aws-4", cloud.decided, orders, 4)
    one, four = (bench.median(f"aws-{n}", "decided_per_s") for n in (1, 4))
    replay, delay = bench.median("replay"), bench.median("aws-1", "delay_ms")
    bench.row("aws: decided/s, one hot item, 5 ms added, one worker process",
              ">= 1,500/s and >= 0.40 of the bare replay", f"{per_s(one)} = {one / replay:.2f}",
              one >= 1500 and one >= 0.4 * replay,
              f"bare replay {per_s(replay)}, {delay:.1f} ms added as measured")
    bench.row("aws: the same, four worker processes", ">= 0.80 of one",
              f"{per_s(four)} = {four / one:.2f}", four >= 0.8 * one)


def aws_items(bench):
    orders = 3_000 if bench.quick else 20_000
    for _ in range(bench.rounds):
        if len(bench.raw.get("aws-1", [])) < bench.rounds:
            bench.measure("aws-1", cloud.decided, orders, 1)
        bench.measure("aws-items", cloud.decided, orders, 1, kind="items")
    hundred, one = (bench.median(name, "decided_per_s") for name in ("aws-items", "aws-1"))
    bench.row("aws: decided/s, 100 items at once, 5 ms added", ">= 0.50 of one hot item",
              f"{per_s(hundred)} = {hundred / one:.2f}", hundred >= 0.5 * one,
              f"one {per_s(one)}")


def aws_quiet(bench):
    if "aws-1" not in bench.raw:
        bench.measure("aws-1", cloud.decided, 3_000 if bench.quick else 20_000, 1)
    half, window = bench.median("aws-1", "decided_per_s") / 2, seconds(bench, 30, 10)
    for _ in range(bench.rounds):
        bench.measure("quiet-alone", cloud.quiet, window, 0)
        bench.measure("quiet-beside", cloud.quiet, window, half)
    alone, beside = bench.median("quiet-alone"), bench.median("quiet-beside")
    bench.row("aws: p99 of a quiet item's decision during a hot sale, 5 ms added",
              "<= 2x its p99 alone", f"{beside:.0f} ms = {beside / alone:.1f}x",
              beside <= 2 * alone, f"alone {alone:.0f} ms, the hot sale at {per_s(half)}")


def sync_ms():
    """Median time of a write and fdatasync of 4 KiB, on the file system of the stores, in ms."""
    with tempfile.NamedTemporaryFile(dir=RELEASE) as file:
        took = []
        for _ in range(200):
            began = time.monotonic()
            os.write(file.fileno(), bytes(4096))
            os.fdatasync(file.fileno())
            took.append((time.monotonic() - began) * 1000)
        return statistics.median(took)


def circumstances(arguments):
    def git(*command):
        return subprocess.check_output(["git", *command], cwd=ROOT, text=True).strip()

    def version(program, *asked):
        found = shutil.which(program)
        result = found and subprocess.run([found, *asked], capture_output=True, text=True)
        return result and (result.stdout + result.stderr).splitlines()[0]

    cpu = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line]
    return {
        "date": date.today().isoformat(), "commit": git("describe", "--always", "--dirty"),
        "machine": {
            "cores": os.cpu_count(), "cpu": cpu[0] if cpu else platform.machine(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "kernel": platform.release(), "sync_ms": round(sync_ms(), 3),
            "load_average_before": os.getloadavg()[0],
        },
        "versions": {"wrk": version("wrk", "--version"),
                     "redis": version("redis-server", "--version"),
                     "postgres": version("postgres", "--version")},
        "quick": arguments.quick, "only": arguments.only,
    }


def table(rows):
    keys = ("figure", "target", "value", "verdict", "beside")
    heads = ("figure", "target", "value", "verdict", "notes")
    lines = [heads, *(tuple(row[key] for key in keys) for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(heads))]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths)) + " |"
                     for line in [lines[0], tuple("-" * w for w in widths), *lines[1:]])


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--only", metavar="ROWS", default=",".join(GROUPS),
                        help="comma-separated groups of rows, of " + ",".join(GROUPS)
                        + "; only a whole run is stored in benches/results/")
    parser.add_argument("--quick", action="store_true",
                        help="one short repetition; do not cite the results")
    arguments = parser.parse_args()
    groups = arguments.only.split(",")
    if unknown := set(groups) - set(GROUPS):
        parser.error(f"unknown rows {', '.join(sorted(unknown))}: choose from {', '.join(GROUPS)}")
    # Exits by an exception, so that started processes are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench, result, failed = Bench(arguments.quick), circumstances(arguments), []
    for group in groups:
        try:
            globals()[group.replace("-", "_")](bench)
        except (Failed, subprocess.SubprocessError, OSError) as e:
            failed.append(f"{group}: {e}")
            say(f"{group}: NO FIGURE: {e}")
    others = statistics.median(bench.others)
    result["machine"]["busy_otherwise"] = {"median": others, "most": max(bench.others)}
    result |= {"rows": bench.rows, "without_figure": failed, "measurements": bench.raw}
    whole = not arguments.quick and groups == GROUPS
    file = RELEASE / "bench.json"
    if whole:
        file = ROOT / "benches/results" / f"{result['date']}-{result['commit']}.json"
        file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(table(bench.rows))
    cores = result["machine"]["cores"]
    print(f"{result['date']}, {result['commit']}, {cores} cores, {others:.0%} of them used by "
          f"other processes; written to {file}")
    for line in failed:
        print(f"NO FIGURE: {line}")
    missed = [row for row in bench.rows if row["verdict"] == "NOT met"]
    sys.exit(1 if missed or failed else 0)


if __name__ == "__main__":
    main()
