/** The variants of the selected place: eight tiles that fill one by one, a preview under the pointer, a click keeps. */

import { $, announce, el, icon, short } from "./dom.js";

export const BATCH = 8;
const TILE = 240;   // pixels of a tile's canvas, enough for sharp screens
const ORDERS = {
  drawn: (a, b) => a.number - b.number,
  leak: (a, b) => (a.outside ?? 0) - (b.outside ?? 0) || a.number - b.number,
  change: (a, b) => (b.inside ?? 0) - (a.inside ?? 0) || a.number - b.number,
};

export class Variants {
  /** @param {object} hooks  preview(variant or null), keep(variant), more(), current(): state */
  constructor(hooks) {
    this.hooks = hooks;
    this.list = $("variants");
    this.more = el("li", { class: "tile more" }, el("button", {
      type: "button", class: "pick", title: "Draw eight more (M)", onclick: () => hooks.more(),
    }, el("span", { class: "picture" }, icon("plus"), el("span", {}, "8 more"))));
    this.forget();
    $("sort").addEventListener("change", () => this.render());
    $("close-up").addEventListener("click", () => this.#toggleCloseUp());
    this.list.addEventListener("pointerleave", () => this.preview(null));
  }

  /**
   * Begin with the variants of a place.
   * @param {string} base  the state they start from
   * @param {number[]} frame  [left, top, side] of the square, in image pixels, that a close-up shows
   */
  begin(base, request, title, frame) {
    this.#release();
    Object.assign(this, { base, request, frame, items: [], waiting: BATCH, drawn: 0, kept: new Map(), previewed: null });
    $("variants-title").textContent = title;
    this.render();
  }

  forget() {
    this.#release();
    Object.assign(this, { base: null, request: null, frame: null, items: [], waiting: 0, drawn: 0, kept: new Map(), previewed: null });
    $("variants-title").textContent = "Variants";
    this.render();
  }

  expect(count) {
    this.waiting = count;
    this.render();
  }

  async add(variant) {
    const { request } = this;
    const item = { ...variant, bitmap: await createImageBitmap(variant.image) };
    if (request !== this.request) return;   // another place was chosen meanwhile
    item.tile = this.#tile(item);
    this.items.push(item);
    this.drawn = Math.max(this.drawn, item.number);
    this.waiting = Math.max(0, this.waiting - 1);
    this.render();
  }

  markKept(number, state) {
    this.kept.set(number, state);
    this.render();
  }

  get next() {
    return 1 + this.drawn;
  }

  get ordered() {
    return [...this.items].sort(ORDERS[$("sort").value]);
  }

  /** The nth tile as it is shown, from 0. */
  nth(index) {
    return this.ordered[index];
  }

  preview(item) {
    const shown = item && this.kept.get(item.number) === this.hooks.current() ? null : item;   // it is there already
    if (this.previewed === shown) return;
    this.previewed = shown;
    for (const { tile, number } of this.items) tile.classList.toggle("shown", number === shown?.number);
    this.hooks.preview(shown);
  }

  /** Preview the neighbour of the one shown. */
  step(direction) {
    const tiles = this.ordered;
    if (!tiles.length) return;
    const index = tiles.indexOf(this.previewed);
    const next = index < 0 ? (direction > 0 ? 0 : tiles.length - 1) : (index + direction + tiles.length) % tiles.length;
    this.preview(tiles[next]);
    announce(describe(tiles[next]));
  }

  render() {
    const ordered = this.ordered;
    ordered.forEach((item, index) => this.#update(item, index));
    const waiting = Array.from({ length: this.waiting }, () =>
      el("li", { class: "tile waiting", "aria-hidden": "true" }, el("span", { class: "picture" })));
    const canGoOn = this.drawn > 0 && !this.waiting && this.request.transplant_from === null;
    this.#arrange([...ordered.map(({ tile }) => tile), ...waiting, ...(canGoOn ? [this.more] : [])]);
    this.list.setAttribute("aria-busy", String(this.waiting > 0));
    const none = this.drawn === 0 && this.waiting === 0;
    $("variants-empty").hidden = !none;
    $("variant-options").hidden = none;
  }

  /** Put the tiles in this order without taking those that stay out of the page: they keep focus and pointer. */
  #arrange(tiles) {
    for (const tile of [...this.list.children]) if (!tiles.includes(tile)) tile.remove();
    tiles.forEach((tile, i) => {
      if (this.list.children[i] !== tile) this.list.insertBefore(tile, this.list.children[i] ?? null);
    });
  }

  #tile(item) {
    const canvas = el("canvas", { width: TILE, height: TILE, "aria-hidden": "true" });
    const button = el("button", {
      class: "pick", type: "button", "data-number": String(item.number),
      onclick: () => this.hooks.keep(item),
      onpointerenter: (event) => event.pointerType !== "touch" && this.preview(item),
      onfocus: () => button.matches(":focus-visible") && this.preview(item),
      onblur: () => this.preview(null),
    }, el("span", { class: "picture" }, canvas, el("kbd", {}), el("span", { class: "kept" }, icon("check"))),
    el("span", { class: "numbers" },
       el("span", { title: "Mean squared change inside the place, images in -1..1" }, short(item.inside)),
       item.outside === null ? null
         : el("span", { class: "leak", title: "Mean squared change outside the place: what leaks" }, short(item.outside))));
    const tile = el("li", { class: "tile" }, button);
    Object.assign(item, { canvas, button });
    this.#draw(item);
    return tile;
  }

  #update(item, index) {
    const kept = this.kept.has(item.number);
    item.tile.classList.toggle("is-kept", kept);
    item.button.setAttribute("aria-label", `${describe(item)}${kept ? ", kept" : ""}. Keep`);
    const key = item.button.querySelector("kbd");
    key.hidden = index > 8;
    key.textContent = String(index + 1);
  }

  /** The place enlarged with a little around it, or the whole image. */
  #draw({ canvas, bitmap }) {
    const pen = canvas.getContext("2d");
    const [left, top, side] = this.#closeUp ? this.frame : wholeFrame(bitmap);
    pen.clearRect(0, 0, TILE, TILE);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, left, top, side, side, 0, 0, TILE, TILE);
  }

  get #closeUp() {
    return $("close-up").getAttribute("aria-pressed") === "true" && this.frame !== null;
  }

  #toggleCloseUp() {
    const pressed = $("close-up").getAttribute("aria-pressed") === "true";
    $("close-up").setAttribute("aria-pressed", String(!pressed));
    for (const item of this.items) this.#draw(item);
  }

  #release() {
    for (const item of this.items ?? []) item.bitmap.close();
  }
}

function wholeFrame({ width, height }) {
  const side = Math.max(width, height);
  return [(width - side) / 2, (height - side) / 2, side];
}

function describe(item) {
  const leak = item.outside === null ? "" : `, ${short(item.outside)} outside`;
  return `Variant ${item.number}, change ${short(item.inside)} inside${leak}`;
}
