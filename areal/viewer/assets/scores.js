// Evaluations on the first page: the scores of each benchmark, and how they differ on the same problems.

import { el, format, link } from "./dom.js";
import { source } from "./source.js";

// The file names of the benchmarks that several evaluations have.
export function sharedBenchmarks(store) {
  const counts = new Map();
  for (const { state } of store.evaluations)
    for (const { file } of state.benchmarks) counts.set(file, (counts.get(file) ?? 0) + 1);
  return [...counts].filter(([, count]) => count > 1).map(([file]) => file);
}

export function having(store, file) {
  return store.evaluations.filter(({ state }) => state.benchmarks.some((each) => each.file === file));
}

export function signed(value) {
  return value === null ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
}

function fixed(value) {
  return value === null ? "–" : value.toFixed(3);
}

// A value with its interval on a line from `least` to `most`, with a mark at zero if zero is inside.
function intervalBar([low, high], value, [least, most]) {
  const share = (x) => `${(100 * (Math.min(most, Math.max(least, x)) - least)) / (most - least || 1)}%`;
  const bar = el("i", { class: "span" });
  bar.style.left = share(low ?? least);
  bar.style.right = `calc(100% - ${share(high ?? most)})`;
  const dot = el("i", { class: "dot" });
  dot.style.left = share(value);
  const zero = el("i", { class: "zero" });
  zero.style.left = share(0);
  return el("span", { class: "interval", "aria-hidden": "true" }, least < 0 && most > 0 ? zero : null, bar, dot);
}

function extent(values, least, most) {
  const known = values.filter((x) => x !== null);
  return [Math.min(least, ...known), Math.max(most, ...known)];
}

function scoreRow(each, one, first, span) {
  const name = el("th", { scope: "row" }, first ? one.name : "");
  const label = el("td", {}, el("a", { href: responsesLink(each, one) },
    el("i", { class: `swatch run-${each.index % 8}` }), each.name));
  if (one.accuracy === undefined) {
    const how = one.error ?? `${format(one.responses)} of ${format(one.wanted)} responses so far; the score appears when all are done`;
    return el("tr", {}, name, label, el("td", { colspan: 7 }, how), el("td", { class: "model" }, one.model));
  }
  const [low, high] = one.interval;
  const most = Object.keys(one.passes).at(-1);
  const parts = Object.entries(one.parts);
  const titles = [
    ...Object.entries(one.members).map(([member, [value, a, b]]) => `${member} ${fixed(value)} (${fixed(a)} to ${fixed(b)})`),
    ...(parts.length > 1 ? parts.map(([part, value]) => `${part} ${fixed(value)}`) : []),
  ];
  return el("tr", {}, name, label,
    el("td", { class: "number score", title: titles.join(", ") }, fixed(one.accuracy)),
    el("td", { class: "number" }, `${fixed(low)} to ${fixed(high)}`),
    el("td", {}, intervalBar(one.interval, one.accuracy, span)),
    el("td", { class: "number" }, most ? `${fixed(one.passes[most][0])} @${most}` : "–"),
    el("td", { class: "number" }, one.of && one.of !== one.problems ? `${format(one.problems)} of ${format(one.of)}` : format(one.problems),
      el("small", {}, ` × ${one.samples}`)),
    el("td", { class: "number" }, format(one.length, 3)),
    el("td", { class: `number${one.failed ? " finish-other" : ""}` }, `${format(100 * one.truncated, 3)}%`,
      one.failed ? el("small", {}, `, ${one.failed} failed`) : null),
    el("td", { class: "model" }, one.model));
}

export function responsesLink(each, one, more = {}) {
  return link("rollouts", { run: each.name, from: one.number, to: one.number, sort: "reward", ...more });
}

function table(names, rows, kind) {
  return el("div", { class: "scroll" }, el("table", { class: kind },
    el("thead", {}, el("tr", {}, names.map(([name, title, number]) => el("th", { scope: "col", title, class: number ? "number" : "" }, name)))),
    el("tbody", {}, rows)));
}

