// Draws a dashboard from a live Prometheus with Grafana's own rendering code, without a Grafana server.
// What this does not show: importing, provisioning, the pickers of variables, following links.
import React from 'react';
import { createRoot } from 'react-dom/client';
import { lastValueFrom } from 'rxjs';
import {
  applyFieldOverrides, cacheFieldDisplayNames, createTheme, dateTime, FieldConfigOptionsRegistry, FieldType, getFieldDisplayValues, renderMarkdown,
  standardFieldConfigEditorRegistry, standardTransformers, standardTransformersRegistry, ThemeContext, toDataFrame,
  transformDataFrame, VizOrientation,
} from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, TimeSeries, VizRepeater } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';

const COLUMNS = 24, WIDTH = window.innerWidth, UNIT = 38, GAP = 8, HEADER = 48;
const query = new URLSearchParams(location.search);
const theme = createTheme({ colors: { mode: 'dark' } });
const now = Math.floor(Date.now() / 1000);
const span = Number(query.get('span') ?? 900);
const step = Math.max(1, Math.floor(span / 300));
const timeRange: any = {
  from: dateTime((now - span) * 1000), to: dateTime(now * 1000), raw: { from: `now-${span}s`, to: 'now' },
};

const transformers = [...new Map(Object.values(standardTransformers as any).map((t: any) => [t.id, t])).values()];
standardTransformersRegistry.setInit(() => transformers.map((t: any) => ({
  id: t.id, name: t.name, transformation: async () => t, excludeByDefault: false,
})) as any);
const PROPERTIES = [
  'unit', 'min', 'max', 'decimals', 'displayName', 'noValue', 'color', 'thresholds', 'mappings', 'links', 'description', 'filterable',
];
// `custom.*` properties are those of the panel's own code, which gives them meaning while it draws.
const CUSTOM = ['width', 'align', 'cellOptions', 'hidden', 'hideFrom', 'lineWidth', 'fillOpacity', 'axisPlacement', 'drawStyle'];
const plain = (path: string, isCustom: boolean) => ({
  id: isCustom ? `custom.${path}` : path, path, name: path, description: '', isCustom, settings: {},
  process: (value: any) => value, shouldApply: () => true, override: () => null, editor: () => null,
});
const properties = () => [...PROPERTIES.map((p) => plain(p, false)), ...CUSTOM.map((p) => plain(p, true))] as any;
standardFieldConfigEditorRegistry.setInit(() => PROPERTIES.map((p) => plain(p, false)) as any);
const registry = new FieldConfigOptionsRegistry(properties);

function interpolate(text: string, variables: Record<string, string>) {
  const own: Record<string, string> = {
    __rate_interval: `${Math.max(4 * step, Number(query.get('rate') ?? 60))}s`, __interval: `${step}s`, __range: `${span}s`,
  };
  return text.replace(/\$\{?(\w+)(?::\w+)?\}?/g, (all, name) => own[name] ?? variables[name] ?? all);
}

function legend(format: string | undefined, labels: Record<string, string>) {
  return (format ?? '').replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? '');
}

async function ask(target: any, several: boolean, variables: Record<string, string>) {
  const expr = encodeURIComponent(interpolate(target.expr, variables));
  const path = target.instant
    ? `/api/v1/query?query=${expr}&time=${now}`
    : `/api/v1/query_range?query=${expr}&start=${now - span}&end=${now}&step=${step}`;
  const answer = await (await fetch(path)).json();
  if (answer.status !== 'success') throw new Error(answer.error);
  const result: any[] = answer.data.result;
  if (target.format === 'table') {
    const labels = [...new Set(result.flatMap((series) => Object.keys(series.metric)))].sort();
    return [toDataFrame({
      refId: target.refId,
      fields: [
        { name: 'Time', type: FieldType.time, values: result.map((series) => series.value[0] * 1000) },
        ...labels.map((name) => ({ name, type: FieldType.string, values: result.map((series) => series.metric[name] ?? '') })),
        { name: several ? `Value #${target.refId}` : 'Value', type: FieldType.number, values: result.map((series) => +series.value[1]) },
      ],
    })];
  }
  return result.map((series) => {
    const values = series.values ?? [series.value];
    const name = legend(target.legendFormat, series.metric);
    return toDataFrame({
      refId: target.refId, name,
      fields: [
        { name: 'Time', type: FieldType.time, values: values.map((v: any) => v[0] * 1000) },
        { name: 'Value', type: FieldType.number, labels: series.metric, config: { displayNameFromDS: name }, values: values.map((v: any) => +v[1]) },
      ],
    });
  });
}

const LINES = {
  drawStyle: 'line', lineWidth: 1, fillOpacity: 0, showPoints: 'auto', axisPlacement: 'auto', scaleDistribution: { type: 'linear' },
  stacking: { mode: 'none', group: 'A' }, hideFrom: { viz: false, legend: false, tooltip: false },
};

