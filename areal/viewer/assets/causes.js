// Why a run is as fast as it is: who holds it up, and where and why tokens/s fell.

import { duration, format } from "./dom.js";

const percent = (share) => `${Math.round(100 * share)}%`;

// Who holds a run up in the updates from one place to another, and by which shares of the time.
export function holdUp({ start, taken, end, generate, model, env, verifier, env_queue: queue }, first, last) {
  let [whole, waited, known, generated, ofModel, ofEnv] = [0, 0, 0, 0, 0, 0];
  for (let i = first; i <= last; i++) {
    const length = end[i] - start[i];
    whole += length;
    waited += taken[i] - start[i];
    if (generate[i] !== null) [known, generated] = [known + length, generated + generate[i] * length];
    if (model[i] !== null) [ofModel, ofEnv] = [ofModel + model[i], ofEnv + env[i] + verifier[i] + queue[i]];
  }
  if (!(whole > 0 && known > 0)) return null;
  const [wait, busy] = [waited / whole, generated / known];
  const shares = `the learner waits for batches in ${percent(wait)} of the time, engines have requests and no pause in ${percent(busy)}`;
  if (wait < 0.1) return `held up by the learner: ${shares}`;
  if (busy >= 0.8) return `held up by the engines: ${shares}`;
  if (ofEnv > ofModel) return `held up by environments: ${shares}, and rollouts are longer in them than in the model`;
  return `held up by the longest rollouts, pauses or a start: ${shares}`;
}

const BEFORE = 50; // updates whose median is what is usual
const FEWEST = 5; // of them
const FELL = 0.8; // of what is usual
const APART = 2; // updates at most between two parts of one fall
const WINDOW = 10; // seconds at least over which tokens/s are measured: areal/runtime/accounting.py
const SLOWER = [
  ["model", "rollouts of an update took SECONDS in the model"],
  ["env", "rollouts of an update took SECONDS in their environment"],
  ["verifier", "rollouts of an update took SECONDS in their verifier"],
  ["env_queue", "rollouts of an update waited SECONDS for one of rollout.env_workers"],
];

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[sorted.length >> 1] : null;
}

// Where tokens/s fell below four fifths of what was usual: [{places, last, lowest, rate, usual, why}], by places of
// updates.
export function falls(data) {
  const { tokens_per_s: rates } = data.updates;
  const found = [];
  let open = null;
  rates.forEach((rate, i) => {
    const usual = usualRate(rates, i);
    if (rate === null || usual === null || rate >= FELL * usual) return;
    if (!open || i > open.last + APART) found.push((open = { places: [], last: i, lowest: i, rate, usual }));
    open.places.push((open.last = i));
    if (rate / usual < open.rate / open.usual) Object.assign(open, { lowest: i, rate, usual });
  });
  return found.map((fall) => ({ ...fall, why: causes(data, fall.places[0], fall.last) }));
}

function usualRate(rates, i) {
  const before = rates.slice(Math.max(0, i - BEFORE), i).filter((rate) => rate !== null);
  return before.length < FEWEST ? null : median(before);
}

// What an update's tokens/s are beside what was usual, in words; null: unknown.
export function rateAt(data, i) {
  const { tokens_per_s: rates } = data.updates;
  if ((rates[i] ?? null) === null) return null;
  const usual = usualRate(rates, i);
  const said = `${format(Math.round(rates[i]))} generated tokens/s`;
  if (usual === null || rates[i] >= FELL * usual) return said;
  return `${said}, usually ${format(Math.round(usual))}: ${causes(data, i, i).join("; ")}`;
}

// What was other than usual in the time over which the tokens/s of updates are measured, from one place to another:
// what was lost, and then the rest, of which what was most unusual comes first.
function causes({ updates, lanes }, from, last) {
  const { start, taken, end } = updates;
  const [since, until] = [Math.min(start[from], end[from] - WINDOW), end[last]];
  let first = from;
  while (first > 0 && end[first - 1] > since) first--;
  const [usual, now] = [[Math.max(0, first - BEFORE), first - 1], [first, last]];
  const mean = (values, [low, high]) => {
    const known = values.slice(low, high + 1).filter((value) => value !== null);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  };
  const most = (values, [low, high]) => values.slice(low, high + 1).reduce((best, value) => Math.max(best, value ?? 0), 0);
  const usually = (values) => median(values.slice(usual[0], usual[1] + 1).filter((value) => value !== null));
  const found = [];
  for (const { name, spans } of lanes) {
    const lost = within(spans, "lost", since, until);
    if (lost > 0) found.push([Infinity, `${name} was lost for ${duration(lost)}`]);
  }
  const engines = lanes.slice(1);
  const pause = ([low, high]) => {
    const seconds = engines.reduce((sum, { spans }) => sum + within(spans, "load", low, high), 0);
    return seconds / engines.length / (high - low);
  };
  if (engines.length && first > 0) {
    const [share, before] = [pause([since, until]), pause([start[usual[0]], end[usual[1]]])];
    if (share > before + 0.1) {
      found.push([share / before, `engines were paused for new weights in ${percent(share)} of the time, usually ${percent(before)}`]);
    }
  }
  for (const [part, words] of SLOWER) {
    const [seconds, before] = [most(updates[part], now), usually(updates[part])];
    if (before === null || seconds < 1.5 * before || seconds < before + 0.05) continue;
    found.push([seconds / before, `${words.replace("SECONDS", duration(seconds))}, usually ${duration(before)}`]);
  }
  const lengths = updates.length;
  const [tokens, before] = [mean(lengths, now), usually(lengths)];
  if (tokens !== null && before !== null && (tokens > 1.3 * before || tokens < before / 1.3)) {
    found.push([Math.max(tokens / before, before / tokens),
      `responses had ${format(Math.round(tokens))} tokens, usually ${format(Math.round(before))}`]);
  }
  const works = end.map((each, k) => each - taken[k]);
  const [work, usualWork] = [most(works, now), usually(works)];
  if (usualWork !== null && work > 1.5 * usualWork && work > usualWork + 0.05) {
    found.push([work / usualWork, `the learner took ${duration(work)} for an update, usually ${duration(usualWork)}`]);
  }
  if (!found.length) {
    const [share, ofTime] = [mean(updates.generate, now), usually(updates.generate)];
    if (share !== null && ofTime !== null && share < ofTime - 0.1) {
      found.push([1, `engines had requests and no pause in ${percent(share)} of the time, usually ${percent(ofTime)}`]);
    }
  }
  const said = found.sort(([a], [b]) => (a === b ? 0 : b - a)).map(([, words]) => words);
  const [model, usualModel] = [most(updates.model, now), usually(updates.model)];
  const slower = usualModel !== null && model > 1.5 * usualModel && work > 1.5 * usualWork;
  if (slower && !(tokens > 1.1 * before)) {
    said.push("model and learner took longer for as many tokens: other programs may have used the machine");
  }
  return said.length ? said : ["of what is recorded, nothing else was unusual"];
}

// Seconds of spans of a kind from one time to another.
function within(spans, kind, from, to) {
  return spans.reduce((sum, [begin, end, each]) =>
    sum + (each === kind ? Math.max(0, Math.min(end, to) - Math.max(begin, from)) : 0), 0);
}
