// Draws every figure with uPlot. Plots over time share their cursor and their zoom: drag to zoom,
// double-click to reset the zoom, click on a name to hide its line.
"use strict";

// 1500000 as 1.5M; 0.001 unchanged.
function short(value) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= size) return `${Math.round((value / size) * 100) / 100}${unit}`;
  }
  return String(Number(value.toPrecision(4)));
}

// Seconds since the start of a run as a clock: 0:05, 12:30, 1:02:03.
function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

// 3 as 99.9 %, 3.2 as 99.94 %.
function nines(value) {
  const part = 100 - 100 / 10 ** value;
  return `${Number(part.toFixed(Math.max(0, Math.ceil(value) - 1)))} %`;
}

const texts = { numbers: short, clock, nines };
const clockSteps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400, 604800];

function xAxis(plot) {
  const axis = { ...look(), label: plot.x.label, values: (u, splits) => splits.map(texts[plot.x.marks]) };
  if (plot.x.marks === "nines") axis.incrs = [1];
  if (plot.x.marks === "clock") axis.incrs = clockSteps;
  return { ...axis, space: 70, size: 32 };
}

function yAxis(plot) {
  const text = (value) => (value === null ? "" : short(value));
  return { ...look(), label: plot.y.label, values: (u, splits) => splits.map(text), size: 58 };
}

function look() {
  const line = { stroke: colourOf("line"), width: 1 };
  return { stroke: colourOf("text"), font: FONT, labelFont: FONT, labelSize: 18, grid: line, ticks: line };
}

// The zoomed range, or all values.
function xRange(plot) {
  const [least, most] = plot.x.spans ?? [Infinity, -Infinity];
  return (u, min, max) => {
    const all = u.data[0];
    const isWhole = min <= all[0] && max >= all[all.length - 1];
    return isWhole ? [Math.min(least, min), Math.max(most, max)] : [min, max];
  };
}

// The range includes zero: an axis without it exaggerates differences.
function yRange(plot) {
  return (u, min, max) => {
    const values = [min, max, ...(plot.y.spans ?? []), ...plot.cells.flatMap(([edges]) => edges.slice(2))];
    const known = values.filter((value) => value !== null && (value > 0 || plot.y.scale === "linear"));
    const [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [1, 10];
    if (plot.y.scale === "linear") return [Math.min(0, low), high > 0 ? high * 1.05 : 1];
    const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
    return [10 ** from, 10 ** Math.max(to, from + 1)];
  };
}

// A value between two gaps has no line, so it is drawn as a dot.
function lonely(u, index) {
  const values = u.data[index];
  const isGap = (at) => values[at] === null;
  const alone = (value, at) => value != null && isGap(at - 1) && isGap(at + 1);
  return values.flatMap((value, at) => (alone(value, at) ? [at] : []));
}

function series(plot, line) {
  const colour = colourOf(`c${line.colour}`);
  return {
    label: line.name,
    stroke: colour,
    width: 1.6,
    dash: line.stroke === "dashed" ? [5, 4] : undefined,
    fill: line.stroke === "filled" ? `${colour}29` : undefined,
    points: { show: true, size: 3, fill: colour, filter: lonely },
    value: (u, value) => (value == null ? "–" : `${short(value)} ${plot.y.label}`),
  };
}

// One column of x values for all lines, which may have different ones.
function columns(plot) {
  const isShown = (y) => y !== null && (y > 0 || plot.y.scale === "linear");
  const of = ({ points: [xs, ys] }) => [xs, ys.map((y) => (isShown(y) ? y : null))];
  if (plot.lines.length > 0) return uPlot.join(plot.lines.map(of));
  const xs = [...new Set(plot.cells.flatMap(([[left, right]]) => [left, right]))];
  return [xs.sort((a, b) => a - b)];
}

function options(plot, width) {
  const isTime = plot.x.marks === "clock";
  const values = { label: isTime ? "time" : "percentile", value: (u, value) => (value == null ? "–" : texts[plot.x.marks](value)) };
  return {
    width,
    height: 230 + headRoom(plot),
    padding: [headRoom(plot), 14, 0, 0],
    scales: {
      x: { time: false, range: xRange(plot) },
      y: { distr: plot.y.scale === "logarithmic" ? 3 : 1, range: yRange(plot) },
    },
    axes: [xAxis(plot), yAxis(plot)],
    series: [values, ...plot.lines.map((line) => series(plot, line))],
    cursor: isTime ? { sync: { key: "time", scales: ["x", null] } } : {},
    legend: { live: true },
    hooks: {
      drawClear: [(u) => drawPhases(plot, u)],
      draw: [(u) => drawCells(plot, u), (u) => drawFaults(plot, u)],
    },
  };
}

const shown = new Map();

function show(element) {
  const plot = JSON.parse(element.querySelector("script").textContent);
  shown.get(element)?.destroy();
  shown.set(element, new uPlot(options(plot, element.clientWidth), columns(plot), element));
}

for (const element of document.querySelectorAll(".plot")) show(element);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => [...shown.keys()].forEach(show));
addEventListener("resize", () => {
  for (const [element, u] of shown) u.setSize({ width: element.clientWidth, height: u.height });
});
