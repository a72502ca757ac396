// Shows the pages in light or dark colors, and fetches updates every two seconds.

import { comparison } from "./comparison.js";
import { el } from "./dom.js";
import { list } from "./list.js";
import { overview } from "./overview.js";
import { group, rollout } from "./rollout.js";
import { sharedBenchmarks } from "./scores.js";
import { goesOn, report, Run, source } from "./source.js";
import { timeline } from "./timeline.js";

const PAGES = { "": overview, rollouts: list, rollout, group, timeline, comparison };
const PERIOD = 2000;
const MISSES = 4; // consecutive failed requests after which the server counts as stopped
const store = { runs: [], evaluations: [], sessions: [] };
const root = document.documentElement;
const statusLine = document.getElementById("status");
let page = null;
let missed = 0;

async function showPage() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  page?.close?.();
  const main = document.getElementById("main");
  const fresh = el("main", { id: "main", tabindex: -1, "aria-busy": "true" });
  main.replaceWith(fresh);
  for (const each of document.querySelectorAll("[data-page]")) {
    const here = each.dataset.page === path || (each.dataset.page === "rollouts" && ["group", "rollout"].includes(path));
    if (here) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
  const make = Object.hasOwn(PAGES, path) ? PAGES[path] : null;
  try {
    if (!make) throw new Error(`the page ${path} does not exist`);
    page = make(fresh, store, new URLSearchParams(query));
    await page.ready;
  } catch (error) {
    fresh.append(el("p", { class: "failure", role: "alert" }, error.message));
  }
  fresh.removeAttribute("aria-busy");
}

async function refresh() {
  const { runs, evaluations, sessions } = await source.states();
  const before = lasting([store.runs, store.evaluations, store.sessions].map((all) => all.map(({ state }) => state)));
  if (!store.runs.length) store.runs = runs.map((state, i) => new Run(state, i));
  if (!store.evaluations.length)
    store.evaluations = evaluations.map(({ name }, i) => ({ name, index: runs.length + i, evaluation: true }));
  if (!store.sessions.length)
    store.sessions = sessions.map(({ name }, i) => ({ name, index: runs.length + evaluations.length + i, sessions: true }));
  runs.forEach((state, i) => (store.runs[i].state = state));
  evaluations.forEach((state, i) => (store.evaluations[i].state = state));
  sessions.forEach((state, i) => (store.sessions[i].state = state));
  const states = before !== lasting([runs, evaluations, sessions]);
  showNavigation();
  const read = await Promise.all(store.runs.map((run) => run.read()));
  return { states, metrics: read.includes(true) };
}

// Serializes states without the current activity of the runs, which always changes and needs no redraw.
function lasting(states) {
  return JSON.stringify(states, (key, value) => (key === "now" ? undefined : value));
}

function showNavigation() {
  document.querySelector("[data-page=rollouts]").textContent = store.runs.length ? "Rollouts" : store.evaluations.length ? "Responses" : "Sessions";
  document.querySelector("[data-page=timeline]").hidden = !store.runs.length;
  document.querySelector("[data-page=comparison]").hidden = !sharedBenchmarks(store).length;
}

function sayHow() {
  const alive = store.runs.filter(goesOn).length;
  const every = Math.max(0, ...store.runs.map((run) => run.every));
  const whole = every ? `; showing one in ${every} updates while the others load` : "";
  statusLine.textContent = report ? `report of ${report.when}` : (alive ? `live, ${alive} running` : "connected") + whole;
}

async function poll() {
  if (!document.hidden) {
    try {
      const changed = await refresh();
      missed = 0;
      sayHow();
      page?.update?.(changed);
    } catch (error) {
      // The server has stopped, or a run was removed. The page stays, and the status line reports it.
      missed = error instanceof TypeError ? missed + 1 : 0;
      statusLine.textContent = !missed ? error.message : missed < MISSES ? "disconnected; trying again"
        : "the server has stopped; start `areal view` again, and open its new address";
    }
  }
  setTimeout(poll, PERIOD);
}

const system = matchMedia("(prefers-color-scheme: dark)");
function showTheme() {
  const theme = localStorage.getItem("areal-theme") ?? (system.matches ? "dark" : "light");
  root.dataset.theme = theme;
  document.getElementById("theme").textContent = theme === "dark" ? "Light" : "Dark";
  page?.theme?.();
}
system.addEventListener("change", showTheme);
document.getElementById("theme").addEventListener("click", () => {
  localStorage.setItem("areal-theme", root.dataset.theme === "dark" ? "light" : "dark");
  showTheme();
});

showTheme();
addEventListener("hashchange", showPage);
try {
  await refresh();
  sayHow();
} catch (error) {
  statusLine.textContent = error.message;
}
await showPage();
if (!report) setTimeout(poll, store.runs.some((run) => run.every) ? 200 : PERIOD);