async function load(panel: any, variables: Record<string, string>) {
  const targets = panel.targets ?? [];
  const answers = await Promise.all(targets.map((target: any) => ask(target, targets.length > 1, variables)));
  let data: any[] = answers.flat();
  const rows = data.reduce((sum, frame) => sum + frame.length, 0);
  if (panel.transformations?.length) {
    data = await lastValueFrom(transformDataFrame(panel.transformations, data, { interpolate: (s: string) => s } as any));
  }
  const defaults = { color: { mode: panel.type === 'timeseries' ? 'palette-classic' : 'thresholds' }, ...panel.fieldConfig?.defaults };
  data = applyFieldOverrides({
    data, fieldConfig: { defaults, overrides: panel.fieldConfig?.overrides ?? [] }, fieldConfigRegistry: registry as any,
    replaceVariables: (s: string) => s, theme, timeZone: 'utc',
  });
  cacheFieldDisplayNames(data);
  for (const field of data.flatMap((frame) => frame.fields)) {
    field.config.custom = { ...(panel.type === 'timeseries' ? LINES : {}), ...defaults.custom, ...field.config.custom };
  }
  return { data, rows };
}

function body(panel: any, data: any[], width: number, height: number, variables: Record<string, string>) {
  const options = panel.options ?? {};
  const reduceOptions = { calcs: ['lastNotNull'], ...options.reduceOptions };
  const values = () => getFieldDisplayValues({
    data, fieldConfig: panel.fieldConfig, reduceOptions, replaceVariables: (s: string) => s, theme, sparkline: true, timeZone: 'utc',
  } as any);
  const repeat = { source: [], getValues: values as any, width, height, renderCounter: 0 };
  switch (panel.type) {
    case 'text':
      return <div className="markdown-html" style={{ padding: 8 }} dangerouslySetInnerHTML={{ __html: renderMarkdown(interpolate(options.content, variables)) }} />;
    case 'timeseries':
      return <TimeSeries frames={data} width={width} height={height} timeRange={timeRange} timeZone="utc" options={{}}
        legend={{ calcs: [], displayMode: 'list', placement: 'bottom', showLegend: true, ...options.legend }} />;
    case 'stat':
      return <VizRepeater {...repeat} orientation={VizOrientation.Auto} renderValue={({ value, width, height }: any) =>
        <BigValue value={value.display} sparkline={value.sparkline} width={width} height={height} theme={theme} colorMode={options.colorMode}
          graphMode={options.graphMode} textMode={options.textMode} justifyMode={options.justifyMode} text={options.text} />} />;
    case 'bargauge':
      return <VizRepeater {...repeat} orientation={VizOrientation.Horizontal} itemSpacing={8} renderValue={({ value, width, height }: any) =>
        <BarGauge value={value.display} width={width} height={height} theme={theme} field={value.field} text={options.text}
          display={value.view?.getFieldDisplayProcessor?.(value.colIndex)} orientation={VizOrientation.Horizontal} displayMode={options.displayMode} />} />;
    case 'table':
      return <TableNG data={data[0]} width={width} height={height} sortBy={options.sortBy} cellHeight={options.cellHeight} {...({} as any)} />;
    default:
      throw new Error(`no way to draw a panel of type ${panel.type}`);
  }
}

/** What the page was told, and everything else for the rest. */
function choose(dashboard: any) {
  const variables: Record<string, string> = {};
  for (const variable of dashboard.templating.list) {
    variables[variable.name] = query.get(`var-${variable.name}`) ?? '.*';
  }
  return variables;
}

async function draw() {
  const dashboard = await (await fetch('/dashboard.json')).json();
  const variables = choose(dashboard);
  const items: any[] = [], report: any[] = [];
  let bottom = 0;
  for (const panel of dashboard.panels) {
    const { x, y, w, h } = panel.gridPos;
    const style: any = { position: 'absolute', left: (x * WIDTH) / COLUMNS, top: y * UNIT + HEADER };
    bottom = Math.max(bottom, (y + h) * UNIT + HEADER);
    if (panel.type === 'row') {
      items.push(<div key={panel.id} style={{ ...style, padding: 8, fontWeight: 500 }}>⌄ {panel.title}</div>);
      continue;
    }
    const width = Math.floor((w * WIDTH) / COLUMNS) - GAP, height = h * UNIT - GAP;
    let error = '', rows = 0;
    let inside: any;
    try {
      const loaded = await load(panel, variables);
      rows = loaded.rows;
      inside = (w: number, h: number) => body(panel, loaded.data, w, h, variables);
    } catch (e) {
      error = String(e);
      inside = () => <div>{error}</div>;
    }
    report.push({ id: panel.id, title: panel.title, rows, error });
    items.push(
      <div key={panel.id} style={style}>
        <PanelChrome title={interpolate(panel.title, variables)} description={panel.description} width={width} height={height}
          displayMode={panel.transparent ? 'transparent' : 'default'} hoverHeader={!panel.title}>{inside}</PanelChrome>
      </div>,
    );
  }
  document.title = JSON.stringify({ bottom, report });
  const chosen = dashboard.templating.list.filter((v: any) => v.type !== 'datasource')
    .map((v: any) => <span key={v.name} style={{ marginRight: 24 }}>{v.label}: <b>{variables[v.name] === '.*' ? 'All' : variables[v.name]}</b></span>);
  createRoot(document.getElementById('root')!).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div style={{ position: 'relative', width: WIDTH, height: bottom, background: theme.colors.background.canvas }}>
        <div style={{ padding: '12px 8px' }}><b style={{ marginRight: 32 }}>{dashboard.title}</b>{chosen}</div>
        {items}
      </div>
    </ThemeContext.Provider>,
  );
}

draw();
