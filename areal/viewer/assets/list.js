// The list of rollouts, of responses of an evaluation, or of sessions, with filters, order and search. Each view has its
// own link.

import { el, ending, format, groupLink, link, rolloutLink, weights } from "./dom.js";
import { namedRun, report, source, usualRun } from "./source.js";

const SORTS = { step: "step", reward: "reward", tokens: "tokens", staleness: "staleness" };
const FIELDS = ["from", "to", "least", "most", "part", "part_least", "part_most", "env", "finish", "changed", "text", "sort",
  "descending"];
const PAGE = 50;
const PARTS = 4; // columns of parts of the reward

export function list(main, store, params) {
  const all = [...store.runs, ...store.evaluations, ...store.sessions];
  const run = namedRun(all, params.get("run")) ?? usualRun(store.runs) ?? all[0];
  const { evaluation, sessions } = run;
  const ofSteps = !evaluation && !sessions;
  const benchmarks = evaluation ? run.state.benchmarks : [];
  const nameOf = (step) => benchmarks.find(({ number }) => number === step)?.name ?? step;
  const asked = Object.fromEntries(FIELDS.map((name) => [name, params.get(name) ?? ""]));
  const usual = { sort: "step", descending: evaluation ? "" : "1" };
  if (!asked.sort) Object.assign(asked, usual);
  let rows = [];
  let next = 0;
  let asking = 0;
  let waiting = null;

  const input = (name, label, properties = {}) =>
    el("label", {}, label, el("input", {
      name, value: asked[name], autocomplete: "off", spellcheck: "false", ...properties,
      oninput: (event) => set({ [name]: event.target.value.trim() }, 250),
    }));
  const select = (name, label) =>
    el("label", { hidden: true }, label, el("select", { name, onchange: (event) => set({ [name]: event.target.value }) }));
  const number = { type: "number", step: "any", inputmode: "decimal" };
  const env = select("env", "Environment");
  const finish = select("finish", "Finish");
  const runs = el("label", { hidden: all.length < 2 }, store.runs.length ? "Run" : store.evaluations.length ? "Evaluation" : "Record",
    el("select", { name: "run", onchange: (event) => (location.hash = link("rollouts", { run: event.target.value })) },
      all.map((each) => el("option", { value: each.name, selected: each === run }, each.name))));
  const benchmark = el("label", { hidden: benchmarks.length < 2 }, "Benchmark",
    el("select", { name: "benchmark", onchange: (event) => set({ from: event.target.value, to: event.target.value }) },
      el("option", { value: "" }, "any"),
      benchmarks.map((each) => el("option", { value: each.number, selected: asked.from === String(each.number) }, each.name))));
  const part = el("label", { hidden: true }, "Part of the reward", el("select", { name: "part", onchange: (event) => {
    const changes = { part: event.target.value, part_least: "", part_most: "" };
    set({ ...changes, ...(asked.sort === "part" ? usual : {}) });
    fill();
  } }));
  const ofPart = [input("part_least", "Part from", number), input("part_most", "to", number)];
  const form = el("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
    runs,
    ...(!ofSteps ? [benchmark] : [
      input("from", "From step", { ...number, min: 0, step: 1 }), input("to", "To step", { ...number, min: 0, step: 1 })]),
    input("least", "Reward from", number),
    input("most", "to", number),
    part,
    ...ofPart,
    env,
    finish,
    input("text", "Text", { type: "search", class: "wide" }),
  );
  const changed = el("button", {
    type: "button", hidden: !ofSteps, title: "rollouts of all steps during which new weights were loaded, newest first",
    onclick: () => reset({ changed: asked.changed ? "" : "1" }),
  }, "Weights changed within a rollout");
  const quick = el("div", { class: "controls" },
    el("button", { type: "button", id: "worst", onclick: () => preset("reward", "") }, `Worst ${ofSteps ? "of the last step" : "first"}`),
    el("button", { type: "button", id: "best", onclick: () => preset("reward", "1") }, `Best ${ofSteps ? "of the last step" : "first"}`),
    changed,
    el("button", { type: "button", onclick: () => reset() }, "All"));
  const count = el("p", { class: "count", role: "status" });
  const body = el("tbody");
  const head = el("tr");
  const more = el("button", { type: "button", hidden: true, onclick: () => load(false) }, "More");
  const what = evaluation ? "Responses" : sessions ? "Sessions" : "Rollouts";
  const records = evaluation ? "benchmarks" : sessions ? "files" : "steps";
  main.append(el("h1", {}, all.length > 1 ? `${what} of ${run.name}` : what), quick, form, count,
    el("div", { class: "scroll" }, el("table", { class: "rollouts" }, el("thead", {}, head), body)), more);

  function address() {
    const given = FIELDS.map((name) => [name, asked[name]]).filter(([, value]) => value !== "");
    return link("rollouts", [["run", run.name], ...given]);
  }

  function set(changes, delay = 0) {
    Object.assign(asked, changes);
    history.replaceState(null, "", address());
    clearTimeout(waiting);
    waiting = setTimeout(() => load(true), delay);
  }

  function fill() {
    for (const field of form.querySelectorAll("input")) field.value = asked[field.name];
    for (const field of ofPart) field.hidden = !asked.part;
  }

  function preset(sort, descending) {
    const last = facts.last ?? "";
    const steps = ofSteps ? { from: last, to: last } : {};
    set({ ...steps, least: "", most: "", part_least: "", part_most: "", changed: "", sort, descending });
    fill();
  }

  function reset(changes = {}) {
    set({ ...Object.fromEntries(FIELDS.map((name) => [name, ""])), ...usual, ...changes });
    for (const label of [env, finish, part, benchmark]) label.lastChild.value = "";
    fill();
  }

  let facts = {};
  async function load(fresh) {
    const mine = ++asking;
    more.disabled = true;
    let found;
    try {
      found = await source.rollouts(run.name, { ...asked, limit: PAGE, skip: fresh ? 0 : next });
    } catch (error) {
      if (mine === asking) {
        count.textContent = error.message;
        more.disabled = false;
      }
      return;
    }
    if (mine !== asking) return; // a later question has been asked
    facts = found;
    rows = fresh ? found.rows : [...rows, ...found.rows];
    next = found.next;
    more.disabled = false;
    more.hidden = next === null;
    more.textContent = asked.text ? "Continue search" : "More";
    choices(env, found.envs, (name) => name);
    choices(finish, found.finishes, ending);
    choices(part, found.parts, (name) => name);
    say(found);
    changed.setAttribute("aria-pressed", String(asked.changed === "1"));
    showHead();
    body.replaceChildren(...rows.map(row));
  }

  function choices(label, names, shown) {
    const chosen = asked[label.lastChild.name];
    label.hidden = names.length < 2 && !chosen;
    const all = [...new Set([...names, ...(chosen ? [chosen] : [])])];
    if (label.lastChild.options.length === all.length + 1) return;
    label.lastChild.replaceChildren(el("option", { value: "" }, "any"),
      ...all.map((name) => el("option", { value: name, selected: name === chosen }, shown(name))));
  }

  function say(found) {
    const parts = [];
    if (asked.text) {
      const searched = found.next ?? found.count;
      parts.push(`${format(rows.length)} found in ${format(searched)} of ${format(found.count)} ${what.toLowerCase()}`);
    } else parts.push(`${format(found.count)} ${what.toLowerCase()}`);
    if (found.count === 0 && !found.left) parts.push("“All” clears the filters");
    if (found.left) parts.push(`${format(found.left)} ${records} are still being indexed`);
    if (found.damaged.length)
      parts.push(sessions ? "some lines are damaged and were skipped" : `the records of these ${records} are damaged: ${found.damaged.map(nameOf).join(", ")}`);
    if (found.parts_left_out) parts.push("only the first 16 parts of the reward are listed");
    if (report) parts.push(report.note);
    count.textContent = parts.join("; ");
  }

  function showHead() {
    const column = (name, sort, kind, part = null) => {
      if (!sort) return el("th", { scope: "col", class: kind }, name);
      const down = asked.descending === "1";
      const chosen = asked.sort === sort && (part === null || asked.part === part);
      const order = () => {
        const ranges = part === null || part === asked.part ? {} : { part, part_least: "", part_most: "" };
        set({ ...ranges, sort, descending: chosen && !down ? "1" : "" });
        fill();
      };
      return el("th", { scope: "col", class: kind, "aria-sort": chosen ? (down ? "descending" : "ascending") : "none" },
        el("button", { type: "button", onclick: order }, `${name}${chosen ? (down ? " ↓" : " ↑") : ""}`));
    };
    head.replaceChildren(
      ...(!ofSteps && benchmarks.length < 2 ? [] : [column(evaluation ? "benchmark" : "step", SORTS.step, evaluation ? "" : "number")]),
      sessions ? column("session", SORTS.step, "number") : column(evaluation ? "problem" : "group", null, "number"),
      column("reward", SORTS.reward, "number"),
      ...(sessions ? [] : [column(evaluation ? "problem mean" : "group mean", null, "number extra")]),
      ...parts().map((name) => column(name, "part", partClass(name), name)),
      ...(facts.envs?.length ? [column("environment", null, "extra")] : []),
      column("tokens", SORTS.tokens, "number"),
      ...(!ofSteps ? [] : [column("staleness", SORTS.staleness, "number"), column("weights", null, "extra")]),
      column("finish", null, "extra"), column("response", null, "excerpt"));
  }

  // The parts of the reward, if it has several; parts without a column can be chosen above the list.
  function parts() {
    return facts.parts?.length > 1 ? facts.parts.filter((name, i) => i < PARTS || name === asked.part) : [];
  }

  function partClass(name) {
    return name === asked.part ? "number part" : "number part extra";
  }

  function row(each) {
    const here = rolloutLink(run.name, each);
    return el("tr", { onclick: (event) => event.target.closest("a") ?? (location.hash = here) },
      ofSteps
        ? el("td", { class: "number" }, format(each.step))
        : benchmarks.length > 1 ? el("td", {}, nameOf(each.step)) : null,
      sessions
        ? el("td", { class: "number" }, `${each.group}`)
        : el("td", { class: "number" }, el("a", { href: groupLink(run.name, each), title: "side by side" },
          `${each.group}`), el("small", {}, ` ${each.number}/${each.size}`)),
      el("td", { class: "number reward" }, format(each.reward)),
      sessions ? null : el("td", { class: "number extra" }, format(each.mean)),
      parts().map((name) => el("td", { class: partClass(name) }, Object.hasOwn(each.parts, name) ? format(each.parts[name]) : "")),
      facts.envs?.length ? el("td", { class: "extra" }, each.env) : null,
      el("td", { class: "number" }, format(each.tokens)),
      ...(!ofSteps ? [] : [el("td", { class: "number" }, format(each.staleness)), el("td", { class: "extra" }, weights(each))]),
      el("td", { class: `extra finish-${each.finish === "eos" ? "well" : "other"}` }, ending(each.finish)),
      el("td", { class: "excerpt" }, el("a", { href: here }, each.excerpt.trim().replace(/\s*\n\s*/g, " ↵ ") || "(empty)")));
  }

  fill();
  return {
    ready: load(true),
    update(changed) {
      if ((changed.metrics || (!ofSteps && changed.states) || facts.left) && rows.length <= PAGE && !asked.text) load(true);
    },
    close: () => clearTimeout(waiting),
  };
}
