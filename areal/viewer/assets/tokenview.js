// Every token, colored by one of its values. The pointer or the arrow keys show all values of a token.

import { el, format, rolloutLink } from "./dom.js";

const CHANCES = [0.9, 0.5, 0.2, 0.05, 0.01];
const CHANCE_NAMES = ["p ≥ 0.9", "0.5 to 0.9", "0.2 to 0.5", "0.05 to 0.2", "0.01 to 0.05", "p < 0.01"];
const MANY = 20000;

const ADVANTAGE_BOUNDS = [-2, -1, -1e-9, 1e-9, 1, 2];
const ADVANTAGE_NAMES = ["−2 or less", "−2 to −1", "−1 to 0", "0", "0 to 1", "1 to 2", "above 2"];
const RATIO_BOUNDS = [0.5, 0.8, 0.98, 1.02, 1.25, 2];
const RATIO_NAMES = ["below 0.5", "0.5 to 0.8", "0.8 to 0.98", "about 1", "1.02 to 1.25", "1.25 to 2", "above 2"];
const ENTROPY_BOUNDS = [0.05, 0.2, 0.5, 1, 2];
const ENTROPY_NAMES = ["below 0.05 nats", "0.05 to 0.2", "0.2 to 0.5", "0.5 to 1", "1 to 2", "above 2"];
// Values that the learner computed for a token: name, the upper bound of each color but the last, and the legend.
const COMPUTED = {
  advantage: { name: "advantage", bounds: ADVANTAGE_BOUNDS, names: ADVANTAGE_NAMES, colors: "tone" },
  "prox/behav": { name: "π_prox/π_behav", bounds: RATIO_BOUNDS, names: RATIO_NAMES, colors: "tone" },
  "theta/prox": { name: "π_θ/π_prox", bounds: RATIO_BOUNDS, names: RATIO_NAMES, colors: "tone" },
  "theta/behav": { name: "π_θ/π_behav", bounds: RATIO_BOUNDS, names: RATIO_NAMES, colors: "tone" },
  entropy: { name: "entropy", bounds: ENTROPY_BOUNDS, names: ENTROPY_NAMES, colors: "scale" },
};

// Kinds of colors: the class of a token, and the legend, as [class, text].
function kinds(conversation, row) {
  const versions = conversation.versions ?? [];
  const seen = [...new Set(versions.filter((version) => version >= 0))].sort((a, b) => a - b);
  const turnOf = (i) => conversation.turns.filter((begin) => begin <= i).length - 1;
  const found = {
    version: {
      name: "version",
      of: (i) => `kind-${seen.indexOf(conversation.versions[i]) % 8}`,
      legend: seen.map((version, i) => [`kind-${i % 8}`,
        `v${version}${row.step - 1 > version ? `, ${row.step - 1 - version} older than the learner` : ""}`]),
    },
    logprob: {
      name: "log-probability",
      of: (i) => {
        const chance = Math.exp(conversation.logprobs[i]);
        const at = CHANCES.findIndex((least) => chance >= least);
        return `scale-${at < 0 ? CHANCES.length : at}`;
      },
      legend: CHANCE_NAMES.map((text, i) => [`scale-${i}`, text]),
    },
  };
  if (conversation.turns.length > 1) {
    found.turn = {
      name: "turn",
      of: (i) => `kind-${turnOf(i) % 8}`,
      legend: conversation.turns.map((_, i) => [`kind-${i % 8}`, `turn ${i + 1}`]),
    };
  }
  if (!versions.length) delete found.version; // of an evaluation
  for (const [key, { name, bounds, names, colors }] of Object.entries(COMPUTED)) {
    const values = conversation.values?.[key];
    if (!values) continue;
    found[key] = {
      name,
      of: (i) => {
        const at = bounds.findIndex((most) => values[i] <= most);
        return `${colors}-${at < 0 ? bounds.length : at}`;
      },
      legend: names.map((text, i) => [`${colors}-${i}`, text]),
    };
  }
  return found;
}

// Explains why a conversation has no values from the learner, with links to rollouts that have them.
function withoutValues(conversation, row, run) {
  if (!row.valued || Object.keys(conversation.values).length) return null; // an evaluation has no learner
  if (!row.valued.length) return el("p", { class: "hint" }, `Update ${row.step} has no recorded advantages, ratios or entropies.`);
  const links = row.valued.map(([group, number]) => {
    const to = rolloutLink(run, { step: row.step, group, number }, { view: "tokens", color: "advantage" });
    return [" ", el("a", { href: to }, `${group}/${number}`)];
  });
  return el("p", { class: "hint" }, `Advantages, ratios and entropies are recorded for ${row.valued.length} rollouts of update`,
    ` ${row.step}, but not for this one. They are:`, links.flat());
}

