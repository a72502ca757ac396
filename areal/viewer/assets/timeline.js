// The timeline: lanes of the learner and the engines over time, with staleness and latencies below.

import { holdUp, rateAt } from "./causes.js";
import { color } from "./charts.js";
import { duration, el, format, link } from "./dom.js";
import { namedRun, report, source, usualRun } from "./source.js";

// The text of each kind of span, and the variable with its color.
const SPANS = {
  train: ["trains", "--run-0"],
  wait: ["waits for a batch", "--line"],
  publish: ["publishes weights", "--run-2"],
  load: ["waits until engines have loaded", "--run-1"],
  lost: ["lost until it is back", "--run-7"],
};
const ENGINE_SPANS = {
  up: ["up", "--kind-2"],
  load: ["paused for new weights", "--run-1"],
  lost: ["lost until its replacement has loaded", "--run-7"],
};
const GENERATES = ["generates (height: share of the step, averaged over engines)", "--run-2"];
const RATES = [["generated", "--run-2"], ["less than four fifths of the usual rate", "--run-7"]];
const LATENCIES = [
  ["model", "model", "--run-0"],
  ["env", "environment", "--run-1"],
  ["verifier", "verifier", "--run-3"],
  ["env_queue", "queue for the environment", "--run-4"],
  ["other", "other", "--run-5"],
  ["buffer", "in the buffer until a batch takes it", "--line"],
];
const PERIODS = [["60", "last minute"], ["300", "last 5 minutes"], ["900", "last 15 minutes"], ["3600", "last hour"],
  ["", "whole run"]];
const CHOSEN = "chosen";
const STEPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400,
  21600, 43200, 86400];
const MOST_FALLS = 12;
const LANE = 22;
const GAP = 6;
const PLOT = 96;
const TITLE = 20;
const AXIS = 22;

