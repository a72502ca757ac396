// The first page: the runs with their problems and curves, and the settings that differ.

import { Chart } from "./charts.js";
import { el, format, link } from "./dom.js";
import { scores } from "./scores.js";
import { report, source, usualRun } from "./source.js";

const SCORE = /^eval\/(.+)\/avg@(\d+)$/;
const SPEED = "Asynchrony and speed";
const WHOLE = ["reward/mean", "reward/std"];

// The charts: [section, [[title, keys, help], …]]; metrics without data have no chart.
function sections(keys) {
  const scores = keys.filter((key) => SCORE.test(key));
  const parts = keys.filter((key) => key.startsWith("reward/") && !WHOLE.includes(key));
  const members = keys.filter((key) => /^env\/.+\/reward$/.test(key));
  const known = [
    ["Learning", [
      ["Reward", ["reward/mean"], "mean reward of the batch"],
      ...scores.map((key) => [`Held-out score (${SCORE.exec(key)[1]})`, [key], "mean reward on held-out problems"]),
      ...(parts.length > 1 ? parts.map((key) => [`Reward: ${key.slice(7)}`, [key], "mean of this part of the reward"]) : []),
      ...members.map((key) => [`Reward in ${key.slice(4, -7)}`, [key], "mean reward of this environment's episodes"]),
      ["Reward, standard deviation", ["reward/std"], "if 0, nothing is learned"],
      ["Advantage 0", ["advantage/zero"], "share of the trajectories from which nothing is learned"],
    ]],
    ["Policy", [
      ["Entropy", ["policy/entropy"], "in nats"],
      ["KL to the behavior policy", ["policy/kl"], "KL divergence from the policies that sampled the tokens"],
      ["KL to the reference", ["policy/reference_kl"], "if the objective has a KL term"],
      ["Clip ratio", ["policy/clip_ratio"], "share of the tokens that are clipped"],
      ["Behavior ratio", ["policy/behav_ratio"], "mean of π_prox/π_behav"],
      ["Gradient norm", ["grad_norm"], "before clipping"],
      ["Log-probabilities, engine vs. learner", ["mismatch/logprob"], "mean difference under the same weights"],
    ]],
    ["Responses", [
      ["Length", ["response/length_mean"], "sampled tokens of an episode"],
      ["Truncated", ["response/truncated"], "share of the episodes that ended at a length limit"],
      ["Thought length", ["response/thought"], "tokens of a response that belong to its thought"],
      ["Unfinished thoughts", ["response/thought_unended"], "share of the responses"],
      ["Thoughts ended by the budget", ["response/thought_cut"], "share of the responses"],
      ["Failed", ["response/failed"], "share of the episodes whose program failed"],
    ]],
    [SPEED, [
      ["Staleness", ["staleness/mean", "staleness/max"], "updates from the oldest token to the update that uses it"],
      ["Generated tokens/s", ["throughput/tokens_per_s"], "sampled tokens of finished episodes, over at least 10 s"],
      ["Trained tokens/s", ["learner/tokens_per_s"], "while the learner works"],
      ["Seconds per step", ["time/step"], ""],
      ["Share of the step: learner waits", [["time/wait", "time/step"]], "for a batch"],
      ["Share of the step: learner works", [["time/train", "time/step"]], ""],
      ["Share of the step: engine generates", [["time/generate", "time/step"]], "the engine has requests and is not paused"],
      ["Seconds per weight update", ["time/sync"], "in parallel with everything else"],
      ["Overlap", ["overlap"], "above 1, the learner and the engine work in parallel"],
      ["Engines", ["engine/count"], ""],
    ]],
  ];
  const used = new Set(known.flatMap(([, charts]) => charts.flatMap(([, names]) => names.flat())));
  const others = keys.filter((key) => !used.has(key) && key !== "step" && key !== "time").sort();
  return [...known, ["All other metrics", others.map((key) => [key, [key], ""])]];
}

function title({ runs, evaluations, sessions }) {
  const all = [...runs, ...evaluations, ...sessions];
  if (all.length === 1) return all[0].name;
  const counts = [[runs.length, "run"], [evaluations.length, "evaluation"], [sessions.length, "record"]].filter(([count]) => count);
  return counts.map(([count, name]) => `${count} ${name}${count > 1 ? "s" : ""}`).join(", ");
}

// The files of sessions, each with a link to its sessions.
function recorded(store) {
  const rows = () => store.sessions.map(({ name, state }) => el("tr", {},
    el("th", { scope: "row" }, el("a", { href: link("rollouts", { run: name }) }, name)),
    el("td", { class: "number" }, format(state.sessions)), el("td", {}, state.ended), el("td", { class: "model" }, state.model)));
  const body = el("tbody", {}, rows());
  const element = el("div", { class: "scroll" }, el("table", { class: "records" }, el("thead", {}, el("tr", {},
    ["record", "sessions", "last ended", "model"].map((name) => el("th", { scope: "col", class: name === "sessions" ? "number" : "" }, name)))), body));
  return { element, update: () => body.replaceChildren(...rows()) };
}

