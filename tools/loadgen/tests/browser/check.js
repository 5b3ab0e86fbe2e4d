// Looks at a page as a browser has laid it out and lists what a reader would stumble over. The test
// puts it at the end of a copy of each page; the pages themselves have no scripts.
"use strict";

const problems = [];
const counts = { texts: 0, cells: 0, figures: 0, sections: 0 };
const short = (element) => (element.textContent || element.tagName).trim().slice(0, 50);
const isVisible = (element) => element.getClientRects().length > 0;

// More than a pixel in both directions: rounding makes neighbours touch.
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

// What is written in an element, which may be smaller or larger than the element.
function textOf(element) {
  const range = document.createRange();
  range.selectNodeContents(element);
  return range.getBoundingClientRect();
}

// An element that scrolls, or hides what does not fit, may hold more than the screen is wide.
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

function checkPlot(svg) {
  const title = svg.getAttribute("aria-label") || "";
  if (svg.getAttribute("role") !== "img" || title.length < 5) problems.push("a plot without a name");
  const texts = [...svg.querySelectorAll("text")];
  noneOverlap(texts, boxOf, `plot ${title.slice(0, 40)}`);
  const frame = boxOf(svg);
  for (const text of texts.filter(isVisible)) {
    counts.texts++;
    const box = boxOf(text);
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1) {
      problems.push(`"${short(text)}" is cut off in ${title.slice(0, 40)}`);
    }
    const size = parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a;
    if (size < 9) problems.push(`"${short(text)}" is ${size.toFixed(1)} px high in ${title}`);
  }
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
    if (isVisible(element) && size < 11) problems.push(`"${short(element)}" is ${size} px high`);
  }
}

// Contrast after WCAG 2: text of less than 4.5 is hard to read.
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
  for (const element of document.querySelectorAll("p, li, td, th, dd, dt, text, small, span, summary")) {
    if (!isVisible(element) || !element.textContent.trim()) continue;
    const style = getComputedStyle(element);
    const colour = element.tagName === "text" ? style.fill : style.color;
    const [a, b] = [luminance(colour), luminance(groundOf(element))].sort((a, b) => b - a);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) problems.push(`"${short(element)}": contrast of ${contrast.toFixed(1)}`);
  }
}

// The first thing one sees, on the first screen, with nothing over it.
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
  const curve = document.querySelector("figure svg.wide");
  if (!curve || boxOf(curve).bottom > innerHeight) problems.push("the curve is not on the first screen");
}

function check() {
  // A comparison judges nobody.
  if (!window.name.startsWith("compare")) checkVerdict();
  document.querySelectorAll("details").forEach((details) => (details.open = true));
  checkWidth();
  document.querySelectorAll("svg").forEach((svg) => isVisible(svg) && checkPlot(svg));
  document.querySelectorAll("table").forEach(checkTable);
  for (const figure of document.querySelectorAll("figure")) {
    counts.figures++;
    const parts = [...figure.querySelectorAll("figcaption, li, svg, p")];
    noneOverlap(parts, boxOf, `figure ${short(figure.querySelector("figcaption"))}`);
  }
  const blocks = [...document.querySelectorAll("body > *, section > *")];
  noneOverlap(blocks.filter((block) => block.tagName !== "SECTION"), boxOf, "blocks");
  counts.sections = document.querySelectorAll("section").length;
  checkText();
  checkContrast();
}

addEventListener("load", () => {
  try {
    check();
  } catch (error) {
    problems.push(`the check itself: ${error}`);
  }
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const found = { name: window.name, width: innerWidth, isDark, problems, counts };
  parent.postMessage(found, "*");
});
