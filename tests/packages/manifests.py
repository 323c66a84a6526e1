"""Holds the rendered manifests against each other; prints the custom resources as JSON for operator.js.

usage: manifests.py DIRECTORY
"""

import json
import pathlib
import sys

import yaml

directory = pathlib.Path(sys.argv[1])
rendered = {path.stem: [d for d in yaml.safe_load_all(path.read_text()) if d] for path in directory.glob("*.yaml")}


def one(name, kind):
    found = [document for document in rendered[name] if document["kind"] == kind]
    assert len(found) == 1, (name, kind, len(found))
    return found[0]


# The plain manifests are what the chart makes of its default values, names and labels apart.
def pod(name):
    spec = json.loads(json.dumps(one(name, "DaemonSet")["spec"]["template"]["spec"]))
    for container in spec["containers"]:
        container.pop("env", None)  # HOST_IP, for listenAddress
    return spec


for chart, plain in [("chart-default", "plain-base"), ("chart-unprivileged", "plain-unprivileged")]:
    for key in sorted(pod(chart).keys() | pod(plain).keys()):
        assert pod(chart).get(key) == pod(plain).get(key), (chart, plain, key, pod(chart).get(key), pod(plain).get(key))
ports = [one(name, "Service")["spec"]["ports"] for name in ("chart-default", "plain-base")]
assert ports[0] == ports[1], ports

# Selectors find the pods.
for name in rendered:
    labels = one(name, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    for document in rendered[name]:
        selector = document.get("spec", {}).get("selector")
        if selector:
            selector = selector.get("matchLabels", selector)
            where = one(name, "Service")["metadata"]["labels"] if document["kind"] == "ServiceMonitor" else labels
            assert selector.items() <= where.items(), (name, document["kind"], selector, where)

# Security, as rendered. {chart: (uid, capabilities)}
expected = {
    "chart-default": (0, ["NET_ADMIN"]),
    "chart-unprivileged": (65534, []),
    "chart-everything": (0, ["NET_ADMIN"]),
    "chart-rules": (0, ["NET_ADMIN"]),
    "chart-unprivileged-probe": (65534, []),
    "plain-base": (0, ["NET_ADMIN"]),
    "plain-unprivileged": (65534, []),
    "plain-prometheus-operator": (0, ["NET_ADMIN"]),
}
for name, (uid, capabilities) in expected.items():
    spec = one(name, "DaemonSet")["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsUser"] == uid, name
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
    assert not spec.get("hostPID") and not spec.get("hostIPC"), name
    for container in spec["containers"] + spec.get("initContainers", []):
        security = container["securityContext"]
        assert security["capabilities"]["drop"] == ["ALL"], name
        wanted = ["NET_ADMIN", "NET_RAW", "SYS_ADMIN"] if container["name"] == "probe" else capabilities
        assert security["capabilities"].get("add", []) == wanted, (name, security)
        assert security["allowPrivilegeEscalation"] is False and security["privileged"] is False, name
        assert security["readOnlyRootFilesystem"] is True, name
    for volume in spec["volumes"]:
        mounts = [m for c in spec["containers"] for m in c["volumeMounts"] if m["name"] == volume["name"]]
        assert "hostPath" not in volume or all(m["readOnly"] for m in mounts), (name, volume)

# Accepted risks arrive as they were written.
serve = one("chart-everything", "DaemonSet")["spec"]["template"]["spec"]["containers"][0]
accepted = [arg for arg in serve["args"] if arg.startswith("--accept=")]
assert accepted == ["--accept=snat-port-race", '--accept=dns-conntrack-race:critical=known: "JIRA-1", # not before 2027'], accepted

# The registry of the whole release goes before the chart's own.
assert serve["image"].startswith("mirror.example/team/natwatch@sha256:"), serve["image"]
secrets = one("chart-everything", "DaemonSet")["spec"]["template"]["spec"]["imagePullSecrets"]
assert secrets == [{"name": "all"}, {"name": "global"}, {"name": "pull"}], secrets


# The rules as they are shipped; information is off, and each alert changes as its values say.
def alerts(groups):
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(set(map(json.dumps, rules)))
    recorded = [rule for rule in rules if "record" in rule]
    return recorded, {(rule["alert"], rule["labels"]["severity"]): rule for rule in rules if "alert" in rule}


files = sorted((pathlib.Path(__file__).parents[2] / "deploy/prometheus").glob("*.yaml"))
recorded, shipped = alerts([group for file in files for group in yaml.safe_load(file.read_text())["groups"]])
assert len(shipped) > 15, shipped.keys()
got_recorded, got = alerts(one("chart-rules", "PrometheusRule")["spec"]["groups"])
information = ("NatwatchExposed", "info")
assert got_recorded == recorded
assert got == {key: rule for key, rule in shipped.items() if key != information}
got_recorded, got = alerts(one("chart-everything", "PrometheusRule")["spec"]["groups"])
assert got_recorded == recorded
for (name, _), rule in shipped.items():
    rule["annotations"]["runbook_url"] = f"https://wiki.example/natwatch/{name}"
shipped[information]["for"] = "2h"
shipped["NatwatchExposed", "critical"]["labels"]["team"] = "network"
filling = shipped.pop(("NatwatchConntrackFilling", "warning"))
filling.update({"for": "30m", "labels": {"severity": "critical", "team": "network", "tier": "one"}})
shipped["NatwatchConntrackFilling", "critical"] = filling
del shipped["NatwatchAbsent", "warning"]
assert got == shipped, [key for key in got.keys() | shipped.keys() if got.get(key) != shipped.get(key)]

custom = [document for name in sorted(rendered) for document in rendered[name] if "monitoring.coreos.com" in document["apiVersion"]]
kinds = {document["kind"] for document in custom}
assert kinds >= {"ServiceMonitor", "PodMonitor"}, kinds
json.dump(custom, sys.stdout)
