// A chart of one or two metrics, with a line for each run. Hover to read values, drag to zoom, and click a step to open
// its rollouts or its timeline.

import { el, format } from "./dom.js";

export function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function runColor(run) {
  return color(`--run-${run.index % 8}`);
}

// Steps and values of a run; the key [a, b] means the ratio a/b.
export function series(run, key) {
  const [above, below] = [key].flat();
  const steps = run.columns.step ?? [];
  const values = run.columns[above] ?? [];
  const divisors = below ? (run.columns[below] ?? []) : null;
  const found = [[], []];
  values.forEach((value, i) => {
    const divisor = divisors ? divisors[i] : 1;
    if (value === null || !divisor || steps[i] === null || steps[i] === undefined) return;
    found[0].push(steps[i]);
    found[1].push(value / divisor);
  });
  return found;
}

// Mean of each value and `half` values on either side; fewer at the ends.
export function smooth(values, half) {
  const sums = [0];
  for (const value of values) sums.push(sums[sums.length - 1] + value);
  return values.map((_, i) => {
    const low = Math.max(0, i - half);
    const high = Math.min(values.length, i + half + 1);
    return (sums[high] - sums[low]) / (high - low);
  });
}

function aligned(lines) {
  const xs = [...new Set(lines.flatMap(([steps]) => steps))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, i) => [x, i]));
  const columns = lines.map(([steps, values]) => {
    const column = new Array(xs.length).fill(null);
    steps.forEach((step, i) => (column[place.get(step)] = values[i]));
    return column;
  });
  return [xs, ...columns];
}

const DASHES = [[], [5, 4]];

export class Chart {
  // about: {title, help, keys, points, opens}; control: {smoothing, range, zoom(low, high), rollouts(run, step),
  // timeline(run, step)}. `opens` is "rollouts" or "timeline": the function that opens a step.
  constructor(about, control) {
    this.about = about;
    this.control = control;
    this.plot = null;
    this.shape = "";
    this.readout = el("div", { class: "readout" });
    this.box = el("div", {
      class: "plot",
      tabindex: 0,
      role: "img",
      "aria-label": `${about.title} over steps; arrow keys read values, Enter opens the ${about.opens} of a step`,
      onkeydown: (event) => this.key(event),
    });
    this.element = el("figure", { class: "chart" }, el("figcaption", {}, about.title), about.help ? el("small", {}, about.help) : "",
      this.readout, this.box);
    this.sizes = new ResizeObserver(() => this.fit());
    this.sizes.observe(this.box);
  }

  close() {
    this.sizes.disconnect();
    this.plot?.destroy();
  }

