/** The tree of states with thumbnails: a column for each edit, a row for each branch. */

import { $, el, icon } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const STEP = 70, ROW = 62, SIZE = 52, MARGIN = 10;

export class History {
  /** @param {object} hooks  go(state), thumbnail(state): Promise of a URL */
  constructor(hooks) {
    this.hooks = hooks;
    this.node = $("tree");
    this.lines = document.createElementNS(SVG, "svg");
    this.lines.setAttribute("aria-hidden", "true");
    this.node.append(this.lines);
    this.items = new Map();   // by state: they stay in the page, so that each thumbnail is fetched once
    this.node.addEventListener("keydown", (event) => this.#key(event));
  }

  show(tree) {
    this.tree = tree;
    const places = layOut(tree.states), line = this.#line();
    const size = (axis) => 1 + Math.max(...[...places.values()].map((place) => place[axis]), 0);
    this.lines.setAttribute("width", String(size(0) * STEP + MARGIN));
    this.lines.setAttribute("height", String(size(1) * ROW + MARGIN));
    this.lines.replaceChildren(...tree.states.filter(({ parent }) => parent !== null)
      .map(({ id, parent }) => link(places.get(parent), places.get(id), line.has(id))));
    for (const state of tree.states) {
      if (!this.items.has(state.id)) this.#add(state);
      this.#update(state, places.get(state.id), line.has(state.id));
    }
    if (tree.current !== null) this.#scrollTo(places.get(tree.current));
  }

  /** The states from the first image to the current one. */
  #line() {
    const byId = new Map(this.tree.states.map((state) => [state.id, state]));
    const line = new Set();
    for (let state = byId.get(this.tree.current); state; state = byId.get(state.parent)) line.add(state.id);
    return line;
  }

  #add(state) {
    const image = el("img", { alt: "", draggable: false });
    this.hooks.thumbnail(state.id).then((url) => { image.src = url; }).catch(() => {});
    const item = el("button", {
      class: "state", type: "button", role: "treeitem", title: state.title, "aria-label": state.title,
      "data-state": state.id, onclick: () => this.hooks.go(state.id),
    }, image, el("span", { class: "caption" }, state.short));
    this.items.set(state.id, item);
    this.node.append(item);
  }

  #update(state, [column, row], onLine) {
    const item = this.items.get(state.id), current = state.id === this.tree.current;
    item.classList.toggle("on-line", onLine);
    item.tabIndex = current ? 0 : -1;
    item.setAttribute("aria-level", String(column + 1));
    item.setAttribute("aria-selected", String(current));
    if (current) item.setAttribute("aria-current", "true");
    else item.removeAttribute("aria-current");
    item.style.left = `${MARGIN + column * STEP}px`;
    item.style.top = `${MARGIN + row * ROW}px`;
  }

  #scrollTo([column, row]) {
    const { node } = this, x = column * STEP, y = row * ROW;
    if (x < node.scrollLeft || x + STEP + MARGIN > node.scrollLeft + node.clientWidth) {
      node.scrollLeft = x - node.clientWidth / 2;
    }
    if (y < node.scrollTop || y + ROW > node.scrollTop + node.clientHeight) node.scrollTop = y;
  }

  /** Arrow keys move the focus along the tree; enter goes there. */
  #key(event) {
    const state = this.tree.states.find(({ id }) => id === event.target.dataset?.state);
    if (!state) return;
    const children = this.tree.states.filter(({ parent }) => parent === state.id);
    const siblings = this.tree.states.filter(({ parent }) => parent === state.parent);
    const index = siblings.indexOf(state);
    const next = {
      ArrowLeft: this.tree.states.find(({ id }) => id === state.parent), ArrowRight: children[0],
      ArrowUp: siblings[index - 1], ArrowDown: siblings[index + 1],
      Home: this.tree.states[0], End: this.tree.states[this.tree.states.length - 1],
    }[event.key];
    if (!next) return;
    event.preventDefault();
    this.items.get(next.id).focus();
  }
}

/** Column and row of each state: the first child stays in its parent's row, every other one opens a row below. */
export function layOut(states) {
  const children = new Map();
  for (const state of states) children.set(state.parent, [...(children.get(state.parent) ?? []), state]);
  const places = new Map();
  let rows = 0;
  const stack = [...(children.get(null) ?? [])].reverse().map((state) => [state, 0, null]);
  while (stack.length) {   // depth first, so that a branch lies below all that grew before it
    const [state, column, row] = stack.pop();
    const place = row ?? rows++;
    places.set(state.id, [column, place]);
    const below = children.get(state.id) ?? [];
    for (let i = below.length - 1; i >= 0; i--) stack.push([below[i], column + 1, i === 0 ? place : null]);
  }
  return places;
}

function link([fromColumn, fromRow], [column, row], onLine) {
  const x0 = MARGIN + fromColumn * STEP + SIZE, y0 = MARGIN + fromRow * ROW + SIZE / 2;
  const x1 = MARGIN + column * STEP, y1 = MARGIN + row * ROW + SIZE / 2;
  const path = document.createElementNS(SVG, "path");
  const middle = x0 + (x1 - x0) / 2;
  path.setAttribute("d", y0 === y1 ? `M${x0} ${y0}H${x1}` : `M${x0} ${y0}H${middle}V${y1 - 6}Q${middle} ${y1} ${x1} ${y1}`);
  path.setAttribute("class", onLine ? "link on-line" : "link");
  return path;
}

export function historyButtons(hooks) {
  return [
    el("button", { id: "undo", class: "quiet icon-only", type: "button", title: "Undo (Ctrl+Z)", "aria-label": "Undo", onclick: hooks.undo }, icon("undo")),
    el("button", { id: "redo", class: "quiet icon-only", type: "button", title: "Redo (Ctrl+Shift+Z)", "aria-label": "Redo", onclick: hooks.redo }, icon("redo")),
  ];
}
