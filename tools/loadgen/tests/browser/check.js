// Checks the layout of a page in the browser, and lists what a reader would stumble over. The test
// appends this script to a copy of each page.
"use strict";

const problems = [];
const counts = { texts: 0, cells: 0, figures: 0, plots: 0, sections: 0 };
const short = (element) => (element.textContent || element.tagName).trim().slice(0, 50);
// Some pages are tested without their scripts.
const hasPlots = document.querySelector(".plot script") !== null;
const isVisible = (element) => element.getClientRects().length > 0;

// More than a pixel in both directions, because rounding makes neighbours touch.
function overlap(a, b) {
  const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  return width > 1 && height > 1;
}

function noneOverlap(elements, rectOf, where) {
  const placed = elements.filter(isVisible).map((element) => [element, rectOf(element)]);
  for (let one = 0; one < placed.length; one++) {
    for (let other = 0; other < one; other++) {
      if (overlap(placed[one][1], placed[other][1])) {
        problems.push(`${where}: "${short(placed[other][0])}" overlaps "${short(placed[one][0])}"`);
      }
    }
  }
}

const boxOf = (element) => element.getBoundingClientRect();

// The bounds of an element's text, which may be smaller or larger than the element.
function textOf(element) {
  const range = document.createRange();
  range.selectNodeContents(element);
  return range.getBoundingClientRect();
}

// An element that scrolls or clips its content may hold more than the width of the screen.
function scrolls(element) {
  for (let parent = element.parentElement; parent; parent = parent.parentElement) {
    if (["auto", "scroll"].includes(getComputedStyle(parent).overflowX)) return true;
  }
  return false;
}

function checkWidth() {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) {
    problems.push(`the page is ${document.documentElement.scrollWidth} wide, the screen ${width}`);
  }
  for (const element of document.body.querySelectorAll("*")) {
    const box = boxOf(element);
    const sticksOut = box.right > width + 1 || box.left < -1;
    if (isVisible(element) && sticksOut && !scrolls(element)) {
      problems.push(`${element.tagName} "${short(element)}" sticks out: ${box.left} to ${box.right}`);
    }
  }
}

// The canvas must not be blank, must fit the screen, and must show the value under the cursor.
function checkPlot(element) {
  const title = element.getAttribute("aria-label") || "";
  if (element.getAttribute("role") !== "img" || title.length < 5) problems.push("a plot without a name");
  const u = shown.get(element);
  if (!u) return problems.push(`nothing is drawn: ${title}`);
  counts.plots++;
  const { width, height } = u.ctx.canvas;
  const pixels = u.ctx.getImageData(0, 0, width, height).data;
  if (!pixels.some((value) => value > 0)) problems.push(`an empty canvas: ${title}`);
  if (u.width > element.clientWidth) problems.push(`${u.width} px wide: ${title}`);
  u.setCursor({ left: u.over.clientWidth / 2, top: 20 });
  const values = [...element.querySelectorAll(".u-value")].map((value) => value.textContent);
  if (values.length !== u.series.length) problems.push(`${values.length} values: ${title}`);
  if (!/[0-9]/.test(values[0])) problems.push(`the cursor says ${values[0]}: ${title}`);
}

// Dragging in one plot over time must zoom all of them; a double click must reset the zoom.
async function checkZoom() {
  const plots = [...shown.values()].filter((u) => u.cursor.sync.key === "time");
  if (plots.length < 2) return;
  const [first, second] = plots;
  const box = boxOf(first.over);
  const mouse = (type, part) => {
    const place = { clientX: box.left + box.width * part, clientY: box.top + 20, movementX: 9 };
    first.over.dispatchEvent(new MouseEvent(type, { ...place, bubbles: true }));
  };
  const widthOf = (u) => u.scales.x.max - u.scales.x.min;
  const drawn = () => new Promise((resolve) => setTimeout(resolve));
  const whole = widthOf(second);
  [["mousemove", 0.2], ["mousedown", 0.2], ["mousemove", 0.5], ["mouseup", 0.5]].forEach((it) => mouse(...it));
  await drawn();
  if (widthOf(first) > 0.5 * whole || widthOf(second) > 0.5 * whole) problems.push("plots do not zoom together");
  mouse("dblclick", 0.5);
  await drawn();
  if (widthOf(second) < 0.99 * whole) problems.push("a double click does not show everything again");
}

