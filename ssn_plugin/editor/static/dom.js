/** Small helpers around the document. */

/** Shortest way to an element: `el("button", {class: "tile", onclick: f}, "text", child)`. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node && key !== "list" && key !== "form" && typeof value !== "string") node[key] = value;
    else node.setAttribute(key === "className" ? "class" : key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `icons.svg#${name}`);
  svg.append(use);
  return svg;
}

export const $ = (id) => document.getElementById(id);

/** Speaks to screen readers, without moving the focus. */
export function announce(text) {
  $("live").textContent = text;
}

let hiding;

/** A line at the foot of the page: what went wrong, or what was done. */
export function toast(text, kind = "info") {
  const node = $("toast");
  (document.querySelector("dialog[open]") ?? document.body).append(node);   // a dialog covers all that is outside it
  node.textContent = text;
  node.dataset.kind = kind;
  node.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { node.hidden = true; }, kind === "error" ? 9000 : 3500);
}

export function download(name, blob) {
  const url = URL.createObjectURL(blob);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** Change of a place in two digits: 0.31, 0.0028. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  return value === 0 ? "0" : value < 1e-3 ? value.toExponential(1) : value.toPrecision(2);
}
