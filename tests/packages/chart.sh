#!/usr/bin/env bash
# The chart and the plain manifests: rendered by the real helm and kubectl, held against the schemas of Kubernetes and of the
# Prometheus operator, and against each other.
. "$(dirname "$(readlink -f "$0")")/tools.sh"
chart=$root/deploy/helm/natwatch
# The oldest that the chart is for, and the newest that the schemas know.
kubernetes=(1.25.0 1.37.0)
out=$work/rendered
rm -rf "$out"
mkdir -p "$out"

# What checkov wants and natwatch does not do:
skip=(
	CKV2_K8S_6 # a NetworkPolicy: networkPolicy.enabled; few network plugins apply one to the node's network
	CKV_K8S_11 # a CPU limit: throttling would make scrapes late
	CKV_K8S_15 # imagePullPolicy Always: the tag is a version and does not move
	CKV_K8S_19 # no hostNetwork: the node's network is what is judged
	CKV_K8S_23 # no root: see unprivileged
	CKV_K8S_25 # no capabilities: NET_ADMIN
	CKV_K8S_39 # no SYS_ADMIN: probe.enabled takes it
	CKV_K8S_40 # a high uid: see unprivileged
	CKV_K8S_43 # an image digest: image.digest
)
skip=$(IFS=,; echo "${skip[*]}")

say "helm $(helm version --short)"
for values in "$here"/values/*.yaml; do
	name=chart-$(basename "$values" .yaml)
	helm lint --strict --quiet "$chart" --values "$values"
	helm template natwatch "$chart" --namespace natwatch --values "$values" >"$out/$name.yaml"
done
helm package --destination "$out" "$chart" >/dev/null
helm template natwatch "$out"/natwatch-*.tgz --namespace natwatch --values "$here/values/everything.yaml" | cmp - "$out/chart-everything.yaml"

say "values that are refused"
refused() {
	! helm template natwatch "$chart" --values "$here/values/default.yaml" "$@" >"$out/refused" 2>&1 || fail "helm takes $*"
	echo "$*: $(grep -E "^- at|^Error: exec" "$out/refused" | head -n 1)"
}
refused --set image.repository=
grep -q 'image.repository is empty.*set image.registry and image.repository' "$out/refused" || fail "it is not said what to set"
refused --set prometheusRule.enabled=true,prometheusRule.alerts.NatwatchDown.critical.enabled=false
grep -q 'one of .*NatwatchDown.warning' "$out/refused" || fail "it is not said which alerts there are"
refused --set prometheusRule.alerts.NatwatchDown.warning.enable=false
refused --set prometheusRule.runbookBaseUrl=wiki
refused --set 'accept={snat-port-race:warning}'
refused --set nope=1
refused --set log.level=loud
refused --set service.port=0
refused --set image.digest=latest
refused --set telemetryPath=metrics
refused --set 'extraArgs={probe}'
refused --set serviceMonitor.interval=often
refused --set serviceMonitor.enabled=true,service.enabled=false
refused --set tolerations=all

say "kubectl $(kubectl version --client | head -n 1)"
for base in base unprivileged prometheus-operator; do
	kubectl kustomize "$root/deploy/kubernetes/$base" >"$out/plain-$base.yaml"
done

say "kubernetes-validate ${kubernetes[*]}"
for version in "${kubernetes[@]}"; do
	valid() { kubernetes-validate -k "$version" --strict --no-warn "$1" >"$out/validate.log" 2>&1; }
	for file in "$out"/*.yaml; do
		# Custom resources are not known to it; the next step knows them.
		valid "$file" || fail "$file: $(cat "$out/validate.log")"
		echo "$version $(basename "$file"): $(grep -c '^kind:' "$file") objects"
	done
	sed 's/hostNetwork: true/hostNetwork: perhaps/' "$out/plain-base.yaml" >"$out/wrong"
	! valid "$out/wrong" || fail "kubernetes-validate takes anything"
done

say "schemas of the Prometheus operator"
"$tools/bin/python" "$here/manifests.py" "$out" >"$out/custom.json"
cp "$here/operator.mjs" "$tools/npm/"
node "$tools/npm/operator.mjs" "$out/custom.json"

say "checkov $(checkov --version)"
for file in "$out"/*.yaml; do
	checkov --compact --skip-download --framework kubernetes --file "$file" --skip-check "$skip" >"$out/checkov.log" ||
		fail "checkov on $file: $(grep -A 1 'Check:' "$out/checkov.log")"
	echo "$(basename "$file"): $(grep 'Passed checks' "$out/checkov.log")"
done
echo "chart: passed"
