// Who holds a run up, and why its tokens/s fell, in words.

import { format } from "./dom.js";

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
  const shares = `the learner waits ${percent(wait)} of the time, engines are busy ${percent(busy)}`;
  if (wait < 0.1) return `held up by the learner: ${shares}`;
  if (busy >= 0.8) return `held up by the engines: ${shares}`;
  if (ofEnv > ofModel) return `held up by environments: ${shares}, and rollouts are longer in them than in the model`;
  return `held up by the longest rollouts, pauses or a start: ${shares}`;
}

// What an update's tokens/s are, beside what was usual if they fell far below it, and why; null: unknown.
export function rateAt({ updates: { tokens_per_s: rates }, falls }, i) {
  if (rates[i] === null) return null;
  const said = `${format(Math.round(rates[i]))} generated tokens/s`;
  const fall = falls.find(({ places }) => places.includes(i));
  return fall ? `${said}, usually ${format(Math.round(fall.usual))}: ${fall.why.join("; ")}` : said;
}
