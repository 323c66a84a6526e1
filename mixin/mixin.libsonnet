// Rules, alerts and dashboards of natwatch for those who deploy with jsonnet. Without a configuration of its own it renders what
// deploy/prometheus and dashboards hold; tests/ship/mixin.rs sees to that. See README.md.
local shipped = {
  rules: {
    'natwatch.rules.yaml': import 'natwatch.rules.json',
    'natwatch-info.rules.yaml': import 'natwatch-info.rules.json',
  },
  dashboards: {
    'natwatch-fleet.json': import '../dashboards/natwatch-fleet.json',
    'natwatch-node.json': import '../dashboards/natwatch-node.json',
  },
};

// std.split of old versions takes one character.
local splitAt(text, word) = std.split(std.strReplace(text, word, '\u0001'), '\u0001');

local isNameCharacter(c) = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';

// How many characters at the beginning of a text belong to a name.
local nameLength(text, at=0) =
  if at < std.length(text) && isNameCharacter(text[at]) then nameLength(text, at + 1) else at;

// `natwatch_x` and `natwatch_x{…}` with one matcher more. What rules have recorded (`cluster:natwatch_x`) was selected already.
local selected(selector, expr) =
  local parts = splitAt(expr, 'natwatch_');
  local metric(before, part) =
    local name = part[:nameLength(part)];
    local rest = part[nameLength(part):];
    if before != '' && before[std.length(before) - 1] == ':' then part
    else if std.startsWith(rest, '{}') then name + '{' + selector + rest[1:]
    else if std.startsWith(rest, '{') then name + '{' + selector + ',' + rest[1:]
    else name + '{' + selector + '}' + rest;
  parts[0] + std.join('', [
    'natwatch_' + metric(parts[at - 1], parts[at])
    for at in std.range(1, std.length(parts) - 1)
  ]);

// A word that stands alone, replaced by another.
local renamed(old, new, text) =
  local parts = splitAt(text, old);
  parts[0] + std.join('', [
    local before = parts[at - 1];
    local after = parts[at];
    local inside = (before != '' && isNameCharacter(before[std.length(before) - 1]))
                   || (after != '' && isNameCharacter(after[0]))
                   || std.startsWith(after, ':natwatch_');
    (if inside then old else new) + after
    for at in std.range(1, std.length(parts) - 1)
  ]);

(import 'config.libsonnet') + {
  local c = $._config,
  local cluster(text) = if c.clusterLabel == 'cluster' then text else renamed('cluster', c.clusterLabel, text),
  local own(expr) = if c.selector == '' then expr else selected(c.selector, expr),
  local anyJob = 'job=~".*natwatch.*"',
  local jobs(expr) = if c.jobSelector == anyJob then expr else std.strReplace(expr, anyJob, c.jobSelector),
  local expression(expr) = cluster(own(jobs(expr))),

  local links(rule) =
    if c.runbookBase == '' then {}
    else { annotations+: { runbook_url: std.rstripChars(c.runbookBase, '/') + '/' + rule.alert } },
  local rule(rule) = rule { expr: expression(super.expr) } + (
    if std.objectHas(rule, 'alert') then { labels+: c.alertLabels } + links(rule) else {}
  ),
  local wanted(rule) =
    !std.objectHas(rule, 'alert')
    || !(std.member(c.disabledAlerts, rule.alert) || std.member(c.disabledAlerts, rule.alert + '.' + rule.labels.severity)),
  local groups(file, keep) = [
    group
    for group in [
      group { rules: [rule(r) for r in group.rules if wanted(r) && keep(r)] }
      for group in file.groups
    ]
    if std.length(group.rules) > 0
  ],

  // The label is named by queries, links and legends, as a variable, and as a column of tables.
  local whole(word) = if word == 'cluster' then c.clusterLabel else word,
  local dashboard(value) =
    if std.isObject(value) then {
      [whole(key)]:
        if !std.isString(value[key]) then dashboard(value[key])
        else if key == 'expr' || key == 'query' then expression(value[key])
        else if key == 'url' || key == 'legendFormat' then cluster(value[key])
        else whole(value[key])
      for key in std.objectFields(value)
    }
    else if std.isArray(value) then [dashboard(element) for element in value]
    else value,

  // Each file as it is shipped.
  files:: {
    [name]: { groups: groups(shipped.rules[name], function(rule) true) }
    for name in std.objectFields(shipped.rules)
  } + $.grafanaDashboards,

  // What mixins are made of.
  prometheusAlerts+:: {
    groups+: std.flattenArrays([
      groups(shipped.rules[name], function(rule) std.objectHas(rule, 'alert'))
      for name in std.objectFields(shipped.rules)
    ]),
  },
  prometheusRules+:: {
    groups+: std.flattenArrays([
      groups(shipped.rules[name], function(rule) !std.objectHas(rule, 'alert'))
      for name in std.objectFields(shipped.rules)
    ]),
  },
  grafanaDashboards+:: {
    [name]: dashboard(shipped.dashboards[name])
    for name in std.objectFields(shipped.dashboards)
  },
}
