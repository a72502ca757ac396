// The list of rollouts: filters, order, search; each one has a link of its own.

import { el, ending, format, groupLink, link, rolloutLink, weights } from "./dom.js";
import { report, source } from "./source.js";

const SORTS = { step: "step", reward: "reward", tokens: "tokens", staleness: "staleness" };
const FIELDS = ["from", "to", "least", "most", "env", "finish", "text", "sort", "descending"];
const PAGE = 50;

export function list(main, store, params) {
  const run = store.runs.find((each) => each.name === params.get("run")) ?? store.runs[0];
  const asked = Object.fromEntries(FIELDS.map((name) => [name, params.get(name) ?? ""]));
  if (!asked.sort) Object.assign(asked, { sort: "step", descending: "1" });
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
  const runs = el("label", { hidden: store.runs.length < 2 }, "Run",
    el("select", { name: "run", onchange: (event) => (location.hash = link("rollouts", { run: event.target.value })) },
      store.runs.map((each) => el("option", { value: each.name, selected: each === run }, each.name))));
  const form = el("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
    runs,
    input("from", "From step", { ...number, min: 0, step: 1 }),
    input("to", "To step", { ...number, min: 0, step: 1 }),
    input("least", "Reward from", number),
    input("most", "to", number),
    env,
    finish,
    input("text", "Text", { type: "search", class: "wide" }),
  );
  const quick = el("div", { class: "controls" },
    el("button", { type: "button", id: "worst", onclick: () => preset("reward", "") }, "Worst of the last step"),
    el("button", { type: "button", id: "best", onclick: () => preset("reward", "1") }, "Best of the last step"),
    el("button", { type: "button", onclick: () => reset() }, "All"));
  const count = el("p", { class: "count", role: "status" });
  const body = el("tbody");
  const head = el("tr");
  const more = el("button", { type: "button", hidden: true, onclick: () => load(false) }, "More");
  main.append(el("h1", {}, store.runs.length > 1 ? `Rollouts of ${run.name}` : "Rollouts"), quick, form, count,
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
  }

  function preset(sort, descending) {
    const last = facts.last ?? "";
    set({ from: last, to: last, least: "", most: "", sort, descending });
    fill();
  }

  function reset() {
    set({ ...Object.fromEntries(FIELDS.map((name) => [name, ""])), sort: "step", descending: "1" });
    env.lastChild.value = finish.lastChild.value = "";
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
    more.textContent = asked.text ? "Search on" : "More";
    choices(env, found.envs, (name) => name);
    choices(finish, found.finishes, ending);
    say(found);
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
      parts.push(`${format(rows.length)} found in ${format(searched)} of ${format(found.count)} rollouts`);
    } else parts.push(`${format(found.count)} rollouts`);
    if (found.left) parts.push(`${format(found.left)} steps are still being indexed`);
    if (found.damaged.length) parts.push(`the records of these steps are damaged: ${found.damaged.join(", ")}`);
    if (report) parts.push(report.note);
    count.textContent = parts.join("; ");
  }

  function showHead() {
    const column = (name, sort, kind) => {
      if (!sort) return el("th", { scope: "col", class: kind }, name);
      const down = asked.descending === "1";
      const chosen = asked.sort === sort;
      return el("th", { scope: "col", class: kind, "aria-sort": chosen ? (down ? "descending" : "ascending") : "none" },
        el("button", { type: "button", onclick: () => set({ sort, descending: chosen && !down ? "1" : "" }) },
          `${name}${chosen ? (down ? " ↓" : " ↑") : ""}`));
    };
    head.replaceChildren(column("step", SORTS.step, "number"), column("group", null, "number"),
      column("reward", SORTS.reward, "number"), column("group mean", null, "number extra"),
      ...(facts.envs?.length ? [column("environment", null, "extra")] : []),
      column("tokens", SORTS.tokens, "number"), column("staleness", SORTS.staleness, "number"),
      column("weights", null, "extra"), column("finish", null, "extra"), column("response", null, "excerpt"));
  }

  function row(each) {
    const here = rolloutLink(run.name, each);
    return el("tr", { onclick: (event) => event.target.closest("a") ?? (location.hash = here) },
      el("td", { class: "number" }, format(each.step)),
      el("td", { class: "number" }, el("a", { href: groupLink(run.name, each), title: "the group side by side" },
        `${each.group}`), el("small", {}, ` ${each.number}/${each.size}`)),
      el("td", { class: "number reward" }, format(each.reward)),
      el("td", { class: "number extra" }, format(each.mean)),
      facts.envs?.length ? el("td", { class: "extra" }, each.env) : null,
      el("td", { class: "number" }, format(each.tokens)),
      el("td", { class: "number" }, format(each.staleness)),
      el("td", { class: "extra" }, weights(each)),
      el("td", { class: `extra finish-${each.finish === "eos" ? "well" : "other"}` }, ending(each.finish)),
      el("td", { class: "excerpt" }, el("a", { href: here }, each.excerpt.trim() || "(empty)")));
  }

  return {
    ready: load(true),
    update(changed) {
      if ((changed.metrics || facts.left) && rows.length <= PAGE && !asked.text) load(true);
    },
    close: () => clearTimeout(waiting),
  };
}
