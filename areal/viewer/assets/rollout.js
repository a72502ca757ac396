// One rollout, as a conversation or token by token; and a group, side by side.

import { promptText, showActions, showConversation, written } from "./conversation.js";
import { duration, el, ending, format, groupLink, link, rolloutLink, weights } from "./dom.js";
import { source } from "./source.js";
import { showTokens } from "./tokenview.js";

function facts(row, short = false) {
  const parts = Object.entries(row.parts);
  const found = [
    ["reward", format(row.reward) + (parts.length > 1 ? ` (${parts.map(([name, x]) => `${name} ${format(x)}`).join(", ")})` : "")],
    ["players", Object.entries(row.players ?? {}).map(([name, x]) => `${name} ${format(x)}`).join(", ")],
    ["expected", row.expected],
    ["session", row.session],
    [row.benchmark ? "problem mean" : "group mean", short || row.session !== undefined ? null : format(row.mean)],
    ["environment", short ? null : row.env],
    ["tokens", format(row.tokens)],
    ["weights", weights(row)],
    ["staleness", row.staleness === undefined ? null : format(row.staleness)],
    ["finish", ending(row.finish)],
    ["time", row.seconds > 0 ? duration(row.seconds) + latencyText(row.latency) : null],
    ["task", short || !Object.keys(row.task).length ? null : JSON.stringify(row.task)],
  ];
  return el("dl", { class: "facts" }, found.filter(([, value]) => value).map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

// How a rollout spent its time, as far as that was recorded.
function latencyText(latency) {
  const names = [["model", "model"], ["env_queue", "queue for the environment"], ["env", "environment"], ["verifier", "of which verifier"]];
  const parts = names.filter(([key]) => typeof latency[key] === "number").map(([key, name]) => `${name} ${duration(latency[key])}`);
  return parts.length ? ` (${parts.join(", ")})` : "";
}

function failure(row) {
  return row.failure ? el("p", { class: "failure" }, `failed: ${row.failure}`) : null;
}

// Names for a group and a rollout: in an evaluation, they are a problem and a response to it.
const NAMES = { run: { group: "Group", one: "Rollout", several: "rollouts" }, evaluation: { group: "Problem", one: "Response", several: "responses" } };
function namesFor(row) {
  return row.benchmark ? NAMES.evaluation : NAMES.run;
}

// A link to all rollouts of the step or benchmark of a rollout, worst first; for a session, to its record.
function whereFrom(run, row) {
  if (row.session !== undefined) return el("a", { href: link("rollouts", { run }) }, `Sessions of ${run}`);
  return el("a", { href: link("rollouts", { run, from: row.step, to: row.step, sort: "reward" }) },
    row.benchmark ? `${row.benchmark} in ${run}` : `Step ${row.step} of ${run}`);
}

// All conversations of a rollout; for a response of an evaluation, perhaps only the actions of its agent are known.
function conversations(row, options) {
  if (row.note) return [el("p", { class: "hint" }, row.note), showActions(row.actions, options.typeset)];
  // A group shows the common prompt of its first conversations once.
  return row.conversations.map((each, i) => showConversation(each, { ...options, prompt: options.prompt !== false || i > 0 }));
}

// The same, each under the name of its player, if it has one.
function roles(row, options) {
  return conversations(row, options).flatMap((each, i) =>
    [row.conversations[i]?.player ? el("h3", {}, called(row, i)) : "", each]);
}

// The name of one of several conversations: its player with the reward, or its number.
function called(row, i) {
  const { player } = row.conversations[i];
  if (!player) return `Conversation ${i + 1} of ${row.conversations.length}`;
  const earned = row.players?.[player];
  return player + (earned === undefined ? "" : `: reward ${format(earned)}`);
}

export function rollout(main, store, params) {
  const run = params.get("run") ?? "";
  let [view, kind] = [params.get("view") ?? "conversation", params.get("color") ?? "version"];
  let typeset = true;

  async function show() {
    const { rollouts: [row] } = await source.group(run, params.get("step"), params.get("group"), params.get("number"));
    const names = namesFor(row);
    const body = el("div");
    const beside = (by, name) => {
      const number = row.number + by;
      const there = number >= 1 && number <= row.size;
      return there ? el("a", { href: rolloutLink(run, { ...row, number }, { view, color: kind }) }, name) : null;
    };
    const formulas = mathematics((wanted) => {
      typeset = wanted;
      draw();
    });
    const tabs = el("div", { class: "tabs", role: "group", "aria-label": "View" },
      [["conversation", "Conversation"], ["tokens", "Tokens"]].map(([key, name]) =>
        el("button", { type: "button", "data-view": key, onclick: () => choose(key, kind) }, name)));

    function choose(newView, newKind) {
      [view, kind] = [newView, newKind];
      history.replaceState(null, "", rolloutLink(run, row, { view, color: kind }));
      draw();
    }

    const haveTokens = row.conversations.some((each) => each.texts);
    tabs.hidden = !haveTokens;

    function draw() {
      const tokens = view === "tokens" && haveTokens;
      formulas.hidden = tokens;
      for (const tab of tabs.children) tab.setAttribute("aria-pressed", String(tab.dataset.view === view));
      const shown = tokens
        ? row.conversations.map((each) => showTokens(each, row, run, kind, (chosen) => {
            kind = chosen;
            history.replaceState(null, "", rolloutLink(run, row, { view, color: kind }));
          }))
        : conversations(row, { typeset });
      const named = row.conversations.length > 1 || row.conversations[0]?.player;
      body.replaceChildren(...shown.flatMap((each, i) =>
        [named ? el("h2", {}, called(row, i)) : "", each]));
    }

    main.append(
      el("p", { class: "crumbs" },
        whereFrom(run, row),
        ...(row.session !== undefined ? [] : [" › ",
          el("a", { href: groupLink(run, row) }, `${names.group.toLowerCase()} ${row.group}, side by side`)])),
      el("h1", {}, row.session !== undefined ? `Session ${row.group}` : `${names.one} ${row.number} of ${row.size}`),
      facts(row), failure(row) ?? "",
      el("div", { class: "controls" }, tabs, beside(-1, `← previous in the ${names.group.toLowerCase()}`) ?? "", beside(1, `next in the ${names.group.toLowerCase()} →`) ?? "", formulas),
      body);
    draw();
  }

  return { ready: show() };
}

// A checkbox for typesetting formulas; it calls `change` with its state.
function mathematics(change) {
  const box = el("input", { type: "checkbox", checked: true, onchange: () => change(box.checked) });
  return el("label", {}, box, " Typeset formulas");
}

// A group, side by side; in an evaluation, optionally with the responses of another evaluation to the same problem.
export function group(main, store, params) {
  const run = params.get("run") ?? "";
  const against = params.get("against");

  async function show() {
    const found = [await source.group(run, params.get("step"), params.get("group"))];
    if (against) found.push(await source.group(against, params.get("against_step"), params.get("against_group")));
    const owners = [run, against];
    const rows = found.flatMap(({ rollouts }, i) => rollouts.map((row) => ({ row, owner: owners[i] })));
    const prompts = new Set(rows.map(({ row }) => promptText(row.conversations[0])));
    const shared = prompts.size === 1 ? [...prompts][0] : "";
    const [{ row: first }] = rows;
    const names = namesFor(first);
    const body = el("div");
    rows.sort((a, b) => a.row.reward - b.row.reward || a.row.number - b.row.number);
    const means = found.map(({ rollouts }) => format(rollouts[0].mean));
    main.append(
      el("p", { class: "crumbs" }, against
        ? el("a", { href: link("comparison", { benchmark: first.benchmark, a: run, b: against }) }, `${against} against ${run}`)
        : whereFrom(run, first)),
      el("h1", {}, `${names.group} ${first.group}`),
      el("p", {}, `${rows.length} ${names.several} ${names === NAMES.run ? "of" : "to"} one problem`,
        against ? "" : `, mean reward ${means[0]}`, "; worst first."),
      el("div", { class: "controls" }, mathematics(draw)),
      body);
    draw(true);

    function draw(typeset) {
      body.replaceChildren(
        shared ? el("section", { class: "message given" }, el("h3", {}, "prompt"), written(shared, typeset)) : "",
        ...found.flatMap((_, i) => [
          against ? el("h2", {}, `${owners[i]}: mean reward ${means[i]}`) : "",
          el("div", { class: "side-by-side" }, rows.filter(({ owner }) => owner === owners[i]).map(({ row, owner }) =>
            el("article", {},
              el("h2", {}, el("a", { href: rolloutLink(owner, row) }, `${names.one} ${row.number}`)),
              facts(row, true), failure(row), roles(row, { prompt: !shared, typeset }))))]));
    }
  }

  return { ready: show() };
}
