// Holds custom resources against the schemas of the Prometheus operator: operator.js FILE
import fs from "node:fs";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

const models = { PodMonitor, PrometheusRule, ServiceMonitor };
const documents = JSON.parse(fs.readFileSync(process.argv[2]));
for (const document of documents) {
	new models[document.kind](document).validate();
	console.log(`${document.kind} ${document.metadata.name}: valid`);
}
// The schemas do refuse something.
const wrong = { ...documents[0], spec: { ...documents[0].spec, selector: "all" } };
try {
	new models[wrong.kind](wrong).validate();
} catch {
	process.exit(0);
}
throw new Error("a wrong document was taken");
