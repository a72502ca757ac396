// One rollout, as a conversation or token by token; and a group, side by side.

import { showConversation, messages, stretches, written } from "./conversation.js";
import { el, ending, format, groupLink, link, rolloutLink, weights } from "./dom.js";
import { source } from "./source.js";
import { showTokens } from "./tokenview.js";

function facts(row, short = false) {
  const parts = Object.entries(row.parts);
  const found = [
    ["reward", format(row.reward) + (parts.length > 1 ? ` (${parts.map(([name, x]) => `${name} ${format(x)}`).join(", ")})` : "")],
    ["group mean", short ? null : format(row.mean)],
    ["environment", short ? null : row.env],
    ["tokens", format(row.tokens)],
    ["weights", weights(row)],
    ["staleness", format(row.staleness)],
    ["finish", ending(row.finish)],
    ["seconds", row.seconds > 0 ? format(row.seconds) + latencyText(row.latency) : null],
    ["task", short || !Object.keys(row.task).length ? null : JSON.stringify(row.task)],
  ];
  return el("dl", { class: "facts" }, found.filter(([, value]) => value).map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

// Where the seconds of a rollout went, as far as that was recorded.
function latencyText(latency) {
  const names = [["model", "model"], ["env", "environment"], ["env_queue", "queue for it"]];
  const parts = names.filter(([key]) => typeof latency[key] === "number").map(([key, name]) => `${name} ${format(latency[key], 3)}`);
  return parts.length ? ` (${parts.join(", ")})` : "";
}

function failure(row) {
  return row.failure ? el("p", { class: "failure" }, `failed: ${row.failure}`) : null;
}

export function rollout(main, store, params) {
  const run = params.get("run") ?? "";
  let [view, kind] = [params.get("view") ?? "conversation", params.get("colour") ?? "version"];
  let typeset = true;

  async function show() {
    const { rollouts: [row] } = await source.group(run, params.get("step"), params.get("group"), params.get("number"));
    const body = el("div");
    const beside = (by, name) => {
      const number = row.number + by;
      const there = number >= 1 && number <= row.size;
      return there ? el("a", { href: rolloutLink(run, { ...row, number }, { view, colour: kind }) }, name) : null;
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
      history.replaceState(null, "", rolloutLink(run, row, { view, colour: kind }));
      draw();
    }

    function draw() {
      formulas.hidden = view === "tokens";
      for (const tab of tabs.children) tab.setAttribute("aria-pressed", String(tab.dataset.view === view));
      const several = row.conversations.length > 1;
      body.replaceChildren(...row.conversations.flatMap((each, i) => [
        several ? el("h2", {}, `Conversation ${i + 1} of ${row.conversations.length}`) : "",
        view === "tokens"
          ? showTokens(each, row, kind, (chosen) => {
              kind = chosen;
              history.replaceState(null, "", rolloutLink(run, row, { view, colour: kind }));
            })
          : showConversation(each, { typeset }),
      ]));
    }

    main.append(
      el("p", { class: "crumbs" },
        el("a", { href: link("rollouts", { run, from: row.step, to: row.step, sort: "reward" }) }, `Step ${row.step}`), " › ",
        el("a", { href: groupLink(run, row) }, `group ${row.group}, side by side`)),
      el("h1", {}, `Rollout ${row.number} of ${row.size}`),
      facts(row), failure(row) ?? "",
      el("div", { class: "controls" }, tabs, beside(-1, "← previous") ?? "", beside(1, "next →") ?? "", formulas),
      body);
    draw();
  }

  return { ready: show() };
}

// A box that says whether formulas are typeset; `change` is told so.
function mathematics(change) {
  const box = el("input", { type: "checkbox", checked: true, onchange: () => change(box.checked) });
  return el("label", {}, box, " Typeset formulas");
}

function promptOf(row) {
  const [conversation] = row.conversations;
  const [first] = stretches(conversation);
  return first && !first.sampled ? messages(conversation, first).map(({ text }) => text).join("\n\n") : "";
}

export function group(main, store, params) {
  const run = params.get("run") ?? "";

  async function show() {
    const { rollouts } = await source.group(run, params.get("step"), params.get("group"));
    const prompts = new Set(rollouts.map(promptOf));
    const shared = prompts.size === 1 ? [...prompts][0] : "";
    const [first] = rollouts;
    const body = el("div");
    const sorted = [...rollouts].sort((a, b) => a.reward - b.reward || a.number - b.number);
    main.append(
      el("p", { class: "crumbs" },
        el("a", { href: link("rollouts", { run, from: first.step, to: first.step, sort: "reward" }) }, `Step ${first.step}`)),
      el("h1", {}, `Group ${first.group}`),
      el("p", {}, `${rollouts.length} rollouts of one problem, mean reward ${format(first.mean)}; the worst first.`),
      el("div", { class: "controls" }, mathematics(draw)),
      body);
    draw(true);

    function draw(typeset) {
      body.replaceChildren(
        shared ? el("section", { class: "message given" }, el("h3", {}, "prompt"), written(shared, typeset)) : "",
        el("div", { class: "side-by-side" }, sorted.map((row) =>
          el("article", {},
            el("h2", {}, el("a", { href: rolloutLink(run, row) }, `Rollout ${row.number}`)),
            facts(row, true), failure(row),
            row.conversations.map((each) => showConversation(each, { prompt: !shared, typeset }))))));
    }
  }

  return { ready: show() };
}
