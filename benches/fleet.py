#!/usr/bin/python3
"""What the shipped rules and the fleet dashboard cost a Prometheus that scrapes thousands of natwatch.

`make bench-fleet` measures 5,000 nodes for some 45 minutes and writes the table into docs/fleet.md; `fleet.py --nodes 500` measures
fewer, and prints. Nodes are expositions that natwatch makes of recorded nodes, served by one process under 5,000 names; Prometheus,
its rules, scrapes and evaluations are real. A day of history is put into the database before: recorded series each minute, what is
compared with a day ago around that time, and every series of every node now and then. First no node is exposed, then a fifth of them
to three problems each, and those lose packets.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
NATWATCH = os.environ.get("NATWATCH", "natwatch")
RULES = sorted((REPOSITORY / "deploy/prometheus").glob("*.rules.yaml"))
PAGE = REPOSITORY / "docs/fleet.md"
BEGIN, END = "<!-- written by benches/fleet.py -->\n", "<!-- end of what benches/fleet.py writes -->\n"

DAY = 86400
SCRAPE = 30
# Which recorded nodes the fleet is made of: nine of ten have a tunnel and the rules of Kubernetes.
PLAIN, KUBERNETES = "nat-nftables", "flannel"
EXPOSED = {
    "vxlan-double-snat-checksum": ("critical", "outer_rewritten"),
    "snat-port-race": ("warning", "port_not_random"),
    "tcp-invalid-reset": ("warning", "no_invalid_drop"),
}
# What `serve` adds to `check --format prometheus`.
SERVED = """natwatch_scrape_collector_duration_seconds{collector="conntrack"} 0.0004
natwatch_scrape_collector_duration_seconds{collector="nat"} 0.0004
natwatch_scrape_collector_duration_seconds{collector="links"} 0.0004
natwatch_scrape_collector_duration_seconds{collector="kernel"} 0.0004
natwatch_scrape_collector_duration_seconds{collector="netstat"} 0.0004
natwatch_scrape_collector_duration_seconds{collector="neighbours"} 0.0004
natwatch_scrape_collector_duration_seconds{collector="flows"} 0.02
natwatch_scrape_collector_duration_seconds{collector="verdict"} 0.0004
natwatch_http_connections 1
natwatch_log_lines_dropped_total 0
process_cpu_seconds_total 17
process_open_fds 17
process_max_fds 1024
process_virtual_memory_bytes 17000000
process_resident_memory_bytes 12000000
process_start_time_seconds 1700000000
process_threads 4
"""

# What entries of connection tracking add on a node that has any; recorded ones have none.
FLOWS = """natwatch_flows_sampled 16384
natwatch_flows_sample_ratio 0.2
natwatch_flows_timestamp_seconds 1700000000
natwatch_snat_ports_used_ratio 0.1
natwatch_tunnel_rewritten_flows 0
natwatch_conntrack_stale_translations 0
natwatch_conntrack_evictable_ratio 0.3
""" + "".join(
    f'natwatch_conntrack_entries_estimated{{protocol="{protocol}",state="{state}"}} 1000\n'
    for protocol, states in {
        "tcp": "none syn_sent syn_recv established fin_wait close_wait last_ack time_wait close syn_sent2",
        "udp": "one_way two_way",
        "icmp": "all",
        "other": "all",
    }.items()
    for state in states.split()
)


def exposition(node):
    command = [NATWATCH, "check", "--format", "prometheus", "--from", str(REPOSITORY / "tests/nodes" / f"{node}.txt")]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    assert len(lines) > 100, command
    return [line for line in lines if not line.startswith("#")] + (SERVED + FLOWS).splitlines()


def exposed(lines):
    """The same node, exposed to three problems."""
    ids = "|".join(EXPOSED)
    kept = [line for line in lines if not re.match(rf'natwatch_(advisory_info|exposure).*advisory="({ids})"', line)]
    kept = [re.sub("^natwatch_tunnel_rewritten_flows 0", "natwatch_tunnel_rewritten_flows 3", line) for line in kept]
    for advisory, (severity, condition) in EXPOSED.items():
        kept.append(f'natwatch_exposure{{advisory="{advisory}"}} 1')
        labels = f'advisory="{advisory}",severity="{severity}",state="exposed",condition="{condition}"'
        kept.append(f"natwatch_advisory_info{{{labels}}} 1")
    return kept


def calm(lines):
    """The same node, exposed to nothing."""
    return [line for line in lines if 'state="exposed"' not in line]


# Counters that stand still on a node that loses nothing, and those of them that move on one that is exposed.
ERRORS = "natwatch_conntrack_(found|insert_failed|drop|early_drop|chaintoolong|error)_total|natwatch_netstat_.*_csum_errors_total"
LOSSES = "natwatch_conntrack_(insert_failed|drop)_total|natwatch_netstat_udp_in_csum_errors_total"


class Nodes:
    """All nodes, by one process; a scrape of node N is a look at its number."""

    def __init__(self, count):
        plain, kubernetes = calm(exposition(PLAIN)), calm(exposition(KUBERNETES))
        self.series = {PLAIN: len(plain), KUBERNETES: len(kubernetes)}
        self.kinds = {"plain": plain, "kubernetes": kubernetes, "exposed": exposed(kubernetes)}
        self.count, self.exposed, self.began, self.made = count, 0, time.time(), {}

    def kind(self, node):
        if node < self.exposed:
            return "exposed"
        return "plain" if node % 10 == 9 else "kubernetes"

    def text(self, node):
        kind, slot = self.kind(node), int(time.time()) // 5
        if self.made.get(kind, (0, b""))[0] != slot:
            body = "\n".join(self.moved(line, kind == "exposed") for line in self.kinds[kind]) + "\n"
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body.encode())}\r\n\r\n"
            self.made[kind] = (slot, (head + body).encode())
        return self.made[kind][1]

    def moved(self, line, loses):
        name, value = line.rsplit(" ", 1)
        if name == "natwatch_report_timestamp_seconds":
            return f"{name} {int(time.time())}"
        metric = name.partition("{")[0]
        if not metric.endswith("_total") or (re.fullmatch(ERRORS, metric) and not (loses and re.fullmatch(LOSSES, metric))):
            return line
        return f"{name} {float(value) + int((time.time() - self.began) * 3)}"

    async def answer(self, reader, writer):
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                node = re.match(rb"GET /metrics\?node=(\d+) ", request)
                writer.write(self.text(int(node[1])))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def serve(self):
        ready, port = threading.Event(), []

        async def run():
            server = await asyncio.start_server(self.answer, "127.0.0.1", 0, backlog=1024)
            port.append(server.sockets[0].getsockname()[1])
            ready.set()
            await server.serve_forever()

        threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
        ready.wait()
        return port[0]


def name(node):
    return f"node-{node:04}:10077"


def with_target(line, node):
    series, value = line.rsplit(" ", 1)
    target = f'cluster="c{node % 3}",job="natwatch",instance="{name(node)}"'
    metric, _, labels = series.partition("{")
    return f"{metric}{{{target},{labels}" if labels else f"{metric}{{{target}}}", value


COMPARED = "natwatch_(advisory_info|build_info|kernel_info|tunnels|source_nat_rules)$"


def history(nodes, now, spare, out):
    """A day of it, as OpenMetrics."""
    losing = nodes.count // 5
    for cluster in range(3):
        target = f'cluster="c{cluster}",job="natwatch"'
        recorded = [f"cluster:natwatch_{what}:count{{{target}}}" for what in ("nodes", "nodes_exposed", "nodes_unknown")]
        sums = ("conntrack_insert_lost", "conntrack_drop_other", "netstat_udp_in_csum_errors")
        recorded += [f"cluster:natwatch_{what}:sum_rate5m{{{target}}}" for what in sums]
        for advisory, (severity, _) in EXPOSED.items():
            recorded.append(f'cluster:natwatch_exposure:count{{{target},advisory="{advisory}",severity="{severity}"}}')
        for series in recorded:
            out.writelines(f"{series} 17 {now - ago}\n" for ago in range(DAY, 0, -60))
        # The ten worst are others every hour.
        for what in sums:
            for ago in range(DAY, 0, -60):
                for place in range(10):
                    worst = name((ago // 3600 * 30 + place * 3 + cluster) % nodes.count)
                    out.write(f'cluster:natwatch_{what}:topk10_rate5m{{{target},instance="{worst}"}} {place} {now - ago}\n')
    for node in range(losing):
        series, _ = with_target("instance:natwatch_conntrack_insert_lost:rate5m 0", node)
        out.writelines(f"{series} 3 {now - ago}\n" for ago in range(DAY + 3600, 0, -60))
    for node in range(nodes.count):
        for line in nodes.kinds[nodes.kind(node)]:
            series, value = with_target(line, node)
            if re.match(COMPARED, line.partition("{")[0].split(" ")[0]):
                out.writelines(f"{series} {value} {now - DAY + after}\n" for after in range(-300, spare, 240))
            out.writelines(f"{series} {value} {now - ago}\n" for ago in (DAY - 6000, DAY // 2, 8000))
    out.write("# EOF\n")


def config(directory, nodes, port):
    targets = [{"targets": [name(n)], "labels": {"cluster": f"c{n % 3}", "node": str(n)}} for n in range(nodes.count)]
    (directory / "targets.json").write_text(json.dumps(targets))
    relabel = [
        {"source_labels": ["__address__"], "target_label": "instance"},
        {"source_labels": ["node"], "target_label": "__param_node"},
        {"regex": "node", "action": "labeldrop"},
        {"target_label": "__address__", "replacement": f"127.0.0.1:{port}"},
    ]
    job = {"job_name": "natwatch", "file_sd_configs": [{"files": ["targets.json"]}], "relabel_configs": relabel}
    times = {"scrape_interval": f"{SCRAPE}s", "evaluation_interval": "30s"}
    whole = {"global": times, "rule_files": [str(rules) for rules in RULES], "scrape_configs": [job]}
    (directory / "prometheus.yml").write_text(json.dumps(whole))


class Prometheus:
    def __init__(self, directory):
        self.port = 19490
        arguments = [f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
        arguments += [f"--web.listen-address=127.0.0.1:{self.port}", "--storage.tsdb.retention.time=3d"]
        # Blocks stay as they are, so that nothing is compacted while it is measured.
        arguments += ["--storage.tsdb.min-block-duration=2h", "--storage.tsdb.max-block-duration=2h"]
        log = open(directory / "log", "w", encoding="utf-8")
        self.process = subprocess.Popen(["prometheus", *arguments], stdout=log, stderr=log)
        while not self.is_ready():
            assert self.process.poll() is None, (directory / "log").read_text()
            time.sleep(1)

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=120) as answer:
            return answer.read().decode()

    def is_ready(self):
        try:
            return "Ready" in self.get("/-/ready")
        except OSError:
            return False

    def query(self, **arguments):
        kind = "query_range" if "step" in arguments else "query"
        answer = json.loads(self.get(f"/api/v1/{kind}?{urllib.parse.urlencode(arguments)}"))
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def own(self, metric):
        """A metric of Prometheus itself, by rule group where it has one."""
        lines = [line for line in self.get("/metrics").splitlines() if re.match(rf"{metric}[{{ ]", line)]
        group = lambda line: (re.search(r';([^"]*)"', line) or [None, ""])[1]
        return {group(line): float(line.rsplit(" ", 1)[1]) for line in lines}

    def memory(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def rounds(prometheus, seconds):
    """Lowest duration of each group, over the rounds that end meanwhile, and how many these were."""
    lowest, ended, until = {}, {}, time.time() + seconds
    while time.time() < until:
        stamps = prometheus.own("prometheus_rule_group_last_evaluation_timestamp_seconds")
        for group, duration in prometheus.own("prometheus_rule_group_last_duration_seconds").items():
            if stamps[group] > 0 and stamps[group] not in ended.setdefault(group, set()):
                ended[group].add(stamps[group])
                lowest[group] = min(duration, lowest.get(group, duration))
        time.sleep(2)
    return {group: (lowest[group], len(ended[group])) for group in lowest}


def panels(prometheus):
    """Seconds of each panel of the fleet dashboard, over six hours: the lowest of three."""
    times, now = {}, time.time()
    dashboard = json.loads((REPOSITORY / "dashboards/natwatch-fleet.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        spent = 0
        for target in panel.get("targets", []):
            query = target["expr"].replace("$cluster", ".*").replace("$job", "natwatch")
            over = {"start": now - 6 * 3600, "end": now, "step": 60} if panel["type"] == "timeseries" else {"time": now}
            lowest = 1e9
            for _ in range(3):
                began = time.perf_counter()
                prometheus.query(query=query, **over)
                lowest = min(lowest, time.perf_counter() - began)
            spent += lowest
        if panel.get("targets"):
            times[panel["title"]] = spent
    return times


def measure(prometheus, nodes, count, warm, during):
    nodes.exposed = count
    time.sleep(warm)
    missed = prometheus.own("prometheus_rule_group_iterations_missed_total")
    intervals = prometheus.own("prometheus_rule_group_interval_seconds")
    groups = rounds(prometheus, during)
    missed = sum(prometheus.own("prometheus_rule_group_iterations_missed_total").values()) - sum(missed.values())
    head = prometheus.own("prometheus_tsdb_head_series")[""]
    up = sum(float(series["value"][1]) for series in prometheus.query(query='sum(up{job="natwatch"})'))
    alerts = prometheus.query(query='count(ALERTS{alertstate="firing"})')
    return {
        "exposed": count, "groups": groups, "intervals": intervals, "missed": missed, "panels": panels(prometheus), "series": head,
        "up": up, "alerts": int(alerts[0]["value"][1]) if alerts else 0, "memory": prometheus.memory(),
        "load": os.getloadavg()[2],
    }


def page(nodes, phases, version):
    load = " and ".join(f"{p['load']:.0f}" for p in phases)
    yield f"{nodes.count:,} nodes, scraped every {SCRAPE} s, {version}, on {os.cpu_count()} CPUs whose load average was {load} at the end."
    yield f"A plain node has {nodes.series[PLAIN]} series, a node of Kubernetes {nodes.series[KUBERNETES]}.\n"
    yield "| seconds of the lowest round | interval | " + " | ".join(f"{p['exposed']:,} exposed" for p in phases) + " |"
    yield "|---|---|" + "---|" * len(phases)
    for group in phases[0]["groups"]:
        cells = [f"{p['groups'][group][0]:.3f} of {p['groups'][group][1]}" for p in phases]
        yield f"| {group} | {phases[0]['intervals'][group]:.0f} s | " + " | ".join(cells) + " |"
    weighted = [sum(d * 30 / p["intervals"][g] for g, (d, _) in p["groups"].items()) for p in phases]
    yield "| **all, for each 30 s** | | " + " | ".join(f"**{value:.2f}**" for value in weighted) + " |"
    for what, key, form in [
        ("rounds missed", "missed", "{:.0f}"), ("targets up", "up", "{:,.0f}"), ("alerts firing", "alerts", "{:,}"),
        ("series in the head", "series", "{:,.0f}"), ("memory of Prometheus, MiB", "memory", "{:,.0f}"),
    ]:
        yield f"| {what} | | " + " | ".join(form.format(p[key]) for p in phases) + " |"
    yield "\n| panel, seconds over 6 h | " + " | ".join(f"{p['exposed']:,} exposed" for p in phases) + " |"
    yield "|---|" + "---|" * len(phases)
    for title in phases[0]["panels"]:
        yield f"| {title} | " + " | ".join(f"{p['panels'][title]:.3f}" for p in phases) + " |"
    yield "| **all** | " + " | ".join(f"**{sum(p['panels'].values()):.2f}**" for p in phases) + " |"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--nodes", type=int, default=5000)
    arguments.add_argument("--warm", type=int, default=420, help="seconds before each measurement")
    arguments.add_argument("--during", type=int, default=740, help="seconds of each measurement: three rounds of the slowest group")
    arguments.add_argument("--write", action="store_true", help="write the table into docs/fleet.md")
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Prometheus is ended, and its data removed, all the same
    directory = Path(tempfile.mkdtemp(prefix="natwatch-fleet-"))
    prometheus = None
    try:
        nodes = Nodes(given.nodes)
        with open(directory / "history", "w", encoding="utf-8") as out:
            history(nodes, int(time.time()), 2 * (given.warm + given.during) + 1800, out)
        create = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--quiet", str(directory / "history"), str(directory / "data")]
        subprocess.run(create, check=True)
        (directory / "history").unlink()
        config(directory, nodes, nodes.serve())
        prometheus = Prometheus(directory)
        phases = [measure(prometheus, nodes, count, given.warm, given.during) for count in (0, given.nodes // 5)]
        version = prometheus.query(query="1") and json.loads(prometheus.get("/api/v1/status/buildinfo"))["data"]["version"]
        text = "\n".join(page(nodes, phases, f"Prometheus {version}")) + "\n"
        print(text)
        if given.write:
            before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
            PAGE.write_text(before + BEGIN + text + END + rest.split(END)[1], encoding="utf-8")
    finally:
        if prometheus:
            prometheus.process.terminate()
            prometheus.process.wait()
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
