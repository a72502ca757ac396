// A conversation from its tokens: who wrote what, and which weights sampled it.

import { el } from "./dom.js";
import { withMathematics } from "./mathematics.js";

const NAMED = /^<\|(system|user|assistant|tool)\|>$/; // templates with a token for each role
const OPENS = new Set(["<|im_start|>", "<|start_header_id|>"]); // and those that write its name between tokens
const NAME_ENDS = "<|end_header_id|>";
const CLOSES = new Set(["<|im_end|>", "<|eot_id|>", "<|end|>"]);
const LONG = 600;

// Stretches of one side: {sampled, begin, end}.
export function stretches({ sampled }) {
  const found = [];
  for (let i = 0; i < sampled.length; i++) {
    const last = found[found.length - 1];
    if (last && last.sampled === sampled[i]) last.end = i + 1;
    else found.push({ sampled: sampled[i], begin: i, end: i + 1 });
  }
  return found;
}

// Parts of a stretch that the same weights sampled: {version, begin, end}.
export function parts({ versions }, { begin, end }) {
  const found = [];
  for (let i = begin; i < end; i++) {
    const last = found[found.length - 1];
    if (last && last.version === versions[i]) last.end = i + 1;
    else found.push({ version: versions[i], begin: i, end: i + 1 });
  }
  return found;
}

// The messages of a stretch that the model was given, by the tokens of the chat template: {role, text}.
export function messages({ texts }, { begin, end }) {
  const found = [{ role: "", text: "" }];
  let name = null;
  for (const text of texts.slice(begin, end)) {
    const named = NAMED.exec(text);
    if (named) found.push({ role: named[1], text: "" });
    else if (OPENS.has(text)) name = "";
    else if (name !== null && (text === NAME_ENDS || text.includes("\n"))) {
      const [rest, ...after] = text === NAME_ENDS ? ["", ""] : text.split("\n");
      found.push({ role: name + rest, text: after.join("\n") });
      name = null;
    } else if (name !== null) name += text;
    else if (CLOSES.has(text)) found.push({ role: "", text: "" });
    else found[found.length - 1].text += text;
  }
  return found.map(({ role, text }) => ({ role, text: text.trim() })).filter(({ text }) => text);
}

// What somebody wrote, with its formulas typeset or as it is written.
export function written(text, typeset) {
  return el("div", { class: "text", dir: "auto" }, typeset ? withMathematics(text) : text);
}

function given(message, first, typeset) {
  const role = message.role || (first ? "prompt" : "environment");
  const text = written(message.text, typeset);
  const lines = message.text.split("\n").length;
  const folds = !first && (message.role === "tool" || message.text.length > LONG);
  if (!folds) return el("section", { class: "message given" }, el("h3", {}, role), text);
  return el("details", { class: "message given" },
    el("summary", {}, `${role}: ${lines.toLocaleString("en")} line${lines > 1 ? "s" : ""}`), text);
}

export function showConversation(conversation, { prompt = true, typeset = true } = {}) {
  let turn = 0;
  const shown = stretches(conversation).flatMap((stretch, number) => {
    if (!stretch.sampled) {
      if (number === 0 && !prompt) return [];
      return messages(conversation, stretch).map((message) => given(message, number === 0, typeset));
    }
    const reward = conversation.rewards[turn++];
    const several = conversation.turns.length > 1;
    const title = several ? `response ${turn}${reward ? `, reward ${reward}` : ""}` : "response";
    const text = el("div", { class: "text", dir: "auto" }, parts(conversation, stretch).flatMap((part) => {
      const said = conversation.texts.slice(part.begin, part.end).join("");
      const title = `sampled by the weights of version ${part.version}`;
      return [el("span", { class: "version", title }, `v${part.version}`), ...(typeset ? withMathematics(said) : [said])];
    }));
    return [el("section", { class: "message said" }, el("h3", {}, title), text)];
  });
  return el("div", { class: "conversation" }, shown);
}