const SCORE_COLUMNS = [
  ["benchmark", ""], ["evaluation", "links to its responses, worst first"],
  ["score", "avg@k: the mean reward of all responses", true], ["95% interval", "over problems", true], ["", ""],
  ["pass@k", "probability that at least one of k responses is correct", true], ["problems × samples", "", true],
  ["tokens", "mean length of a response", true], ["truncated", "share of the responses that ended at a length limit", true],
  ["model", ""],
];

function scoreTable(store) {
  const files = [...new Set(store.evaluations.flatMap(({ state }) => state.benchmarks.map(({ file }) => file)))].sort();
  const rows = files.flatMap((file) => {
    const found = having(store, file).map((each) => [each, each.state.benchmarks.find((one) => one.file === file)]);
    const span = extent(found.flatMap(([, one]) => (one.accuracy === undefined ? [] : [...one.interval, one.accuracy])), 0, 1);
    return found.map(([each, one], i) => scoreRow(each, one, i === 0, span));
  });
  return table(SCORE_COLUMNS, rows, "scores");
}

const DIFFERENCE_COLUMNS = [
  ["benchmark", ""], ["B", ""], ["A", "mean score on the problems that both evaluations have", true], ["B", "mean score on the same problems", true],
  ["B − A", "", true], ["95% interval", "of the mean difference per problem", true], ["", ""],
  ["B better on", "number of problems", true], ["A better on", "number of problems", true],
  ["p", "of the paired sign-flip test: the probability of such a difference if both are equally good", true], ["", ""],
];

async function differenceRows(store, a) {
  const pairs = sharedBenchmarks(store).filter((file) => having(store, file).includes(a)).flatMap((file) =>
    having(store, file).filter((b) => b !== a).map((b) => ({ file, b })));
  const found = await Promise.all(pairs.map(async (pair) => {
    try {
      return { ...pair, compared: await source.comparison(a.name, pair.b.name, pair.file) };
    } catch (error) {
      return { ...pair, error: error.message };
    }
  }));
  const span = extent(found.flatMap(({ compared }) => compared?.found.interval ?? []), -0.01, 0.01);
  return found.map(({ file, b, compared, error }) => {
    const to = (which) => link("comparison", { benchmark: file, a: a.name, b: b.name, ...which });
    const begin = [el("th", { scope: "row" }, el("a", { href: to({}) }, compared?.name ?? file)),
      el("td", {}, el("i", { class: `swatch run-${b.index % 8}` }), b.name)];
    if (error) return el("tr", {}, begin, el("td", { colspan: 9 }, error));
    const { mean, interval, better, worse, p } = compared.found;
    return el("tr", {}, begin,
      el("td", { class: "number" }, fixed(compared.means[0])), el("td", { class: "number" }, fixed(compared.means[1])),
      el("td", { class: "number score" }, signed(mean)),
      el("td", { class: "number" }, `${signed(interval[0])} to ${signed(interval[1])}`),
      el("td", {}, intervalBar(interval, mean, span)),
      el("td", { class: "number" }, el("a", { href: to({ which: "better" }) }, format(better))),
      el("td", { class: "number" }, el("a", { href: to({ which: "worse" }) }, format(worse))),
      el("td", { class: "number" }, format(p, 2)),
      el("td", {}, compared.verdict));
  });
}

// The section of evaluations; `update` shows their current state.
export function scores(store) {
  const box = el("div");
  const rows = el("div");
  const { evaluations } = store;
  let base = evaluations[0];
  const choice = el("select", { id: "base", onchange: () => {
    base = evaluations[Number(choice.value)];
    compare();
  } }, evaluations.map((each, i) => el("option", { value: i }, each.name)));
  const compared = el("section", {}, el("h2", {}, "Differences on the same problems"),
    el("div", { class: "controls" }, el("label", { for: "base" }, "A is"), choice,
      el("span", { class: "hint" }, "each number of problems links to these problems, with the responses of both evaluations")), rows);
  const element = el("section", { class: "evaluations" }, box, compared);

  async function compare() {
    compared.hidden = !sharedBenchmarks(store).length;
    if (!compared.hidden) rows.replaceChildren(table(DIFFERENCE_COLUMNS, await differenceRows(store, base), "scores"));
  }

  function update() {
    box.replaceChildren(scoreTable(store));
    return compare();
  }

  return { element, ready: update(), update };
}
