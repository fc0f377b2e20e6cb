"use strict";
// Everything a model or a file said enters the page as text nodes only, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const view = document.getElementById("view");
const selects = [document.getElementById("first"), document.getElementById("second")];
const only = document.getElementById("only");

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Sortable tables: a click sorts by a column, numbers by size, a second click turns it round; empty cells come last.
function sortBy(table, column, header) {
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => {
    const cell = row.cells[column];
    const number = cell.dataset.number;
    return { row, text: cell.textContent, number: number === undefined ? null : Number(number) };
  });
  keyed.sort((a, b) => {
    if (!a.text || !b.text) return (a.text ? 0 : 1) - (b.text ? 0 : 1);
    const order = a.number !== null && b.number !== null ? a.number - b.number : a.text.localeCompare(b.text);
    return ascending ? order : -order;
  });
  body.append(...keyed.map((entry) => entry.row));
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    header.firstElementChild.addEventListener("click", () => sortBy(table, column, header));
  });
}

// Which of two token lists' tokens are in no longest common subsequence of them.
function differing(a, b) {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < Math.min(a.length, b.length) - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const n = a.length - start - end, m = b.length - start - end;
  const changed = [new Set(), new Set()];
  if (n * m > data.largest_diff) {  // too long to align: all between the common ends is marked
    for (let i = 0; i < n; i++) changed[0].add(start + i);
    for (let j = 0; j < m; j++) changed[1].add(start + j);
    return changed;
  }
  const width = m + 1;
  const common = new Uint16Array((n + 1) * width);
  for (let i = n - 1; i >= 0; i--)
    for (let j = m - 1; j >= 0; j--)
      common[i * width + j] = a[start + i] === b[start + j]
        ? common[(i + 1) * width + j + 1] + 1
        : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
  let i = 0, j = 0;
  while (i < n || j < m) {
    if (i < n && j < m && a[start + i] === b[start + j]) { i++; j++; }
    else if (j === m || (i < n && common[(i + 1) * width + j] >= common[i * width + j + 1])) changed[0].add(start + i++);
    else changed[1].add(start + j++);
  }
  return changed;
}

// Tokens as text: the marks of byte-level and SentencePiece vocabularies become what they stand for.
function said(pieces, changed) {
  const box = element("p", "text said");
  const spaced = !pieces.some((piece) => /[\u0120\u2581\u010a]/.test(piece));
  pieces.forEach((piece, place) => {
    const text = piece.replace(/[\u0120\u2581]/g, " ").replace(/\u010a/g, "\u21b5\n");
    box.append(changed && changed.has(place) ? element("mark", "", text) : document.createTextNode(text));
    if (spaced) box.append(" ");
  });
  return box;
}

function grade(sample, label) {
  const line = element("p", "grade", label + ": ");
  for (const [name, right] of [["strict", sample.strict], ["flexible", sample.flexible]])
    line.append(element("span", right ? "right" : "wrong", (right ? "\u2713 " : "\u2717 ") + name), "  ");
  line.append(sample.costs);
  return line;
}

function problemBox(sample) {
  const box = element("article", "problem");
  const [prompt, target] = data.problems[sample.problem];
  box.append(element("h3", "", "problem " + sample.index), element("p", "text", prompt));
  const reference = element("details");
  reference.append(element("summary", "", "reference response"), element("p", "text", target));
  box.append(reference);
  return box;
}

function showSamples(number) {
  const cell = data.cells[number];
  view.replaceChildren(element("h2", "", "Samples: " + cell.label), element("p", "", cell.note));
  for (const sample of cell.samples) {
    const box = problemBox(sample);
    box.append(grade(sample, cell.decoder), said(sample.pieces));
    view.append(box);
  }
}

function showComparison(first, second) {
  const cells = [data.cells[first], data.cells[second]];
  // within a run problems are matched by number (their prompts may be worded differently), across runs by text
  const key = (sample) => (cells[0].run === cells[1].run ? sample.index : sample.problem);
  const others = new Map(cells[1].samples.map((sample) => [key(sample), sample]));
  const pairs = cells[0].samples.filter((s) => others.has(key(s))).map((s) => [s, others.get(key(s))]);
  const counts = [0, 0, 0, 0];
  for (const [a, b] of pairs) counts[(a.strict ? 2 : 0) + (b.strict ? 1 : 0)]++;
  view.replaceChildren(
    element("h2", "", "Sample by sample"),
    element("p", "", "First: " + cells[0].label + ". Second: " + cells[1].label + "."),
    element("p", "", pairs.length + " problems in common among the samples on this page; strictly right: both " + counts[3]
      + ", only the first " + counts[2] + ", only the second " + counts[1] + ", neither " + counts[0]
      + ". Tokens that differ are marked."));
  for (const [a, b] of pairs) {
    if (only.value === "grade" && a.strict === b.strict) continue;
    const changed = differing(a.pieces, b.pieces);
    if (only.value === "tokens" && !changed[0].size && !changed[1].size) continue;
    const box = problemBox(a), sides = element("div", "sides");
    [a, b].forEach((sample, side) => {
      const half = element("div");
      half.append(grade(sample, cells[side].decoder), said(sample.pieces, changed[side]));
      sides.append(half);
    });
    box.append(sides);
    view.append(box);
  }
}

// The address after # says what is shown, so that views can be linked to and gone back from.
function route() {
  const parts = location.hash.slice(1).split("/");
  if (!parts.slice(1).every((part) => /^\d+$/.test(part) && Number(part) < data.cells.length)) return;
  const numbers = parts.slice(1).map(Number);
  if (parts[0] === "samples" && numbers.length === 1) {
    selects[0].value = numbers[0];
    showSamples(numbers[0]);
  } else if (parts[0] === "compare" && numbers.length === 2) {
    selects.forEach((select, side) => { select.value = numbers[side]; });
    showComparison(...numbers);
  } else return;
  view.scrollIntoView();
}

if (data.cells.length) {
  for (const select of selects)
    data.cells.forEach((cell, number) => {
      const option = element("option", "", cell.label);
      option.value = number;
      select.append(option);
    });
  selects[1].value = Math.min(1, data.cells.length - 1);
  const choose = () => {
    const wanted = "#compare/" + selects[0].value + "/" + selects[1].value;
    if (location.hash === wanted) route(); else location.hash = wanted;
  };
  for (const control of [...selects, only]) control.addEventListener("change", choose);
  addEventListener("hashchange", route);
  route();
}
