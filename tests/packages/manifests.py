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

custom = [document for name in sorted(rendered) for document in rendered[name] if "monitoring.coreos.com" in document["apiVersion"]]
kinds = {document["kind"] for document in custom}
assert kinds >= {"ServiceMonitor", "PodMonitor"}, kinds
json.dump(custom, sys.stdout)
