// Creates elements from names and texts. A text always becomes a text node: nothing that a model wrote becomes HTML.

export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export function link(page, params) {
  return `#/${page}?${new URLSearchParams(params)}`;
}

export function format(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  if (size < 1e-3) return value.toExponential(2);
  return String(Number(value.toPrecision(digits)));
}

export function duration(seconds) {
  if (seconds >= 120) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return seconds >= 1 ? `${format(seconds, 3)} s` : `${format(Math.round(seconds * 1000))} ms`;
}

const ENDINGS = {
  eos: "ended on its own",
  stop: "stop string",
  length: "truncated",
  abort: "aborted",
  unfinished: "the agent stopped",
  failed: "failed",
  too_long: "no room for a response",
};

export function ending(finish) {
  return Object.hasOwn(ENDINGS, finish) ? ENDINGS[finish] : finish;
}

export function weights(row) {
  if (row.oldest === undefined) return ""; // a row of an evaluation or a session
  return row.oldest === row.newest ? `v${row.oldest}` : `v${row.oldest} to v${row.newest}`;
}

export function rolloutLink(run, row, more = {}) {
  return link("rollout", { run, step: row.step, group: row.group, number: row.number, ...more });
}

export function groupLink(run, row) {
  return link("group", { run, step: row.step, group: row.group });
}