const hiddenRuns = new Set();
let smoothing = 0;

export function overview(main, store) {
  const charts = new Map();
  const control = {
    smoothing,
    range: null,
    zoom(low, high) {
      control.range = low === null ? null : [low, high];
      for (const chart of charts.values()) chart.scale();
      showRange();
    },
    rollouts: (run, step) => (location.hash = link("rollouts", { run: run.name, from: step, to: step, sort: "reward" })),
    timeline: (run, step) =>
      (location.hash = link("timeline", { run: run.name, from: Math.max(1, step - 60), to: step + 10, at: step })),
  };
  const runsBox = el("div", { class: "scroll" });
  const alarmsBox = el("ul", { class: "alarms", "aria-label": "Problems" });
  const marksBox = el("p", { class: "hint" });
  const chartsBox = el("div");
  const settingsBox = el("section", { class: "settings" });
  const rangeBox = el("span", { class: "range" });
  const slider = el("input", {
    type: "range", min: 0, max: 50, value: smoothing, id: "smoothing",
    oninput: () => {
      smoothing = control.smoothing = Number(slider.value);
      amount.textContent = smoothing ? `mean of ${2 * smoothing + 1}` : "off";
      showCharts();
    },
  });
  const amount = el("output", { for: "smoothing" }, smoothing ? `mean of ${2 * smoothing + 1}` : "off");
  const settings = store.runs.length ? source.settings() : null; // requested while the charts are drawn
  const evaluated = store.evaluations.length ? scores(store) : null;
  const served = store.sessions.length ? recorded(store) : null;
  const ofRuns = [
    el("div", { class: "controls" }, el("label", { for: "smoothing" }, "Smoothing"), slider, amount, rangeBox,
      el("span", { class: "hint" }, "drag to zoom; click a step to open its rollouts or, in a chart of speed, its timeline")),
    marksBox,
    chartsBox,
    settingsBox,
  ];
  main.append(
    el("h1", {}, title(store)),
    ...(store.runs.length ? [runsBox, alarmsBox] : []),
    evaluated?.element ?? "",
    served?.element ?? "",
    ...(store.runs.length ? ofRuns : []),
  );

  const nows = new Map();
  const visible = () => store.runs.filter((run) => !hiddenRuns.has(run.name));

  function showRange() {
    rangeBox.replaceChildren();
    if (!control.range) return;
    const [low, high] = [Math.ceil(control.range[0]), Math.floor(control.range[1])];
    const run = visible()[0];
    rangeBox.append(
      el("button", { type: "button", onclick: () => control.zoom(null) }, "Whole run"),
      ...(run ? [
        el("a", { href: link("rollouts", { run: run.name, from: low, to: high, sort: "reward" }) },
          `rollouts of steps ${low} to ${high}`),
        el("a", { href: link("timeline", { run: run.name, from: low, to: high }) }, "timeline of these steps")] : []),
    );
  }

  function showRuns() {
    const names = ["run", "state", "updates", "reward", "held-out", "environment", "model"];
    const rows = store.runs.map((run) => {
      const { state } = run;
      const box = el("input", {
        type: "checkbox", id: `run-${run.index}`, checked: !hiddenRuns.has(run.name),
        onchange: () => {
          if (box.checked) hiddenRuns.delete(run.name);
          else hiddenRuns.add(run.name);
          showCharts();
        },
      });
      const label = el("label", { for: `run-${run.index}` }, el("i", { class: `swatch run-${run.index % 8}` }), run.name);
      const cells = state.error
        ? [el("td", { colspan: 6 }, state.error)]
        : [state.state || "unknown", `${format(state.step)} of ${format(state.steps)}`, format(state.reward),
            state.scored === 0 ? `${format(state.accuracy)} before training` : format(state.accuracy),
            state.env, state.model].map((text, i) =>
            el("td", { class: i > 0 && i < 4 ? "number" : "", title: i ? "" : state.ended }, text, i ? null : nowOf(run)));
      return el("tr", {}, el("th", { scope: "row" }, box, label), cells);
    });
    const head = el("tr", {}, names.map((name, i) => el("th", { scope: "col", class: i > 1 && i < 5 ? "number" : "" }, name)));
    runsBox.replaceChildren(el("table", { class: "runs" }, el("thead", {}, head), el("tbody", {}, rows)));
  }

  // The current activity of a run, next to its state; it changes in place, so that the row keeps the keyboard focus.
  function nowOf(run) {
    const box = el("div", { class: "now" });
    nows.set(run, box);
    return box;
  }

  function showNow() {
    for (const [run, box] of nows) box.replaceChildren(...run.state.now.map((line) => el("small", {}, line)));
  }

  function showAlarms() {
    const several = store.runs.length > 1;
    const found = store.runs.flatMap((run) => run.state.alarms.map((alarm) => ({ run, alarm })));
    alarmsBox.hidden = !found.length;
    alarmsBox.replaceChildren(...found.map(({ run, alarm }) =>
      el("li", {}, el("strong", {}, alarm.name), ` (${several ? `${run.name}, ` : ""}update ${alarm.step}): ${alarm.line}`)));
  }

  function showMarks() {
    const found = store.runs.filter((run) => run.state.marks?.length);
    marksBox.hidden = !found.length;
    marksBox.replaceChildren("Dotted lines mark when a part was lost, came back or left, or when the run was resumed (",
      ...found.flatMap((run, i) => [i ? ", " : "", el("a", { href: link("timeline", { run: run.name, last: "" }) },
        `${run.state.marks.length} in ${run.name}`)]), ").");
  }

  let drawn = "";
  function showCharts() {
    const keys = [...new Set(store.runs.flatMap((run) => Object.keys(run.columns)))].sort();
    if (drawn !== JSON.stringify(keys)) {
      drawn = JSON.stringify(keys);
      for (const chart of charts.values()) chart.close();
      charts.clear();
      chartsBox.replaceChildren(...sections(keys).map(section).filter((each) => each));
      if (!keys.length) chartsBox.append(el("p", { class: "empty" }, "The run has not made an update yet; the page waits for the first one."));
    }
    for (const chart of charts.values()) if (chart.wanted()) chart.show(visible());
  }

  function section([title, abouts], index, all) {
    const there = abouts.filter(([, keys]) => store.runs.some((run) => keys.some((key) => run.columns[[key].flat()[0]])));
    if (!there.length) return null;
    const folded = index === all.length - 1;
    const grid = el("div", { class: "charts" });
    const outer = folded
      ? el("details", { class: "section", ontoggle: () => showCharts() }, el("summary", {}, title), grid)
      : el("section", { class: "section" }, el("h2", {}, title), grid);
    if (title === SPEED) {
      const run = usualRun(visible()) ?? usualRun(store.runs);
      grid.before(el("p", { class: "hint" }, "To see why the run is fast or slow, open ",
        el("a", { href: link("timeline", { run: run.name }) }, "the timeline"),
        ". It shows when the learner waited, when the engines paused, where rollouts spent their time, and why tokens/s fell. ",
        "Click a step in a chart of this section to open it in the timeline."));
    }
    for (const [name, keys, help] of there) {
      const about = { title: name, keys, help, points: SCORE.test(String(keys[0])), opens: title === SPEED ? "timeline" : "rollouts" };
      const chart = new Chart(about, control);
      chart.wanted = () => !folded || outer.open;
      charts.set(name, chart);
      grid.append(chart.element);
    }
    return outer;
  }

  async function showSettings() {
    const found = await settings;
    const names = store.runs.map((run) => run.name);
    const keys = [...new Set(names.flatMap((name) => Object.keys(found[name])))].sort();
    const differ = keys.filter((key) => new Set(names.map((name) => found[name][key])).size > 1);
    const table = (rows) =>
      el("div", { class: "scroll" }, el("table", {},
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "setting"),
          store.runs.map((run) => el("th", { scope: "col" }, el("i", { class: `swatch run-${run.index % 8}` }), run.name)))),
        el("tbody", {}, rows.map((key) =>
          el("tr", {}, el("th", { scope: "row" }, key), names.map((name) => el("td", {}, found[name][key] ?? "–")))))));
    const whole = el("details", {}, el("summary", {}, "All settings"), table(keys));
    if (names.length === 1) settingsBox.replaceChildren(el("h2", {}, "Settings"), whole);
    else
      settingsBox.replaceChildren(el("h2", {}, "Settings that differ"),
        differ.length ? table(differ) : el("p", { class: "empty" }, "None: the runs have the same settings."), whole);
  }

  showRuns();
  showNow();
  showAlarms();
  showMarks();
  showCharts();
  if (report) main.append(el("p", { class: "empty" }, report.note));
  return {
    ready: Promise.all([store.runs.length ? showSettings() : null, evaluated?.ready]),
    update(changed) {
      if (changed.states) evaluated?.update();
      if (changed.states) served?.update();
      if (changed.states) showRuns();
      showNow();
      if (changed.states) showAlarms();
      if (changed.states) showMarks();
      if (changed.metrics || changed.states) showCharts();
    },
    theme: () => charts.forEach((chart) => chart.redraw()),
    close: () => charts.forEach((chart) => chart.close()),
  };
}
