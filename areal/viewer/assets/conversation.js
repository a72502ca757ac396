// A conversation from its tokens: who wrote what, and which weights sampled it.

import { el } from "./dom.js";
import { withMathematics } from "./mathematics.js";

const NAMED = /^<\|(system|user|assistant|tool)\|>$/; // templates with a token for each role
const OPENS = new Set(["<|im_start|>", "<|start_header_id|>"]); // and those that write its name between tokens
const NAME_ENDS = "<|end_header_id|>";
const CLOSES = new Set(["<|im_end|>", "<|eot_id|>", "<|end|>"]);
const LONG = 600;

// Consecutive tokens that were all sampled, or all given: {sampled, begin, end}.
export function stretches({ sampled }) {
  const found = [];
  for (let i = 0; i < sampled.length; i++) {
    const last = found[found.length - 1];
    if (last && last.sampled === sampled[i]) last.end = i + 1;
    else found.push({ sampled: sampled[i], begin: i, end: i + 1 });
  }
  return found;
}

// The stretches, grouped by speaker: a response is one speech, including text that was inserted to end its thought.
function speeches(conversation) {
  const found = [];
  for (const stretch of stretches(conversation)) {
    const goesOn = stretch.sampled && conversation.turns.length && !conversation.turns.includes(stretch.begin);
    if (goesOn) found[found.length - 2].push(...found.pop(), stretch);
    else found.push([stretch]);
  }
  return found;
}

// Parts of a stretch that the same weights sampled: {version, begin, end}.
export function parts({ versions }, { begin, end }) {
  if (!versions) return [{ version: null, begin, end }]; // of an evaluation
  const found = [];
  for (let i = begin; i < end; i++) {
    const last = found[found.length - 1];
    if (last && last.version === versions[i]) last.end = i + 1;
    else found.push({ version: versions[i], begin: i, end: i + 1 });
  }
  return found;
}

// The messages of a stretch that the model was given, split at the tokens of the chat template: {role, text}.
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

// A text, with its formulas typeset or unchanged.
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

// The start of a conversation, before the model's first response; empty if it is not known.
export function promptText(conversation) {
  if (!conversation) return "";
  const [first] = conversation.messages ? [] : stretches(conversation);
  const begun = conversation.messages?.slice(0, conversation.given) ?? (first && !first.sampled ? messages(conversation, first) : []);
  return begun.map(({ text }) => text).join("\n\n");
}

function said(title, children) {
  return el("section", { class: "message said" }, el("h3", {}, title), el("div", { class: "text", dir: "auto" }, children));
}

// A conversation of which only the messages are known, such as that of a model behind an endpoint.
function showMessages({ messages: all, given: before }, prompt, typeset) {
  return all.flatMap((message, i) => {
    if (i < before) return prompt ? [given(message, true, typeset)] : [];
    if (message.role !== "assistant") return [given(message, false, typeset)];
    return [said("response", typeset ? withMathematics(message.text) : [message.text])];
  });
}

// The actions of an agent whose conversation is not known.
export function showActions(actions, typeset) {
  return el("div", { class: "conversation" }, actions.map((text, i) =>
    said(actions.length > 1 ? `action ${i + 1}` : "response", typeset ? withMathematics(text) : [text])));
}

export function showConversation(conversation, { prompt = true, typeset = true } = {}) {
  if (conversation.messages) return el("div", { class: "conversation" }, showMessages(conversation, prompt, typeset));
  let turn = 0;
  const shown = speeches(conversation).flatMap((speech, number) => {
    if (!speech[0].sampled) {
      if (number === 0 && !prompt) return [];
      return messages(conversation, speech[0]).map((message) => given(message, number === 0, typeset));
    }
    const reward = conversation.rewards[turn++];
    const several = conversation.turns.length > 1;
    const earned = reward ? `, reward ${reward}` : "";
    const { player, calls } = conversation; // of several players the moves of the game are counted together
    const move = player && calls?.length ? `${player}, move ${calls[turn - 1] + 1}${earned}` : "";
    const title = move || (several ? `response ${turn}${earned}` : "response");
    return [said(title, speech.flatMap((stretch) => parts(conversation, stretch)).flatMap((part) => {
      const text = conversation.texts.slice(part.begin, part.end).join("");
      if (!conversation.sampled[part.begin]) return [el("span", { class: "token given", title: "inserted, not sampled" }, text)];
      const title = `sampled by weight version ${part.version}`;
      const mark = part.version === null ? [] : [el("span", { class: "version", title }, `v${part.version}`)];
      return [...mark, ...(typeset ? withMathematics(text) : [text])];
    }))];
  });
  return el("div", { class: "conversation" }, shown);
}
