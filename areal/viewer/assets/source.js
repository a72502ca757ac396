// The source of the data: the server or, in a report, the file itself. Both have the same interface.

const element = document.getElementById("report");
export const report = element ? JSON.parse(element.textContent) : null;

async function ask(what, params = {}) {
  const given = Object.entries(params).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const response = await fetch(`api/${what}?${new URLSearchParams(given)}`);
  const text = await response.text();
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new Error(text);
  }
  if (!response.ok) throw new Error(found.error);
  return found;
}

const server = {
  states: () => ask("states"),
  settings: () => ask("settings"),
  metrics: (run, mark) => ask("metrics", { run, mark }),
  rollouts: (run, params) => ask("rollouts", { ...params, run }),
  group: (run, step, group, number) => ask("group", { run, step, group, number }),
  timeline: (run, params) => ask("timeline", { ...params, run }),
  comparison: (a, b, benchmark) => ask("comparison", { a, b, benchmark }),
  prompts: (run, step, problems) => ask("prompts", { run, step, problems }),
};

function contains(rollouts, row, text) {
  const whole = rollouts.find((each) => each.number === row.number);
  const said = whole.conversations.map((each) => each.texts.join("")).join("\n");
  return said.toLowerCase().includes(text.toLowerCase());
}

function listed(run, params) {
  const { rows, groups, ...facts } = report.rollouts[run];
  const limit = Number(params.limit || 50);
  const skip = Number(params.skip || 0);
  const least = params.least ? Number(params.least) : -Infinity;
  const most = params.most ? Number(params.most) : Infinity;
  const [low, high] = [params.part_least || -Infinity, params.part_most || Infinity].map(Number);
  const part = (row) => (Object.hasOwn(row.parts, params.part) ? row.parts[params.part] : null);
  const byPart = params.part && (params.sort === "part" || params.part_least || params.part_most);
  const found = rows.filter(
    (row) =>
      row.step >= Number(params.from || 0) &&
      row.step <= Number(params.to || Infinity) &&
      row.reward >= least &&
      row.reward <= most &&
      (!byPart || (part(row) !== null && part(row) >= low && part(row) <= high)) &&
      (params.changed !== "1" || row.oldest < row.newest) &&
      (!params.env || row.env === params.env) &&
      (!params.finish || row.finish === params.finish) &&
      (!params.text || contains(groups[`${row.step}/${row.group}`], row, params.text)),
  );
  const sort = params.sort || "step";
  const sign = params.descending === "1" ? -1 : 1;
  const value = (row) => (sort === "part" ? part(row) : row[sort]);
  found.sort((a, b) => sign * (value(a) - value(b)) || sign * (a.group - b.group) || sign * (a.number - b.number));
  const next = skip + limit < found.length ? skip + limit : null;
  return { ...facts, rows: found.slice(skip, skip + limit), count: found.length, next, left: 0 };
}

function groupOf(run, step, group, number) {
  const found = report.rollouts[run]?.groups[`${step}/${group}`];
  const wanted = found?.filter((each) => number === undefined || each.number === Number(number));
  if (!wanted?.length) throw new Error(`this file does not contain that. ${report.note}`);
  return { rollouts: wanted };
}

function compared(a, b, benchmark) {
  const found = report.comparisons[JSON.stringify([a, b, benchmark])];
  if (found.error) throw new Error(found.error);
  return found;
}

function promptsOf(run, step, problems) {
  const first = (problem) => report.rollouts[run].groups[`${step}/${problem}`]?.[0].conversations[0] ?? null;
  return Object.fromEntries(problems.map((problem) => [problem, first(problem)]));
}

const file = {
  states: async () => ({ runs: report.runs, evaluations: report.evaluations, sessions: report.sessions }),
  settings: async () => report.settings,
  metrics: async (run, mark) =>
    mark === "all" ? { mark, again: false, more: false, length: 0, columns: {} } : report.metrics[run],
  rollouts: async (run, params) => listed(run, params),
  group: async (run, step, group, number) => groupOf(run, step, group, number),
  timeline: async (run) => report.timeline[run],
  comparison: async (a, b, benchmark) => compared(a, b, benchmark),
  prompts: async (run, step, problems) => promptsOf(run, step, problems),
};

export const source = report ? file : server;

// A run: its state, and its metrics as columns, which grow.
export class Run {
  constructor(state, index) {
    this.name = state.name;
    this.index = index;
    this.state = state;
    this.mark = "outline";
    this.every = 0; // so far, there is one in this number of updates; 0: all of them
    this.metrics = noMetrics();
  }

  get columns() {
    return this.metrics.columns;
  }

  // Reads the new metrics, either all or none; returns whether there were any. For a long run, the first call reads an
  // outline.
  async read() {
    let [{ mark, metrics }, changed] = [this, false];
    for (let more = true; more; ) {
      const found = await source.metrics(this.name, mark);
      changed ||= found.length > 0 || (found.again && metrics.length > 0);
      if (found.again) metrics = noMetrics();
      append(metrics, found);
      mark = found.mark;
      this.every = found.every ?? 0;
      if (metrics === this.metrics || !found.more || this.every) Object.assign(this, { mark, metrics });
      more = found.more && !this.every;
    }
    return changed;
  }
}

export function goesOn({ state }) {
  return ["running", "suspended"].includes(state.state);
}

let lastShown = "";

// The run that a page names; it is the usual run from then on.
export function namedRun(runs, name) {
  const found = runs.find((run) => run.name === name);
  if (found) lastShown = name;
  return found;
}

// The run for a page that names none: the last one shown, or else the newest active run, or else the newest run.
export function usualRun(runs) {
  const last = runs.find((run) => run.name === lastShown);
  return last ?? [...runs].sort((a, b) => goesOn(b) - goesOn(a) || b.state.started - a.state.started)[0];
}

function noMetrics() {
  return { length: 0, columns: Object.create(null) }; // a metric may have any name
}

function append(metrics, { length, columns }) {
  for (const [key, values] of Object.entries(columns)) {
    const before = (metrics.columns[key] ??= []);
    while (before.length < metrics.length) before.push(null);
    for (const value of values) before.push(value);
  }
  metrics.length += length;
}
