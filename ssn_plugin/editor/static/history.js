/** The tree of states with thumbnails: a column for each edit, a row for each branch. */

import { $, el, icon } from "./dom.js";

const STEP = 70, ROW = 62, SIZE = 52, MARGIN = 10;

export class History {
  /** @param {object} hooks  go(state), thumbnail(state): Promise of a URL */
  constructor(hooks) {
    this.hooks = hooks;
    this.node = $("tree");
    this.node.addEventListener("keydown", (event) => this.#key(event));
  }

  show(tree) {
    this.tree = tree;
    const places = layOut(tree.states);
    const width = Math.max(...[...places.values()].map(([x]) => x), 0) + 1;
    const height = Math.max(...[...places.values()].map(([, y]) => y), 0) + 1;
    const lines = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    lines.setAttribute("width", String(width * STEP + 2 * MARGIN));
    lines.setAttribute("height", String(height * ROW + MARGIN));
    lines.setAttribute("aria-hidden", "true");
    const trunk = this.#ancestors();
    const items = tree.states.map((state) => this.#item(state, places, lines, trunk));
    this.node.replaceChildren(lines, ...items);
    this.node.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** The states from the root to the current one. */
  #ancestors() {
    const byId = new Map(this.tree.states.map((state) => [state.id, state]));
    const line = new Set();
    for (let state = byId.get(this.tree.current); state; state = byId.get(state.parent)) line.add(state.id);
    return line;
  }

  #item(state, places, lines, trunk) {
    const [column, row] = places.get(state.id);
    const x = MARGIN + column * STEP, y = MARGIN + row * ROW;
    if (state.parent !== null) lines.append(link(places.get(state.parent), [column, row], trunk.has(state.id)));
    const current = state.id === this.tree.current;
    const image = el("img", { alt: "", draggable: false });
    this.hooks.thumbnail(state.id).then((url) => { image.src = url; }).catch(() => {});
    const item = el("button", {
      class: `state${trunk.has(state.id) ? " on-line" : ""}`, type: "button", role: "treeitem", title: state.title,
      "aria-label": state.title, "aria-level": String(column + 1), "aria-selected": String(current),
      tabindex: current ? "0" : "-1", "data-state": String(state.id), onclick: () => this.hooks.go(state.id),
    }, image, el("span", { class: "caption" }, state.short));
    if (current) item.setAttribute("aria-current", "true");
    item.style.left = `${x}px`;
    item.style.top = `${y}px`;
    return item;
  }

  /** Arrow keys move the focus along the tree; enter goes there. */
  #key(event) {
    const state = this.tree.states.find(({ id }) => String(id) === event.target.dataset?.state);
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
    event.stopPropagation();
    this.node.querySelector(`[data-state="${next.id}"]`)?.focus();
  }
}

/** Column and row of each state: the first child stays in its parent's row, every other one opens a row below. */
export function layOut(states) {
  const children = Map.groupBy ? Map.groupBy(states, (state) => state.parent) : groupByParent(states);
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

function groupByParent(states) {
  const groups = new Map();
  for (const state of states) groups.set(state.parent, [...(groups.get(state.parent) ?? []), state]);
  return groups;
}

function link([fromColumn, fromRow], [column, row], onLine) {
  const x0 = MARGIN + fromColumn * STEP + SIZE, y0 = MARGIN + fromRow * ROW + SIZE / 2;
  const x1 = MARGIN + column * STEP, y1 = MARGIN + row * ROW + SIZE / 2;
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
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
