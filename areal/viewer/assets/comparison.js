// Two evaluations, problem by problem: where one is better than the other, with a link to the responses of both.

import { promptText } from "./conversation.js";
import { el, format, link } from "./dom.js";
import { having, sharedBenchmarks, signed } from "./scores.js";
import { source } from "./source.js";

const SHOWN = 50;
const WHICH = {
  differ: ["Different", ([a, b]) => a !== b],
  better: ["B is better", ([a, b]) => b > a],
  worse: ["A is better", ([a, b]) => a > b],
  same: ["Same", ([a, b]) => a === b],
  all: ["All", () => true],
};

export function comparison(main, store, params) {
  const shared = sharedBenchmarks(store);
  if (!shared.length) throw new Error("no benchmark has two evaluations; pass both to `areal view`");
  const benchmark = shared.includes(params.get("benchmark")) ? params.get("benchmark") : shared[0];
  const all = having(store, benchmark);
  const chosen = (name, other) => all.find((each) => each.name === params.get(name)) ?? all.find((each) => each !== other);
  const a = chosen("a", null);
  const b = chosen("b", a);
  let which = Object.hasOwn(WHICH, params.get("which") ?? "") ? params.get("which") : "differ";
  let descending = params.get("descending") === "1";
  let shown = SHOWN;
  let pairs = [];
  let found = null;
  const prompts = new Map();
  const finished = (each) => each.state.benchmarks.some(({ file, accuracy }) => file === benchmark && accuracy !== undefined);
  const others = all.filter((each) => each !== a && each !== b && finished(each)).map((each) => ({ each, scores: new Map() }));

  const address = (more) => link("comparison", { benchmark, a: a.name, b: b.name, which, ...more });
  const select = (name, label, names, value) =>
    el("label", {}, label, el("select", { name, onchange: (event) => (location.hash = address({ [name]: event.target.value })) },
      names.map((each) => el("option", { value: each, selected: each === value }, each))));
  const names = all.map((each) => each.name);
  const tabs = el("div", { class: "tabs", role: "group", "aria-label": "Which problems" });
  const headline = el("p", { class: "headline" });
  const body = el("tbody");
  const head = el("tr");
  const note = el("p", { class: "count", role: "status" });
  const more = el("button", { type: "button", hidden: true, onclick: () => ((shown += SHOWN), draw()) }, "More");
  const differing = el("section", { class: "settings" });
  main.append(el("h1", {}, `${b.name} against ${a.name}`),
    el("form", { class: "filters", onsubmit: (event) => event.preventDefault() },
      shared.length > 1 ? select("benchmark", "Benchmark", shared, benchmark) : null,
      select("a", "A", names, a.name), select("b", "B", names, b.name),
      el("a", { class: "swap", href: address({ a: b.name, b: a.name }) }, "Swap")),
    headline, el("div", { class: "controls" }, tabs), note,
    el("div", { class: "scroll" }, el("table", { class: "rollouts problems" }, el("thead", {}, head), body)), more, differing);

  function problemLink(pair) {
    const [numberA, numberB] = found.numbers;
    return link("group", { run: a.name, step: numberA, group: pair.problems[0], against: b.name, against_step: numberB,
      against_group: pair.problems[1] });
  }

  function sayDifference() {
    const { mean, interval, p } = found.found;
    headline.replaceChildren(el("strong", {}, `${signed(mean)}`), ` (95% interval ${signed(interval[0])} to ${signed(interval[1])}): `,
      `B scores ${found.means[1].toFixed(3)}, A ${found.means[0].toFixed(3)} on ${format(pairs.length)} problems of ${found.name}; `,
      `p ${format(p, 2)}: ${found.verdict}.`);
    tabs.replaceChildren(...Object.entries(WHICH).map(([key, [name, fits]]) =>
      el("button", { type: "button", "data-which": key, "aria-pressed": String(key === which), onclick: () => {
        which = key;
        shown = SHOWN;
        history.replaceState(null, "", address({}));
        sayDifference();
        draw();
      } }, `${name}: ${format(pairs.filter((pair) => fits(pair.scores)).length)}`)));
  }

  let drawing = 0;
  async function draw() {
    const mine = ++drawing;
    const sign = descending ? -1 : 1;
    const change = ({ scores: [x, y] }) => y - x;
    const wanted = pairs.filter((pair) => WHICH[which][1](pair.scores))
      .sort((x, y) => sign * (change(x) - change(y)) || x.problems[0] - y.problems[0]);
    const page = wanted.slice(0, shown);
    more.hidden = page.length === wanted.length;
    note.textContent = wanted.length ? "" : "There are no such problems.";
    head.replaceChildren(el("th", { scope: "col", class: "number" }, "problem"),
      el("th", { scope: "col", class: "number" }, "A"), el("th", { scope: "col", class: "number" }, "B"),
      el("th", { scope: "col", class: "number", "aria-sort": descending ? "descending" : "ascending" },
        el("button", { type: "button", onclick: () => ((descending = !descending), draw()) }, `B − A ${descending ? "↓" : "↑"}`)),
      ...others.map(({ each }) => el("th", { scope: "col", class: "number extra" }, each.name)),
      el("th", { scope: "col", class: "excerpt" }, "prompt"));
    const cells = new Map(); // cells of problems whose text is not known yet
    body.replaceChildren(...page.map((pair) => {
      const here = problemLink(pair);
      const asked = el("a", { href: here }, prompts.get(pair.problems[0]) ?? "the responses of both");
      if (!prompts.has(pair.problems[0])) cells.set(pair.problems[0], asked);
      return el("tr", { onclick: (event) => event.target.closest("a") ?? (location.hash = here) },
        el("td", { class: "number" }, format(pair.problems[0])),
        el("td", { class: "number" }, format(pair.scores[0], 3)), el("td", { class: "number" }, format(pair.scores[1], 3)),
        el("td", { class: "number reward" }, signed(change(pair))),
        others.map(({ scores }) => el("td", { class: "number extra" }, format(scores.get(pair.problems[0]), 3))),
        el("td", { class: "excerpt" }, asked));
    }));
    try {
      for (const some = [...cells.keys()]; some.length && mine === drawing; ) {
        const said = await source.prompts(a.name, found.numbers[0], some.splice(0, SHOWN));
        for (const [problem, conversation] of Object.entries(said)) {
          if (!conversation) continue;
          prompts.set(Number(problem), promptText(conversation).slice(0, 300));
          cells.get(Number(problem)).textContent = prompts.get(Number(problem));
        }
      }
    } catch (error) {
      note.textContent = error.message;
    }
  }

  async function showSettingsThatDiffer() {
    const settings = await source.settings();
    const own = (each) => Object.entries(settings[each.name]).filter(([key]) => key.startsWith(`${benchmark}: `));
    const [ours, theirs] = [new Map(own(a)), new Map(own(b))];
    const keys = [...new Set([...ours.keys(), ...theirs.keys()])].filter((key) => ours.get(key) !== theirs.get(key)).sort();
    differing.replaceChildren(el("h2", {}, "Settings that differ"), keys.length
      ? el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ["setting", "A", "B"].map((name) => el("th", { scope: "col" }, name)))),
          el("tbody", {}, keys.map((key) => el("tr", {}, el("th", { scope: "row" }, key.slice(benchmark.length + 2)),
            el("td", {}, ours.get(key) ?? "–"), el("td", {}, theirs.get(key) ?? "–"))))))
      : el("p", { class: "empty" }, "None: both have the same settings."));
  }

  async function show() {
    found = await source.comparison(a.name, b.name, benchmark);
    pairs = found.problems.map((problems, i) => ({ problems, scores: found.scores[i] }));
    await Promise.all(others.map(async (other) => {
      try {
        const { problems, scores } = await source.comparison(a.name, other.each.name, benchmark);
        problems.forEach(([problem], i) => other.scores.set(problem, scores[i][1]));
      } catch (error) {
        note.textContent = error.message; // for example, its problems differ; those of the compared two do not
      }
    }));
    const failed = note.textContent;
    sayDifference();
    await draw();
    note.textContent ||= failed;
    await showSettingsThatDiffer();
  }

  return { ready: show() };
}
