//! The rules of Grafana's dashboard-linter, by their names there, as far as they concern Prometheus.

use std::collections::BTreeSet;

use serde_json::Value;

use super::dashboard::{list, queries, selectors, text, variable};

/// Panel types that the linter requires titles, units and targets of.
const LOOKED_AT: [&str; 5] = ["stat", "table", "timeseries", "gauge", "bargauge"];

/// Names of the rules that a dashboard breaks.
pub fn broken(dashboard: &Value) -> BTreeSet<&'static str> {
    let mut broken = BTreeSet::new();
    let mut rule = |name, holds: bool| {
        if !holds {
            broken.insert(name);
        }
    };
    rule("uneditable-dashboard", dashboard["editable"] == false);
    let source = variable(dashboard, "datasource");
    rule("template-datasource-rule", source["type"] == "datasource" && source["label"] == "Data source");
    for (name, name_of_rule, label) in
        [("job", "template-job-rule", "Job"), ("instance", "template-instance-rule", "Instance")]
    {
        let found = variable(dashboard, name);
        let whole = found["multi"] == true && found["allValue"] == ".+" && found["label"] == label;
        rule(name_of_rule, whole && found["type"] == "query" && found["datasource"]["uid"] == "${datasource}");
    }
    for found in list(&dashboard["templating"], "list").iter().filter(|found| found["type"] == "query") {
        rule("template-on-time-change-reload-rule", found["refresh"] == 2);
    }
    let looked_at = |panel: &&Value| LOOKED_AT.contains(&text(panel, "type").as_str());
    for panel in list(dashboard, "panels").iter().filter(looked_at) {
        rule(
            "panel-title-description-rule",
            !text(panel, "title").is_empty() && !text(panel, "description").is_empty(),
        );
        rule("panel-datasource-rule", panel["datasource"]["uid"] == "${datasource}");
        rule("panel-units-rule", !text(&panel["fieldConfig"]["defaults"], "unit").is_empty());
        rule("panel-no-targets-rule", !list(panel, "targets").is_empty());
    }
    for query in queries(dashboard) {
        for selector in selectors(&query.expr) {
            let (before, behind) = (selector.around.0.as_str(), selector.around.1.as_str());
            let range = behind.strip_prefix('[').and_then(|rest| rest.split(']').next());
            let rated = ["rate(", "irate(", "increase("].iter().any(|function| before.ends_with(function));
            rule("target-rate-interval-rule", !rated || range == Some("$__rate_interval"));
            rule("target-counter-agg-rule", !selector.metric.ends_with("_total") || rated);
            rule("target-job-rule", selector.matchers.contains("job=~\"$job\""));
            rule("target-instance-rule", selector.matchers.contains("instance=~\"$instance\""));
        }
    }
    broken
}