export function showTokens(conversation, row, run, chosen, onchoose) {
  const all = kinds(conversation, row);
  let kind = Object.hasOwn(all, chosen) ? chosen : Object.keys(all)[0];
  let at = -1;
  const count = conversation.texts.length;
  const spans = [];
  const legend = el("div", { class: "legend" });
  const values = el("div", { class: "values", role: "status" }, "Point at a token, or use the arrow keys.");
  const box = el("div", {
    class: "tokens", tabindex: 0, role: "group", "aria-label": "Tokens; arrow keys read their values",
    onmouseover: (event) => read(Number(event.target.dataset?.at ?? -1)),
    onclick: (event) => read(Number(event.target.dataset?.at ?? -1)),
    onkeydown: (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      read(Math.min(spans.length - 1, Math.max(0, at + move)));
      spans[at]?.scrollIntoView({ block: "nearest" });
    },
  });

  // The position of a token, among the sampled ones and among all.
  function place(i) {
    const all = `${i + 1} of ${count}`;
    if (!conversation.sampled[i]) return `token ${all}`;
    const mine = conversation.sampled.slice(0, i + 1).filter((each) => each).length;
    return `sampled token ${mine} of ${conversation.sampled.filter((each) => each).length} (${all} with the prompt)`;
  }

  function changes(i) {
    return conversation.versions && conversation.sampled[i] && i > 0 && conversation.sampled[i - 1] &&
      conversation.versions[i] !== conversation.versions[i - 1];
  }

  function add(begin, end) {
    const fragment = document.createDocumentFragment();
    for (let i = begin; i < end; i++) {
      const text = conversation.texts[i];
      if (changes(i)) fragment.append(el("b", { class: "version", id: `change-${i}` }, `v${conversation.versions[i]}`));
      const span = el("span", { "data-at": i }, text === "" ? "·" : text.replaceAll("\n", "↵\n"));
      spans.push(span);
      fragment.append(span);
    }
    box.append(fragment);
    if (end < count) {
      const more = el("button", { type: "button", onclick: () => (more.remove(), add(end, count)) },
        `${format(count - end)} more tokens`);
      box.append(more);
    }
    paint();
  }

  function paint() {
    spans.forEach((span, i) => {
      span.className = conversation.sampled[i] ? `token ${all[kind].of(i)}` : "token given";
    });
    spans[at]?.classList.add("at");
    legend.replaceChildren(...all[kind].legend.map(([name, text]) =>
      el("span", {}, el("i", { class: `swatch token ${name}` }), text)),
      el("span", {}, el("i", { class: "swatch token given" }), "not sampled"));
  }

  function read(i) {
    if (!(i >= 0)) return;
    spans[at]?.classList.remove("at");
    at = i;
    spans[at].classList.add("at");
    const facts = [place(i), JSON.stringify(conversation.texts[i]), `id ${conversation.ids[i]}`];
    if (conversation.sampled[i]) {
      const logprob = conversation.logprobs[i];
      if (conversation.versions) {
        const older = row.step - 1 - conversation.versions[i];
        facts.push(`version ${conversation.versions[i]}${changes(i) ? `, after ${conversation.versions[i - 1]}` : ""}${older ? ` (${older} older than the learner)` : ""}`);
      }
      facts.push(`log-probability ${format(logprob)} (p ${format(Math.exp(logprob), 3)})`);
      for (const [key, { name }] of Object.entries(COMPUTED))
        if (conversation.values?.[key]) facts.push(`${name} ${format(conversation.values[key][i])}`);
    } else facts.push("not sampled");
    values.textContent = facts.join(" · ");
  }

  const buttons = el("div", { class: "controls" }, "Color by",
    Object.entries(all).map(([key, { name }]) =>
      el("button", {
        type: "button", "aria-pressed": String(key === kind), "data-color": key,
        onclick: (event) => {
          kind = key;
          for (const each of buttons.querySelectorAll("[data-color]"))
            each.setAttribute("aria-pressed", String(each === event.currentTarget));
          paint();
          onchoose(kind);
        },
      }, name)));
  const places = [...conversation.texts.keys()].filter(changes);
  if (places.length) {
    let next = 0;
    buttons.append(el("button", {
      type: "button",
      onclick: () => {
        const place = places[next++ % places.length];
        if (place >= spans.length) return;
        read(place);
        spans[place].scrollIntoView({ block: "center" });
      },
    }, `Next change of weights (${places.length})`));
  }
  add(0, Math.min(MANY, count));
  return el("div", { class: "tokenview" }, buttons, legend, withoutValues(conversation, row, run), box, values);
}
