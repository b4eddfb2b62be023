/** The edits of the image, in the order in which they act: each can be taken out, or act earlier or later. */

import { $, announce, el, icon } from "./dom.js";

export class EditList {
  /** @param {object} hooks  drop(number), move(number, to): promises, numbers from 1 */
  constructor(hooks) {
    this.hooks = hooks;
    this.list = $("edits");
    this.list.addEventListener("keydown", (event) => this.#key(event));
  }

  /** @param {{place: string, source: string}[]} edits */
  show(edits) {
    const focused = this.#focused();
    this.count = edits.length;
    $("edits-card").hidden = edits.length === 0;
    this.list.replaceChildren(...edits.map((edit, i) => this.#row(edit, i + 1)));
    if (focused) this.focus(Math.min(this.moved ?? focused.number, edits.length), focused.deed);
    this.moved = null;
  }

  /** To the edit of this number, the newest where none is given. */
  focus(number = this.count, deed = "drop") {
    if (!number) {
      $("canvas").focus();
      announce("This image has no edits");
      return;
    }
    const row = this.list.children[number - 1];
    const wanted = row.querySelector(`[data-deed="${deed}"]`);
    (wanted.disabled ? row.querySelector('[data-deed="drop"]') : wanted).focus();
  }

  #row({ place, source }, number) {
    const name = `Edit ${number}, ${place}, ${source}`;
    return el("li", {}, el("span", { class: "number", "aria-hidden": "true" }, String(number)),
      el("span", { class: "what", title: `${place}, ${source}` }, `${place} `, el("span", {}, source)),
      this.#button("up", "up", `${name}: act earlier`, "Earlier (Alt+Up)", number === 1, () => this.#move(number, -1)),
      this.#button("down", "down", `${name}: act later`, "Later (Alt+Down)", number === this.count, () => this.#move(number, 1)),
      this.#button("drop", "close", `${name}: take out`, "Take out (Delete)", false, () => this.hooks.drop(number)));
  }

  #button(deed, image, label, title, disabled, onclick) {
    return el("button", {
      type: "button", class: "quiet icon-only", "data-deed": deed, "aria-label": label, title, disabled, onclick,
    }, icon(image));
  }

  #move(number, step) {
    const to = number + step;
    if (to < 1 || to > this.count) return;
    this.moved = to;   // the focus goes along
    this.hooks.move(number, to);
  }

  #focused() {
    const row = document.activeElement?.closest?.("#edits li");
    return row && { number: [...this.list.children].indexOf(row) + 1, deed: document.activeElement.dataset.deed };
  }

  #key(event) {
    const focused = this.#focused(), step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!focused || (!step && event.key !== "Delete")) return;
    event.preventDefault();
    event.stopPropagation();
    const next = focused.number + step;
    if (event.key === "Delete") this.hooks.drop(focused.number);
    else if (event.altKey) this.#move(focused.number, step);
    else if (next >= 1 && next <= this.count) this.focus(next, focused.deed);
  }
}