// The first index of a sorted column with at least this value.
function firstAt(column, value) {
  let [low, high] = [0, column.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (column[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

function clock(seconds, digits) {
  const time = new Date(seconds * 1000);
  const two = (x) => String(x).padStart(2, "0");
  const whole = `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
  return digits ? `${whole}.${String(time.getMilliseconds()).padStart(3, "0").slice(0, digits)}` : whole;
}

// The positions of lanes and plots from the top, given the number of lanes.
function layout(lanes) {
  const rate = lanes * (LANE + GAP) + AXIS + TITLE;
  const staleness = rate + PLOT + TITLE + 8;
  const latency = staleness + PLOT + TITLE + 8;
  return { axis: lanes * (LANE + GAP), rate, staleness, latency, height: latency + PLOT + 6 };
}

class TimelineChart {
  // control: {open(step), zoom(range)}; zoom receives the range that is now shown
  constructor(control) {
    this.control = control;
    this.data = null;
    this.range = null;
    this.at = null; // the time under the pointer, or the one selected with the keys
    this.canvas = el("canvas");
    this.line = el("i", { class: "cursor", hidden: true });
    this.band = el("i", { class: "band", hidden: true });
    this.readout = el("div", { class: "readout", role: "status" });
    this.box = el("div", {
      class: "lanes",
      tabindex: 0,
      role: "img",
      "aria-label": "Lanes of the learner and the engines over time; arrow keys go from update to update, Enter " +
        "opens the rollouts of an update, plus and minus zoom, Escape shows everything",
      onkeydown: (event) => this.key(event),
      onpointerdown: (event) => this.press(event),
      onpointermove: (event) => this.move(event),
      onpointerup: (event) => this.release(event),
      onpointercancel: () => this.drop(),
      onpointerleave: () => this.leave(),
      ondblclick: () => this.zoom(null),
    }, this.canvas, this.line, this.band);
    this.element = el("div", {}, this.readout, this.box);
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.box);
  }

  close() {
    this.sizes.disconnect();
  }

  show(data) {
    this.data = data;
    this.draw();
    this.read();
  }

  get shown() {
    const { start, end } = this.data;
    const [low, high] = this.range ?? [start, end];
    return high > low ? [low, high] : [low - 0.5, low + 0.5];
  }

  zoom(range) {
    if (range) {
      const { start, end } = this.data;
      range = [Math.max(start, range[0]), Math.min(end, range[1])];
      if (range[1] - range[0] < 0.005) return;
      if (range[0] === start && range[1] === end) range = null;
    }
    this.range = range;
    this.draw();
    this.read();
    this.control.zoom(range);
  }

  // A color of the page, which is looked up once for each drawing.
  paint(name) {
    return this.colors.get(name) ?? this.colors.set(name, color(name)).get(name);
  }

  get gutter() {
    return this.box.clientWidth < 600 ? 66 : 100;
  }

  x(seconds) {
    const [low, high] = this.shown;
    return this.gutter + ((seconds - low) / (high - low)) * (this.box.clientWidth - this.gutter - 8);
  }

  seconds(x) {
    const [low, high] = this.shown;
    return low + ((x - this.gutter) / (this.box.clientWidth - this.gutter - 8)) * (high - low);
  }

  draw() {
    const width = this.box.clientWidth;
    if (!this.data || width <= 0) return;
    const { lanes } = this.data;
    const places = layout(lanes.length);
    this.colors = new Map();
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(places.height * ratio);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${places.height}px`;
    const pen = (this.pen = this.canvas.getContext("2d"));
    pen.scale(ratio, ratio);
    pen.clearRect(0, 0, width, places.height);
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    lanes.forEach((lane, i) => {
      const y = i * (LANE + GAP);
      this.name(lane.name, y + LANE / 2);
      this.inside(() => this.lane(lane, i, y));
    });
    this.axis(places, width);
    this.rate(places.rate);
    this.staleness(places.staleness, width);
    this.latency(places.latency, width);
    this.inside(() => this.marks(places));
    this.place();
  }

  // Draws something clipped to the area beside the names.
  inside(work) {
    const { pen } = this;
    pen.save();
    pen.beginPath();
    pen.rect(this.gutter, 0, this.box.clientWidth - this.gutter - 8, this.canvas.height);
    pen.clip();
    work();
    pen.restore();
  }

  name(text, y) {
    const { pen } = this;
    pen.fillStyle = this.paint("--text");
    pen.textAlign = "left";
    let shown = text;
    while (shown.length > 1 && pen.measureText(shown).width > this.gutter - 8) shown = `${shown.slice(0, -2)}…`;
    pen.fillText(shown, 0, y);
  }

  lane(lane, number, y) {
    const { pen } = this;
    const kinds = number === 0 ? SPANS : ENGINE_SPANS;
    const up = lane.spans.filter(([, , kind]) => kind === "up");
    if (number > 0) {
      this.spans(up, kinds, y, LANE);
      pen.save();
      pen.beginPath();
      for (const [begin, end] of up) pen.rect(this.x(begin), y, this.x(end) - this.x(begin), LANE);
      pen.clip();
      this.columns(this.data.updates.generate.map((share) => [share]), [GENERATES[1]], y + LANE, LANE);
      pen.restore();
    }
    this.spans(lane.spans.filter(([, , kind]) => kind !== "up"), kinds, y, LANE);
  }

  // Draws spans as rectangles. If spans are narrower than a pixel, each pixel shows the kind with the largest share.
  spans(spans, kinds, y, height) {
    const [low, high] = this.shown;
    const narrow = new Map();
    for (const [begin, end, kind] of spans) {
      if (end < low || begin > high || !Object.hasOwn(kinds, kind)) continue;
      const [left, right] = [this.x(begin), this.x(end)];
      if (right - left >= 1) {
        this.pen.fillStyle = this.paint(kinds[kind][1]);
        this.pen.fillRect(left, y, right - left, height);
        continue;
      }
      const pixel = Math.floor(left);
      const share = narrow.get(pixel) ?? narrow.set(pixel, {}).get(pixel);
      share[kind] = (share[kind] ?? 0) + Math.max(right - left, 0.01);
    }
    for (const [pixel, share] of narrow) {
      const most = Object.keys(share).reduce((best, kind) => (share[kind] > share[best] ? kind : best));
      this.pen.fillStyle = this.paint(kinds[most][1]);
      this.pen.fillRect(pixel, y, 1, height);
    }
  }

  // Draws stacked bars, one for each update, as wide as its step. Several in one pixel are averaged. Heights are 0 to 1.
  columns(heights, colors, bottom, height) {
    const { start, end } = this.data.updates;
    const [low, high] = this.shown;
    const narrow = new Map();
    const bar = (x, width, parts) => {
      let y = bottom;
      parts.forEach((part, i) => {
        const tall = part * height;
        this.pen.fillStyle = this.paint(colors[i]);
        this.pen.fillRect(x, y - tall, width, tall);
        y -= tall;
      });
    };
    for (let i = firstAt(end, low); i < start.length && start[i] <= high; i++) {
      if (heights[i].includes(null)) continue;
      const [left, right] = [this.x(start[i]), this.x(end[i])];
      if (right - left >= 1) bar(left, right - left, heights[i]);
      else {
        const pixel = Math.floor(left);
        const sum = narrow.get(pixel) ?? narrow.set(pixel, { count: 0, parts: colors.map(() => 0) }).get(pixel);
        sum.count++;
        heights[i].forEach((part, each) => (sum.parts[each] += part));
      }
    }
    for (const [pixel, { count, parts }] of narrow) bar(pixel, 1, parts.map((part) => part / count));
  }

  axis(places, width) {
    const { pen } = this;
    const [low, high] = this.shown;
    const room = Math.max(2, (width - this.gutter) / 90);
    const step = STEPS.find((each) => (high - low) / each <= room) ?? STEPS[STEPS.length - 1];
    const digits = step < 0.1 ? 2 : step < 1 ? 1 : 0;
    const { zero } = this.data;
    pen.textAlign = "center";
    for (let time = Math.ceil((zero + low) / step) * step; time <= zero + high; time += step) {
      const x = this.x(time - zero);
      pen.fillStyle = this.paint("--grid");
      pen.fillRect(Math.round(x), places.axis, 1, places.height - places.axis);
      pen.fillStyle = this.paint("--faint");
      if (x > this.gutter + 24 && x < width - 30) pen.fillText(clock(time + 1e-6, digits), x, places.axis + 8);
    }
  }

  title(text, top) {
    this.pen.fillStyle = this.paint("--text");
    this.pen.textAlign = "left";
    this.pen.fillText(text, this.gutter, top - TITLE / 2);
  }

  level(text, y) {
    const { pen } = this;
    pen.fillStyle = this.paint("--faint");
    pen.textAlign = "right";
    pen.fillText(text, this.gutter - 6, y);
    pen.fillStyle = this.paint("--grid");
    pen.fillRect(this.gutter, Math.round(y), this.box.clientWidth - this.gutter - 8, 1);
  }

  // Draws bars of the generated tokens/s of each update. Those far below the usual rate have the color of lost parts.
  rate(top) {
    const { tokens_per_s: rates } = this.data.updates;
    this.title("Generated tokens/s", top);
    const most = rates.reduce((best, rate) => Math.max(best, rate ?? 0), 0);
    if (!most) return this.unrecorded(top);
    const height = PLOT - 12;
    for (const share of [0, 0.5, 1]) this.level(format(Math.round(most * share)), top + PLOT - 4 - share * height);
    const fell = new Set(this.data.falls.flatMap(({ places }) => places));
    const shares = rates.map((rate, i) =>
      rate === null ? [null, null] : fell.has(i) ? [0, rate / most] : [rate / most, 0]);
    this.inside(() => this.columns(shares, RATES.map(([, name]) => name), top + PLOT - 4, height));
  }

  unrecorded(top) {
    this.pen.fillStyle = this.paint("--faint");
    this.pen.fillText("not recorded", this.gutter, top + PLOT / 2);
  }

  // Draws a dot for each group when it was consumed; equally stale groups of an update are side by side.
  staleness(top, width) {
    const { pen } = this;
    const { groups, bound } = this.data;
    const [low, high] = this.shown;
    this.title(`Staleness of each group${bound === null ? ", without a bound" : ", and its bound η"}`, top);
    const most = groups.reduce((best, [, , , stale]) => Math.max(best, stale), Math.max(1, bound ?? 1));
    const y = (stale) => top + PLOT - 8 - (stale / most) * (PLOT - 18);
    const step = Math.ceil(most / 4);
    for (let stale = 0; stale <= most; stale += step) this.level(String(stale), y(stale));
    if (bound !== null) {
      pen.fillStyle = this.paint("--run-7");
      for (let x = this.gutter; x < width - 8; x += 9) pen.fillRect(x, Math.round(y(bound)), 6, 1.5);
      pen.textAlign = "right";
      pen.fillText(`η=${bound}`, width - 10, y(bound) + (bound ? 9 : -9));
    }
    const { step: steps, start, end } = this.data.updates;
    const beside = new Map();
    for (const [, number, , stale] of groups) {
      const key = `${number} ${stale}`;
      beside.set(key, (beside.get(key) ?? 0) + 1);
    }
    const drawn = new Set();
    const done = new Map();
    this.inside(() => {
      pen.fillStyle = this.paint("--run-0");
      for (const [time, number, , stale] of groups) {
        if (time < low || time > high) continue;
        const key = `${number} ${stale}`;
        const before = done.get(key) ?? 0;
        done.set(key, before + 1);
        const i = firstAt(steps, number);
        const room = steps[i] === number ? (this.x(end[i]) - this.x(start[i])) * 0.8 : 0;
        const x = this.x(time) + before * Math.min(6, room / beside.get(key));
        const place = `${Math.round(x)} ${stale}`;
        if (drawn.has(place)) continue;
        drawn.add(place);
        pen.beginPath();
        pen.arc(x, y(stale), 2.5, 0, 7);
        pen.fill();
      }
    });
  }

  latency(top, width) {
    const { updates } = this.data;
    const where = width < 600 ? "" : ": average seconds by activity";
    this.title(`Latency of the rollouts of each batch${where}`, top);
    const rows = updates.step.map((_, i) => LATENCIES.map(([part]) => updates[part][i]));
    const most = rows.reduce((best, parts) => Math.max(best, parts.reduce((sum, part) => sum + part, 0)), 0);
    if (!most) return this.unrecorded(top);
    const height = PLOT - 12;
    for (const share of [0, 0.5, 1]) this.level(`${format(most * share, 2)} s`, top + PLOT - 4 - share * height);
    const shares = rows.map((parts) => parts.map((part) => (part === null ? null : part / most)));
    this.inside(() => this.columns(shares, LATENCIES.map(([, , name]) => name), top + PLOT - 4, height));
  }

  marks({ axis }) {
    const { pen } = this;
    pen.fillStyle = this.paint("--text");
    for (const { time } of this.data.marks) {
      const x = Math.round(this.x(time));
      for (let y = 0; y < axis; y += 5) pen.fillRect(x, y, 1, 3);
      pen.beginPath();
      pen.moveTo(x - 4, axis + 1);
      pen.lineTo(x + 5, axis + 1);
      pen.lineTo(x + 0.5, axis - 6);
      pen.fill();
    }
  }

  // Places the line under the pointer, or at the time selected with the keys.
  place() {
    const [low, high] = this.shown;
    this.line.hidden = this.at === null || this.at < low || this.at > high;
    this.line.style.left = `${this.x(this.at ?? 0)}px`;
  }

  // The index of the update that is in progress at a time; -1: none.
  updateAt(time) {
    const { start, end } = this.data.updates;
    const i = firstAt(end, time);
    return i < end.length && start[i] <= time ? i : -1;
  }

  read() {
    if (!this.data) return;
    const { lanes, updates, marks, zero, groups, bound } = this.data;
    if (this.at === null) {
      const [low, high] = this.shown;
      const many = updates.step.length ? `, ${format(updates.step.length)} updates` : "";
      const beside = 0.01; // those that only touch what is shown
      const [first, last] = [firstAt(updates.end, low + beside), firstAt(updates.start, high - beside) - 1];
      const held = holdUp(updates, first, last);
      this.readout.replaceChildren(el("b", {}, `${clock(zero + low)} to ${clock(zero + high)}${many}`),
        ...(held ? [el("span", {}, held)] : []));
      return;
    }
    const i = this.updateAt(this.at);
    const [low, high] = this.shown;
    const near = ((high - low) / this.box.clientWidth) * 4;
    const when = clock(zero + this.at, high - low < 600 ? 1 : 0);
    const parts = [el("b", {}, i < 0 ? when : `${when}, update ${updates.step[i]}`)];
    lanes.forEach((lane, number) => {
      const kinds = number === 0 ? SPANS : ENGINE_SPANS;
      const there = lane.spans.filter(([begin, end, kind]) => {
        const beside = begin === end ? near : 0; // a moment has no width to point at
        return begin - beside <= this.at && this.at <= end + beside && Object.hasOwn(kinds, kind);
      });
      const span = there.find(([, , kind]) => kind !== "up") ?? there[0];
      if (!span) return;
      const [begin, end, kind] = span;
      const share = kind === "up" && i >= 0 ? updates.generate[i] : null;
      const said = share === null ? `${kinds[kind][0]}${kind === "up" ? "" : `, ${duration(end - begin)}`}`
        : `up; engines generate in ${format(Math.round(share * 100))}% of this step`;
      parts.push(el("span", {}, `${lane.name}: ${said}`));
    });
    if (i >= 0) {
      const rate = rateAt(this.data, i);
      if (rate) parts.push(el("span", {}, rate));
      const stale = groups.filter(([, step]) => step === updates.step[i]).map(([, , , each]) => each);
      if (stale.length) {
        const [least, most] = [Math.min(...stale), Math.max(...stale)];
        parts.push(el("span", {}, `staleness of ${stale.length} groups: ${least === most ? most : `${least} to ${most}`}` +
          `${bound === null ? "" : ` (η=${bound})`}`));
      }
      const known = LATENCIES.filter(([part]) => updates[part][i] !== null);
      const spent = known.map(([part, name]) => `${name} ${duration(updates[part][i])}`);
      if (spent.length) parts.push(el("span", {}, `rollouts: ${spent.join(", ")}`));
      const held = holdUp(updates, i, i);
      if (held) parts.push(el("span", {}, held));
    }
    for (const mark of marks) {
      if (Math.abs(mark.time - this.at) <= near) parts.push(el("span", {}, markText(mark)));
    }
    this.readout.replaceChildren(...parts);
  }

  press(event) {
    if (event.button !== 0) return;
    this.from = event.clientX - this.box.getBoundingClientRect().left;
    this.box.setPointerCapture(event.pointerId);
  }

  move(event) {
    if (!this.data) return;
    const x = event.clientX - this.box.getBoundingClientRect().left;
    const [low, high] = this.shown;
    this.at = Math.min(high, Math.max(low, this.seconds(x)));
    this.band.hidden = this.from === undefined || Math.abs(x - this.from) < 5;
    if (!this.band.hidden) {
      this.band.style.left = `${Math.max(this.gutter, Math.min(x, this.from))}px`;
      this.band.style.width = `${Math.abs(x - this.from)}px`;
    }
    this.place();
    this.read();
  }

  release(event) {
    if (this.from === undefined) return;
    const x = event.clientX - this.box.getBoundingClientRect().left;
    const from = this.from;
    this.drop();
    if (Math.abs(x - from) >= 5) this.zoom([this.seconds(Math.min(x, from)), this.seconds(Math.max(x, from))]);
    else if (x >= this.gutter) this.enter();
  }

  drop() {
    this.from = undefined;
    this.band.hidden = true;
  }

  point(seconds) {
    this.at = seconds;
    this.place();
    this.read();
  }

  leave() {
    if (this.from !== undefined) return;
    this.at = null;
    this.place();
    this.read();
  }

  key(event) {
    const { step, taken, end } = this.data?.updates ?? { step: [] };
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -step.length, End: step.length }[event.key];
    const [low, high] = this.data ? this.shown : [0, 0];
    if (move && step.length) {
      const before = this.at === null ? (move < 0 ? step.length : -1) : firstAt(end, this.at);
      const i = Math.min(step.length - 1, Math.max(0, before + move));
      this.at = (taken[i] + end[i]) / 2;
      if (this.at < low || this.at > high) {
        this.zoom([this.at - (high - low) / 2, this.at + (high - low) / 2]);
      }
      this.place();
      this.read();
    } else if ("+-".includes(event.key) && this.data) {
      const middle = this.at ?? (low + high) / 2;
      const half = ((high - low) / 2) * (event.key === "+" ? 0.5 : 2);
      this.zoom([middle - half, middle + half]);
    } else if (event.key === "Enter") this.enter();
    else if (event.key === "Escape") this.zoom(null);
    else return;
    event.preventDefault();
  }

  // Opens the rollouts of the update that is in progress at the cursor.
  enter() {
    const i = this.at === null ? -1 : this.updateAt(this.at);
    if (i >= 0) this.control.open(this.data.updates.step[i]);
  }
}

function markText({ part, what, text }) {
  return `${part}: ${what}${text ? `, ${text}` : ""}`;
}

function legendOf(entries) {
  return entries.map(([text, name]) => {
    const swatch = el("i", { class: "swatch" });
    swatch.style.background = `var(${name})`;
    return el("span", {}, swatch, text);
  });
}

export function timeline(main, store, params) {
  const run = namedRun(store.runs, params.get("run")) ?? usualRun(store.runs);
  const asked = { last: params.get("last"), from: params.get("from") ?? "", to: params.get("to") ?? "" };
  if (asked.last === null) asked.last = run.state.state === "running" && !asked.from && !asked.to ? "300" : "";
  let at = params.get("at") === null ? null : Number(params.get("at")); // an update to point at, once
  let waiting = null;
  let asking = 0;
  let data = null;

  // The shown choice of a period, even if a range of updates is requested.
  const shownPeriod = () => (asked.from || asked.to ? CHOSEN : asked.last);
  const zoomed = el("span", { class: "range" });
  const chart = new TimelineChart({
    open: (step) => (location.hash = link("rollouts", { run: run.name, from: step, to: step, sort: "reward" })),
    zoom: (range) => showZoom(range),
  });
  const number = (name, label) =>
    el("label", {}, label, el("input", {
      name, value: asked[name], type: "number", min: 0, step: 1, inputmode: "numeric", autocomplete: "off",
      oninput: (event) => set({ [name]: event.target.value.trim(), last: "" }, 250),
    }));
  const period = el("label", {}, "Show", el("select", { name: "last", onchange: (event) => {
    set({ last: event.target.value, from: "", to: "" });
    for (const field of form.querySelectorAll("input")) field.value = "";
  } }, [...PERIODS, [CHOSEN, "some updates"]].map(([value, text]) =>
      el("option", { value, disabled: value === CHOSEN, selected: value === shownPeriod() }, text))));
  const runs = el("label", { hidden: store.runs.length < 2 }, "Run",
    el("select", { name: "run", onchange: (event) => (location.hash = link("timeline", { run: event.target.value })) },
      store.runs.map((each) => el("option", { value: each.name, selected: each === run }, each.name))));
  const form = el("form", { class: "filters", onsubmit: (event) => event.preventDefault() },
    runs, ...(report ? [] : [period, number("from", "From update"), number("to", "To update")]));
  const notes = el("ul", { class: "notes" });
  const failed = el("p", { class: "failure", role: "alert", hidden: true });
  const fallsBox = el("section", { class: "falls" });
  const marksBox = el("section", { class: "marks" });
  main.append(
    el("h1", {}, store.runs.length > 1 ? `Timeline of ${run.name}` : "Timeline"),
    form,
    el("div", { class: "controls" }, el("span", { class: "hint" },
      "point at a step for values, drag to zoom, click a step for its rollouts"), zoomed),
    failed,
    chart.element,
    el("div", { class: "legend" }, el("b", {}, "Learner"), legendOf(Object.values(SPANS))),
    el("div", { class: "legend" }, el("b", {}, "Engines"), legendOf([GENERATES, ...Object.values(ENGINE_SPANS)])),
    el("div", { class: "legend" }, el("b", {}, "Tokens/s"), legendOf(RATES)),
    el("div", { class: "legend" }, el("b", {}, "Latency"), legendOf(LATENCIES.map(([, text, name]) => [text, name]))),
    notes,
    fallsBox,
    marksBox,
  );

  function address() {
    return link("timeline", Object.entries({ run: run.name, ...asked }).filter(([, value]) => value !== ""));
  }

  function set(changes, delay = 0) {
    Object.assign(asked, changes);
    period.lastChild.value = shownPeriod();
    history.replaceState(null, "", address());
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      chart.range = chart.at = null;
      showZoom(null);
      load();
    }, delay);
  }

  function showZoom(range) {
    zoomed.replaceChildren();
    if (!range || !data) return;
    const { step, start, end } = data.updates;
    const inside = step.filter((_, i) => end[i] >= range[0] && start[i] <= range[1]);
    zoomed.append(el("button", { type: "button", onclick: () => chart.zoom(null) }, "Whole range"));
    if (!inside.length) return;
    const [from, to] = [inside[0], inside[inside.length - 1]];
    zoomed.append(el("a", { href: link("rollouts", { run: run.name, from, to, sort: "reward" }) },
      `rollouts of steps ${from} to ${to}`));
  }

  async function load() {
    const mine = ++asking;
    try {
      const found = await source.timeline(run.name, asked);
      if (mine !== asking) return; // a later question has been asked
      data = found;
      failed.hidden = true;
    } catch (error) {
      if (mine !== asking) return;
      failed.textContent = error.message;
      failed.hidden = false;
      return;
    }
    chart.show(data);
    if (at !== null) {
      const i = data.updates.step.indexOf(at);
      if (i >= 0) chart.point((data.updates.taken[i] + data.updates.end[i]) / 2);
      at = null;
    }
    const said = [...data.missing];
    const count = format(data.left_out);
    if (data.left_out) said.push(`The first ${count} updates of this range are not shown; choose a smaller range.`);
    if (data.left) said.push(`The staleness of ${format(data.left)} updates is still being indexed.`);
    if (!data.zero) said.push("The run has not recorded an update yet; the page waits for the first one.");
    if (report) said.push(report.note);
    notes.replaceChildren(...said.map((text) => el("li", {}, text)));
    showFalls();
    showMarks();
  }

  function showFalls() {
    const { updates } = data;
    const depth = ({ lowest, usual }) => updates.tokens_per_s[lowest] / usual;
    const deepest = [...data.falls].sort((a, b) => depth(a) - depth(b)).slice(0, MOST_FALLS);
    fallsBox.replaceChildren();
    if (!deepest.length) return;
    const left = data.falls.length - deepest.length;
    const head = ["updates", "lowest tokens/s", "usual", "why"].map((name) => el("th", { scope: "col" }, name));
    const rows = deepest.map(({ places, lowest, usual, why }) => {
      const [first, last] = [places[0], places[places.length - 1]];
      const rate = updates.tokens_per_s[lowest];
      const [from, to] = [updates.step[first], updates.step[last]];
      const open = () => {
        const around = Math.max(1, (updates.end[last] - updates.start[first]) / 4);
        chart.zoom([updates.start[first] - around, updates.end[last] + around]);
        chart.point((updates.taken[lowest] + updates.end[lowest]) / 2);
        chart.readout.scrollIntoView();
      };
      return el("tr", {}, el("td", {}, el("button", { type: "button", onclick: open }, from === to ? String(from) : `${from} to ${to}`)),
        el("td", { class: "number" }, format(Math.round(rate))), el("td", { class: "number" }, format(Math.round(usual))),
        el("td", {}, why.join("; ")));
    });
    fallsBox.replaceChildren(el("h2", {}, left ? `Where tokens/s fell, the ${MOST_FALLS} deepest of ${data.falls.length}` : "Where tokens/s fell, the deepest first"),
      el("div", { class: "scroll" },
        el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows))));
  }

  function showMarks() {
    const { marks, zero } = data;
    marksBox.replaceChildren();
    if (!marks.length) return;
    const head = ["time", "update", "part", "what", "why"].map((name) => el("th", { scope: "col" }, name));
    const rows = marks.map(({ time, step, part, what, text }) =>
      el("tr", {}, [clock(zero + time), String(step), part, what, text].map((each) => el("td", {}, each))));
    marksBox.replaceChildren(el("h2", {}, "Restarts and resumptions"), el("div", { class: "scroll" },
      el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows))));
  }

  return {
    ready: load(),
    update(changed) {
      if (changed.metrics || changed.states || data?.live || data?.left) load();
    },
    theme: () => chart.draw(),
    close() {
      clearTimeout(waiting);
      chart.close();
    },
  };
}