  fit() {
    const width = this.box.clientWidth;
    if (this.plot && width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: this.plot.height });
  }

  show(runs) {
    const half = this.control.smoothing;
    const raw = [];
    for (const [i, key] of this.about.keys.entries()) {
      for (const run of runs) {
        const [steps, values] = series(run, key);
        if (steps.length) raw.push({ run, key, dash: DASHES[i % 2], steps, values });
      }
    }
    this.lines = raw;
    this.element.hidden = raw.length === 0;
    if (!raw.length) return;
    const columns = raw.map((line) => [line.steps, line.values]);
    if (half) columns.push(...raw.map((line) => [line.steps, smooth(line.values, half)]));
    const data = aligned(columns);
    const shape = JSON.stringify([half > 0, raw.map((line) => [line.run.name, line.key])]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.plot?.destroy();
      this.plot = new uPlot(this.options(half > 0), data, this.box);
    } else {
      this.plot.setData(data, !this.control.range);
    }
    this.scale();
    this.read();
  }

  scale() {
    if (!this.plot) return;
    const xs = this.plot.data[0];
    const [min, max] = this.control.range ?? [xs[0], xs[xs.length - 1]];
    this.plot.setScale("x", min < max ? { min, max } : { min, max: min + 1 });
  }

  redraw() {
    this.plot?.redraw(false, true);
    this.read();
  }

  options(smoothed) {
    const axis = { stroke: () => color("--faint"), font: "11px system-ui", gap: 4 };
    const grid = { stroke: () => color("--grid"), width: 1 };
    const lines = this.lines.map((line) => ({
      stroke: () => runColor(line.run) + (smoothed ? "55" : ""),
      width: smoothed ? 1 : 1.5,
      dash: line.dash,
      spanGaps: true,
      points: this.about.points ? { show: true, size: 6 } : {},
    }));
    const means = this.lines.map((line) => ({
      stroke: () => runColor(line.run), width: 2, dash: line.dash, spanGaps: true, points: { show: false },
    }));
    return {
      width: Math.max(200, this.box.clientWidth),
      height: 170,
      padding: [8, 10, 0, 0],
      legend: { show: false },
      scales: { x: { time: false }, y: { range: vertical } },
      cursor: {
        y: false,
        drag: { x: true, y: false, setScale: false, dist: 5 },
        points: { size: 7 },
        sync: { key: "steps", filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
        bind: { dblclick: () => () => this.control.zoom(null) },
      },
      axes: [
        { ...axis, size: 26, grid, ticks: { ...grid, size: 4 }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000,
          2000, 5000, 10000, 20000, 50000, 100000] },
        { ...axis, size: 52, grid, ticks: { ...grid, size: 4 },
          values: (plot, ticks, at, space, step) => ticks.map((x) => format(x, digits(x, step))) },
      ],
      series: [{}, ...lines, ...(smoothed ? means : [])],
      hooks: {
        setCursor: [() => this.read()],
        setSelect: [(plot) => this.selected(plot)],
        draw: [(plot) => this.drawMarks(plot)],
        ready: [(plot) => plot.over.addEventListener("click", () => this.enter())],
      },
    };
  }

  // Draws thin lines where a run was resumed or a part of it restarted.
  drawMarks(plot) {
    const { left, top, width, height } = plot.bbox;
    for (const run of new Set(this.lines.map((line) => line.run))) {
      plot.ctx.fillStyle = runColor(run);
      for (const step of new Set((run.state.marks ?? []).map((mark) => mark.step))) {
        const x = Math.round(plot.valToPos(step, "x", true));
        if (x < left || x > left + width) continue;
        for (let y = top; y < top + height; y += 6) plot.ctx.fillRect(x, y, 1, 3);
      }
    }
  }

  selected(plot) {
    const { left, width } = plot.select;
    if (width < 5) return;
    this.dragged = performance.now();
    const [low, high] = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.control.zoom(low, high);
  }

  // Shows the values at the cursor, or the last ones.
  read() {
    const plot = this.plot;
    if (!plot) return;
    const at = plot.cursor.idx;
    const parts = this.lines.map((line, i) => {
      const column = plot.data[i + 1];
      const value = at === null || at === undefined ? line.values[line.values.length - 1] : column[at];
      const swatch = el("i", { class: `swatch run-${line.run.index % 8}` });
      const which = this.about.keys.length > 1 ? ` ${line.key.split("/").pop()}` : "";
      return el("span", { title: `${line.run.name}${which}` }, swatch, format(value), el("small", {}, which));
    });
    const step = at === null || at === undefined ? "last" : `step ${format(plot.data[0][at])}`;
    this.readout.replaceChildren(el("b", {}, step), ...parts);
  }

  key(event) {
    const plot = this.plot;
    if (!plot) return;
    const xs = plot.data[0];
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -xs.length, End: xs.length }[event.key];
    if (move) {
      const before = plot.cursor.idx ?? xs.length - (move < 0 ? 0 : 1);
      const idx = Math.min(xs.length - 1, Math.max(0, before + move));
      plot.setCursor({ left: plot.valToPos(xs[idx], "x"), top: 10 });
      event.preventDefault();
    } else if (event.key === "Enter") {
      this.enter();
    } else if (event.key === "Escape") {
      this.control.zoom(null);
    }
  }

  // Opens the rollouts or the timeline of the step at the cursor, for the run whose line is nearest to it.
  enter() {
    const plot = this.plot;
    const at = plot?.cursor.idx;
    if (at === null || at === undefined || performance.now() - (this.dragged ?? -1e9) < 300) return;
    const distance = (i) => Math.abs(plot.valToPos(plot.data[i + 1][at], "y") - plot.cursor.top);
    const there = this.lines.map((_, i) => i).filter((i) => plot.data[i + 1][at] !== null);
    if (!there.length) return;
    const nearest = there.reduce((best, i) => (distance(i) < distance(best) ? i : best));
    this.control[this.about.opens](this.lines[nearest].run, plot.data[0][at]);
  }
}

// The range of an axis of values. Many metrics are shares, so the axis of one that is always 0 ends at 1, not at 100.
function vertical(plot, low, high) {
  if (low === null) return [null, null];
  return low === 0 && high === 0 ? [0, 1] : uPlot.rangeNum(low, high, 0.1, true);
}

// Number of digits that distinguish a tick from the next one, which is one step away.
function digits(tick, step) {
  return tick === 0 ? 3 : Math.max(3, Math.ceil(Math.log10(Math.abs(tick) / step)) + 1);
}