function checkTable(table) {
  const cells = [...table.querySelectorAll("caption, th, td")].filter(isVisible);
  counts.cells += cells.length;
  const written = cells.filter((cell) => cell.textContent.trim());
  noneOverlap(written, textOf, `table ${short(table)}`);
  for (const cell of written.filter((cell) => cell.tagName !== "CAPTION")) {
    const [box, text] = [boxOf(cell), textOf(cell)];
    if (text.left < box.left - 1 || text.right > box.right + 1) {
      problems.push(`"${short(cell)}" does not fit its cell`);
    }
  }
}

function checkText() {
  for (const element of document.querySelectorAll("p, li, td, th, dd, dt, figcaption, small")) {
    const size = parseFloat(getComputedStyle(element).fontSize);
    if (isVisible(element)) counts.texts++;
    if (isVisible(element) && size < 11) problems.push(`"${short(element)}" is ${size} px high`);
  }
}

// Contrast as defined by WCAG 2: text below 4.5 is hard to read.
function channels(colour) {
  return colour.match(/[\d.]+/g).map(Number);
}

function luminance(colour) {
  const linear = channels(colour).slice(0, 3).map((value) => {
    const part = value / 255;
    return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}

function groundOf(element) {
  for (let it = element; it; it = it.parentElement) {
    const ground = getComputedStyle(it).backgroundColor;
    if ((channels(ground)[3] ?? 1) > 0.5) return ground;
  }
  return "rgb(255, 255, 255)";
}

function checkContrast() {
  for (const element of document.querySelectorAll("p, li, td, th, dd, dt, small, span, summary")) {
    if (!isVisible(element) || !element.textContent.trim()) continue;
    const style = getComputedStyle(element);
    const [a, b] = [luminance(style.color), luminance(groundOf(element))].sort((a, b) => b - a);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) problems.push(`"${short(element)}": contrast of ${contrast.toFixed(1)}`);
  }
}

// The verdict must be at the top of the first screen, and not covered.
function checkVerdict() {
  const verdict = document.querySelector(".verdict");
  if (!verdict) return problems.push("no verdict");
  const box = boxOf(verdict);
  if (box.bottom > innerHeight / 2) problems.push("the verdict is not at the top");
  const top = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
  if (!top || !(verdict === top || verdict.contains(top))) problems.push("the verdict is covered");
  if (innerWidth < 800 || !document.querySelector("section")) return;
  const numbers = document.querySelector(".numbers");
  if (!numbers || boxOf(numbers).bottom > innerHeight / 2) problems.push("six numbers are not at the top");
  const curve = document.querySelector("figure canvas");
  if (hasPlots && (!curve || boxOf(curve).bottom > innerHeight)) problems.push("the curve is not on the first screen");
}

async function check() {
  // A comparison has no verdict.
  if (!window.name.startsWith("compare")) checkVerdict();
  document.querySelectorAll("details").forEach((details) => (details.open = true));
  checkWidth();
  if (hasPlots) {
    document.querySelectorAll(".plot").forEach(checkPlot);
    await checkZoom();
  }
  document.querySelectorAll("table").forEach(checkTable);
  for (const figure of document.querySelectorAll("figure")) {
    counts.figures++;
    const parts = [...figure.querySelectorAll("figcaption, .u-wrap, .u-series > *, p")];
    noneOverlap(parts, boxOf, `figure ${short(figure.querySelector("figcaption"))}`);
  }
  const blocks = [...document.querySelectorAll("body > *, section > *")];
  noneOverlap(blocks.filter((block) => block.tagName !== "SECTION"), boxOf, "blocks");
  counts.sections = document.querySelectorAll("section").length;
  checkText();
  checkContrast();
}

addEventListener("load", async () => {
  try {
    await check();
  } catch (error) {
    problems.push(`the check itself: ${error}`);
  }
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const found = { name: window.name, width: innerWidth, isDark, problems, counts };
  parent.postMessage(found, "*");
});
