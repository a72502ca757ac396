// Describes what limits a run, and why its tokens/s fell.

import { format } from "./dom.js";

const percent = (share) => `${Math.round(100 * share)}%`;

// Describes what limits a run in the updates from one index to another, and the shares of the time.
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
  if (wait < 0.1) return `limited by the learner: ${shares}`;
  if (busy >= 0.8) return `limited by the engines: ${shares}`;
  if (ofEnv > ofModel) return `limited by environments: ${shares}, and rollouts spend more time in them than in the model`;
  return `limited by the longest rollouts, by pauses or by the start: ${shares}`;
}

// Describes the tokens/s of an update and, if they fell far below the usual rate, that rate and the causes; null: unknown.
export function rateAt({ updates: { tokens_per_s: rates }, falls }, i) {
  if (rates[i] === null) return null;
  const said = `${format(Math.round(rates[i]))} generated tokens/s`;
  const fall = falls.find(({ places }) => places.includes(i));
  return fall ? `${said}, usually ${format(Math.round(fall.usual))}: ${fall.why.join("; ")}` : said;
}
