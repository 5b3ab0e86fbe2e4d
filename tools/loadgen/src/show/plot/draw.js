// What uPlot does not draw: phases and faults in the background, and the cells of a heat map.
"use strict";

const LABEL_ROWS = 3;
const ROW_HEIGHT = 15;
const FONT = "12px system-ui, 'DejaVu Sans', sans-serif";

const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// Space above the plotted area for the names of phases and faults.
function headRoom(plot) {
  return 10 + (plot.phases.length ? ROW_HEIGHT : 0) + (plot.faults.length ? LABEL_ROWS * ROW_HEIGHT : 0);
}

// Calls `draw` with the canvas in CSS pixels, and with the plotted area.
function paint(u, draw) {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.scale(ratio, ratio);
  Object.assign(ctx, { font: FONT, textAlign: "left", textBaseline: "alphabetic" });
  const area = { left: bbox.left / ratio, top: bbox.top / ratio };
  area.right = area.left + bbox.width / ratio;
  area.bottom = area.top + bbox.height / ratio;
  const x = (value) => Math.min(Math.max(u.valToPos(value, "x", true) / ratio, area.left), area.right);
  const y = (value) => Math.min(Math.max(u.valToPos(value, "y", true) / ratio, area.top), area.bottom);
  draw(ctx, area, x, y);
  ctx.restore();
}

// Every second phase is a grey band. A name that does not fit above its band is left out; the table
// of phases has it.
function drawPhases(plot, u) {
  paint(u, (ctx, area, x) => {
    plot.phases.forEach((phase, index) => {
      const [left, right] = [x(phase.from), x(phase.to)];
      ctx.fillStyle = colourOf("band");
      if (index % 2 === 0) ctx.fillRect(left, area.top, right - left, area.bottom - area.top);
      ctx.fillStyle = colourOf("soft");
      const width = ctx.measureText(phase.name).width;
      if (width + 6 < right - left) ctx.fillText(phase.name, left + 3, area.top - 5);
    });
  });
}

// A line where a fault began, and a tint while it lasted. A label takes the first row with space;
// if there is none, only its number is drawn.
function drawFaults(plot, u) {
  const labelled = plot.phases.length ? ROW_HEIGHT : 0;
  paint(u, (ctx, area, x) => {
    const ends = Array(LABEL_ROWS).fill(area.left - 1);
    const place = (text, left) => {
      const width = ctx.measureText(text).width;
      const from = Math.min(left + 3, area.right - width);
      const row = ends.findIndex((end) => end < from);
      if (row < 0) return false;
      ends[row] = from + width + 6;
      ctx.fillText(text, from, area.top - labelled - 5 - row * ROW_HEIGHT);
      return true;
    };
    for (const fault of plot.faults) {
      const { min, max } = u.scales.x;
      if (fault.until < min || fault.at > max) continue;
      const [left, right] = [x(fault.at), x(fault.until)];
      ctx.fillStyle = ctx.strokeStyle = colourOf("fault");
      ctx.globalAlpha = 0.12;
      ctx.fillRect(left, area.top, right - left, area.bottom - area.top);
      ctx.globalAlpha = 1;
      ctx.setLineDash([3, 2]);
      ctx.beginPath();
      ctx.moveTo(left, area.top);
      ctx.lineTo(left, area.bottom);
      ctx.stroke();
      place(fault.text, left) || place(fault.text.split(" ")[0], left);
    }
  });
}

// The opacity of a cell grows with the logarithm of its count.
function drawCells(plot, u) {
  const largest = Math.max(2, ...plot.cells.map(([, count]) => count));
  paint(u, (ctx, area, x, y) => {
    ctx.fillStyle = colourOf("c0");
    for (const [[left, right, low, high], count] of plot.cells) {
      ctx.globalAlpha = 0.1 + (0.9 * Math.log(count)) / Math.log(largest);
      const [from, top] = [x(left), y(high)];
      ctx.fillRect(from, top, Math.max(x(right) - from, 0.5), Math.max(y(low) - top, 0.5));
    }
  });
}
