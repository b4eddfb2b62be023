/** Ties the parts of the page together: what the user chose, and what follows from it. */

import { drawScale } from "./compare.js";
import { $, announce, toast } from "./dom.js";
import { EditList } from "./edits.js";
import { Exporting } from "./exporting.js";
import { Gallery } from "./gallery.js";
import { History, historyButtons } from "./history.js";
import { fillHelp, listen } from "./keys.js";
import { PictureDialog } from "./picture.js";
import { PAINTING, Stage } from "./stage.js";
import { BATCH, Variants } from "./variants.js";
import { maker } from "./who.js";

const PAUSE = 350;         // ms without a stroke before what is painted is drawn anew
const KEPT_IMAGES = 96;    // bitmaps and thumbnails in memory
const HINTS = {
  block: "Click a block to redraw it. Shift adds, dragging takes several.",
  brush: "Paint what to redraw.",
  eraser: "Erase what was painted.",
  lasso: "Draw a line around what to redraw.",
  restore: "Paint where the first image should come back.",
  move: "Drag to move, wheel to zoom.",
};

class App {
  constructor(maker, about) {
    Object.assign(this, { maker, about, images: new Map(), layers: "all" });
    this.stage = new Stage($("canvas"), about, {
      selecting: () => this.stopDrawing(), chosen: () => this.chosen(), moved: () => this.showView(),
      restored: (mask) => this.change(() => maker.restore(this.tree.current, mask)),
    });
    this.variants = new Variants({
      preview: (item) => this.showPreview(item), keep: (item) => this.keep(item), more: () => this.drawMore(),
      current: () => this.tree?.current,
    });
    this.history = new History({ go: (state) => this.go(state), thumbnail: async (state) => (await this.image(state)).url });
    this.gallery = new Gallery({
      maker, start: (seed, class_) => this.start(seed, class_), transplant: (seed) => this.transplant(seed),
      currentClass: () => this.#state(this.tree.current)?.class ?? null,
      favour: (seeds) => maker.favourites(seeds).catch((error) => this.failed(error)), failed: (error) => this.failed(error),
    }, about.class_names);
    this.edits = new EditList({
      drop: (number) => this.changeEdits("Taken out", () => maker.drop(this.tree.current, number)),
      move: (number, to) => this.changeEdits("Moved", () => maker.move(this.tree.current, number, to)),
    });
    this.exporting = new Exporting({
      maker, state: () => this.tree.current, picture: () => this.#state(this.tree.current)?.picture ?? null, sheet: () => this.sheet(), failed: (error) => this.failed(error),
    }, about.exports);
    if (about.can_find) {
      this.picture = new PictureDialog({ maker, found: (tree, file) => this.foundPicture(tree, file) }, about.width / about.height,
                                       about.class_names);
    }
    this.#describeNetwork();
    this.#listen();
  }

  // The session

  async show(tree) {
    this.tree = tree;
    document.body.dataset.state = tree.current === null ? "empty" : "ready";
    $("empty").hidden = tree.current !== null;
    $("open-export").disabled = tree.current === null;
    $("undo").disabled = !this.#state(tree.current)?.parent;
    $("redo").disabled = !tree.states.some(({ parent }) => parent === tree.current);
    this.gallery.setFavourites(tree.favourites);
    this.history.show(tree);
    this.edits.show(tree.edits);
    await this.showImage();
  }

  async showImage() {
    if (this.tree.current === null) return;
    const current = this.tree.current, base = this.#base();
    const [image, before] = await Promise.all([this.image(current), base === null ? null : this.image(base)]);
    if (current !== this.tree.current) return;   // went on meanwhile
    this.stage.show(image.bitmap, before?.bitmap ?? null);
    $("hold").disabled = !before;
    for (const button of document.querySelectorAll("[data-compare]")) button.disabled = !before;
    this.showCompare();
  }

  /** The state to compare with, or null. */
  #base() {
    let state = this.#state(this.tree.current);
    if (!state || state.parent === null) return null;
    if ($("base").value === "parent") return state.parent;
    while (state.parent !== null) state = this.#state(state.parent);
    return state.id;
  }

  #state(id) {
    return this.tree.states.find((state) => state.id === id);
  }

  /** {bitmap, url} of a state; those not used for long are dropped and fetched again. */
  async image(state) {
    const known = this.images.get(state);
    if (known) {
      this.images.delete(state);
      this.images.set(state, known);
      return known;
    }
    const loading = this.maker.image(state).then(decode);
    this.images.set(state, loading);
    loading.catch(() => this.images.delete(state));
    this.#dropImages();
    return loading;
  }

  #dropImages() {
    for (const [state, loading] of this.images) {
      if (this.images.size <= KEPT_IMAGES) return;
      this.images.delete(state);
      loading.then(({ url }) => URL.revokeObjectURL(url)).catch(() => {});
    }
  }

  /** Ask the maker for a change of the session and show what came of it. */
  async change(ask) {
    try {
      await this.show(await ask());
      return true;
    } catch (error) {
      this.failed(error);
      return false;
    }
  }

  async start(seed, class_ = this.about.class_names.length ? 0 : null) {
    this.forget();
    if (await this.change(() => this.maker.start(seed, class_))) announce(`Started from seed ${seed}`);
  }

  async changeEdits(said, ask) {
    this.forget();
    if (await this.change(ask)) announce(`${said}. ${this.tree.edits.length} edits`);
  }

  async foundPicture(tree, file) {
    this.forget();
    this.exporting.rememberFile(file);
    await this.show(tree);
    toast(`Found ${file.name}. Click what you would like to change.`);
  }

  async go(state) {
    if (state === this.tree.current) return;
    this.forget();
    if (await this.change(() => this.maker.go(state))) announce(`Now at ${this.#state(state).title}`);
  }

  async undo() {
    if ($("undo").disabled) return;
    this.forget();
    if (await this.change(() => this.maker.undo())) announce("Undone");
  }

  async redo() {
    if ($("redo").disabled) return;
    this.forget();
    if (await this.change(() => this.maker.redo())) announce("Redone");
  }

  // Redrawing

  /** A place is complete: draw it. After strokes of the brush wait whether another one follows. */
  chosen() {
    clearTimeout(this.pause);
    const { selection } = this.stage;
    if (selection.kind === "none") return this.forget();
    const painting = selection.kind === "mask";
    this.variants.begin(this.tree.current, null, selection.describe(), selection.frame());   // the old ones are history
    this.showFeather();
    this.pause = setTimeout(() => this.draw(), painting ? PAUSE : 0);
  }

  async draw(transplantFrom = null) {
    this.stopDrawing();
    const { selection } = this.stage;
    if (this.tree.current === null || selection.kind === "none") return;
    const title = selection.describe(), turn = this.turn;
    const request = { ...await selection.place(), ...this.options(), transplant_from: transplantFrom };
    if (turn !== this.turn) return;   // another place was chosen meanwhile
    if (transplantFrom !== null) request.noise = false;   // its noise stays
    this.variants.begin(this.tree.current, request,
                        transplantFrom === null ? title : `${title} from seed ${transplantFrom}`, selection.frame());
    if (transplantFrom !== null) this.variants.expect(1);
    await this.#receive(1, transplantFrom === null ? BATCH : 1);
  }

  drawMore() {
    if (!this.variants.drawn || this.variants.waiting || this.variants.request.transplant_from !== null) return;
    const first = this.variants.next;
    this.variants.expect(BATCH);
    return this.#receive(first, BATCH);
  }

  async #receive(first, count) {
    this.drawing = new AbortController();
    const { signal } = this.drawing;
    const { base, request } = this.variants, limit = request.transplant_from === null ? this.leakLimit() : null;
    let found = 0;
    try {
      const lines = limit === null ? this.maker.variants(base, request, first, count, signal)
        : this.maker.best(base, request, first, count, limit, signal);
      for await (const line of lines) {
        if (signal.aborted) return;
        if (line.image) await this.variants.add(line);
        found += line.image ? 1 : 0;
        if (line.drawn) this.#showDraws(first, line.drawn, found);
      }
      announce(`${found} ${found === 1 ? "variant" : "variants"} of ${this.stage.selection.describe()}`);
    } catch (error) {
      if (error.name !== "AbortError") this.failed(error);
    } finally {
      if (!signal.aborted) this.variants.expect(0);
    }
  }

  /** The largest change of the outside that a variant may have, or null for any. */
  leakLimit() {
    const { value, valueAsNumber } = $("max-leak");
    return value !== "" && valueAsNumber >= 0 ? valueAsNumber : null;
  }

  #showDraws(first, drawn, found) {
    this.variants.drawn = first - 1 + drawn;
    $("leak-note").textContent = `${found} of ${drawn} draws`;
  }

  stopDrawing() {
    this.turn = (this.turn ?? 0) + 1;
    $("leak-note").textContent = "";
    clearTimeout(this.pause);
    this.drawing?.abort();
    this.stage.showPreview(null);
    $("badge").hidden = true;
  }

  /** Nothing is selected and no variant shown. */
  forget() {
    this.stopDrawing();
    this.stage.selection.clear();
    this.variants.forget();
    this.stage.draw();
  }

  options() {
    const ranges = this.about.layers;
    const custom = [Number($("layer-first").value), Number($("layer-last").value)];
    const exact = $("keep-exact").checked, painted = this.stage.selection.kind === "mask";
    return {
      layers: ranges[this.layers] ?? custom, noise: $("noise").checked, keep_exact: exact,
      feather: exact || painted ? Number($("feather").value) : 0,   // blocks have one only where the rest is kept
    };
  }

  /** An option changed: what is selected is drawn anew. */
  optionsChanged() {
    this.showFeather();
    if (this.stage.selection.kind !== "none") this.draw();
  }

  setLayers(name) {
    this.layers = name;
    for (const button of $("layers").children) {
      button.setAttribute("aria-pressed", String(button.dataset.layers === name));
    }
    $("custom-layers").hidden = name !== "custom";
    this.optionsChanged();
  }

  async keep(item) {
    const kept = this.variants.kept.get(item.number);
    const { base, request } = this.variants;
    this.variants.preview(null);
    const ask = () => kept ? this.maker.go(kept) : this.maker.keep(base, request, item.number);
    try {
      const tree = await ask();
      if (!this.images.has(tree.current)) this.images.set(tree.current, decode(item.image));
      this.variants.markKept(item.number, tree.current);
      this.stage.spent = true;
      await this.show(tree);
      announce(`Kept variant ${item.number}`);
    } catch (error) {
      this.failed(error);
    }
  }

  transplant(seed) {
    if (this.stage.selection.kind === "none") {
      toast("Select a place first: what should come from that image?");
      return;
    }
    this.draw(seed);
  }

  /** The whole image: the code that all blocks share where the network has one, all blocks otherwise. */
  chooseWhole() {
    if (this.tree.current === null) return;
    const { selection } = this.stage;
    const [grid] = this.about.grids;
    selection.clear();
    selection.useGrid(grid);
    for (let row = 0; row < grid[0]; row++) for (let col = 0; col < grid[1]; col++) selection.add([row, col]);
    this.stage.draw();
    this.chosen();
  }

  sheet() {
    const { items, request } = this.variants;
    return items.length ? { request, numbers: items.map(({ number }) => number).sort((a, b) => a - b) } : null;
  }

  // What is shown

  showPreview(item) {
    this.stage.showPreview(item?.bitmap ?? null);
    $("badge").hidden = !item;
    if (item) $("badge").textContent = `Variant ${item.number}`;
    this.#showLegend();
  }

  setTool(tool) {
    if (document.querySelector(`[data-tool="${tool}"]`)?.hidden) return;
    if (tool === "block") this.stage.selection.useGrid(this.about.grids[this.about.grids.length - 1]);
    this.stage.setTool(tool);
    for (const button of document.querySelectorAll("#tools [data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    }
    $("brush-options").hidden = !PAINTING.includes(tool);
    $("stage-hint").hidden = PAINTING.includes(tool);
    $("stage-hint").textContent = HINTS[tool];
    announce(HINTS[tool]);
  }

  setCompare(mode) {
    if (!this.stage.before) return;
    this.stage.setCompare(this.stage.compare === mode ? "none" : mode);
    this.showCompare();
  }

  showCompare() {
    for (const button of document.querySelectorAll("[data-compare]")) {
      button.setAttribute("aria-pressed", String(button.dataset.compare === this.stage.compare));
    }
    this.#showLegend();
  }

  #showLegend() {
    const limit = this.stage.heatLimit;
    $("legend").hidden = limit === null;
    if (limit !== null) $("limit").textContent = `${Math.round(100 * limit)} % of the range`;
  }

  hold(down) {
    if (this.stage.holding === down || (down && !this.stage.before)) return;
    this.stage.holding = down;
    $("badge").hidden = !down;
    $("badge").textContent = $("base").value === "parent" ? "Before this edit" : "First image";
    this.stage.draw();
  }

  showView() {
    $("zoom-value").textContent = `${Math.round(100 * this.stage.view.zoom)} %`;
    $("brush-size").value = String(this.stage.brush);
    $("brush-value").textContent = `${this.stage.brush} px`;
  }

  showFeather() {
    const feather = Number($("feather").value);
    $("feather-value").textContent = `${feather} px`;
    $("feather-value").hidden = $("feather").disabled = !($("keep-exact").checked || this.stage.selection.kind === "mask");
    this.stage.selection.feather = feather;
    this.stage.draw();
  }

  failed(error) {
    if (error.gone) {
      document.querySelector("dialog[open]")?.close();   // it would cover the message
      $("gone").hidden = false;
    } else toast(error.message, "error");
    console.info(error.message);
  }

  #describeNetwork() {
    const { network, width, height, grids, layers } = this.about;
    $("network").textContent = `${network} · ${width} × ${height} · ${grids.map((grid) => grid.join("×")).join(" + ")} blocks`;
    document.title = `${network} – SSN editor`;
    $("brush-size").max = String(Math.max(8, Math.round(Math.min(width, height) / 2)));
    $("layer-first").max = $("layer-last").max = $("layer-last").value = String(layers.all[1]);
    for (const tool of ["brush", "eraser", "lasso"]) document.querySelector(`[data-tool="${tool}"]`).hidden = !this.about.can_paint;
    document.querySelector('[data-tool="restore"]').hidden = !this.about.can_restore;
    $("feather").max = String(Math.max(4, Math.round(Math.min(width, height) / 8)));
    $("open-picture").hidden = !this.about.can_find;
    if (this.about.file) $("gone-file").textContent = ` in ${this.about.file}`;
    $("gone-command").textContent = this.about.resume ?? "edit.py";
    $("history-buttons").append(...historyButtons({ undo: () => this.undo(), redo: () => this.redo() }));
    drawScale($("scale"));
    fillHelp();
    this.showView();
    this.showFeather();
    $("stage-hint").textContent = HINTS.block;
  }

  // Controls

  #listen() {
    for (const button of document.querySelectorAll("#tools [data-tool]")) {
      button.addEventListener("click", () => this.setTool(button.dataset.tool));
    }
    for (const button of document.querySelectorAll("[data-compare]")) {
      button.addEventListener("click", () => this.setCompare(button.dataset.compare));
    }
    for (const button of $("layers").children) button.addEventListener("click", () => this.setLayers(button.dataset.layers));
    const clicks = {
      "open-gallery": "gallery", "empty-start": "gallery", "open-export": "export", "open-help": "help", "open-picture": "picture", global: "global",
      transplant: "transplant", "zoom-in": "zoom:in", "zoom-out": "zoom:out", fit: "fit",
    };
    for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", () => this.act(action));
    $("brush-size").addEventListener("input", () => this.stage.setBrush(Number($("brush-size").value)));
    for (const id of ["noise", "layer-first", "layer-last", "keep-exact", "feather", "max-leak"]) $(id).addEventListener("change", () => this.optionsChanged());
    $("max-leak").addEventListener("keydown", (event) => event.key === "Escape" && $("canvas").focus());
    $("feather").addEventListener("input", () => this.showFeather());
    $("base").addEventListener("change", () => this.showImage());
    const hold = $("hold");
    hold.addEventListener("pointerdown", () => this.hold(true));
    for (const event of ["pointerup", "pointerleave", "pointercancel", "blur"]) hold.addEventListener(event, () => this.hold(false));
    hold.addEventListener("keydown", (event) => ["Enter", " "].includes(event.key) && this.hold(true));
    hold.addEventListener("keyup", () => this.hold(false));
    $("gone-retry").addEventListener("click", () => location.reload());
    listen((action) => this.act(action), (down) => this.hold(down));
    this.#listenToDrops();
    this.#arrowsInToolbar();
  }

  /** An image dropped on the stage: a seed to take the place from. */
  #listenToDrops() {
    const area = $("stage");
    const isSeed = (event) => event.dataTransfer.types.includes("text/x-seed");
    area.addEventListener("dragover", (event) => {
      if (!isSeed(event)) return;
      event.preventDefault();
      $("drop").hidden = false;
      $("drop").firstElementChild.textContent = this.stage.selection.kind === "none"
        ? "Drop it on the block that it should give" : `Take ${this.stage.selection.describe()} from it`;
    });
    area.addEventListener("dragleave", (event) => { if (!area.contains(event.relatedTarget)) $("drop").hidden = true; });
    area.addEventListener("drop", (event) => {
      $("drop").hidden = true;
      if (!isSeed(event)) return;
      event.preventDefault();
      this.#chooseUnder(event);
      this.transplant(Number(event.dataTransfer.getData("text/x-seed")));
    });
  }

  /** Where nothing is selected, what was dropped is meant for the block under the pointer. */
  #chooseUnder(event) {
    const { selection, view } = this.stage;
    if (selection.kind !== "none") return;
    const box = $("canvas").getBoundingClientRect();
    const block = selection.blockAt(...view.toImage(event.clientX - box.left, event.clientY - box.top));
    if (block) selection.only(block);
    this.stage.draw();
  }

  #arrowsInToolbar() {
    const buttons = () => [...$("tools").querySelectorAll("button:not([hidden])")];
    $("tools").addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const all = buttons();
      all[(all.indexOf(document.activeElement) + step + all.length) % all.length].focus();
    });
  }

  /** What a key or a button does. */
  act(action) {
    const [name, value] = action.split(":");
    const item = name === "keep" ? this.variants.nth(Number(value) - 1) : null;
    const deeds = {
      tool: () => this.setTool(value),
      compare: () => this.setCompare(value),
      zoom: () => this.stage.zoom(value === "in" ? 1.5 : 1 / 1.5),
      fit: () => this.stage.fit(),
      brush: () => this.stage.setBrush(this.stage.brush + (value === "larger" ? 1 : -1) * Math.max(1, this.stage.brush / 6)),
      toggle: () => $(value).offsetParent && $(value).click(),
      layers: () => this.setLayers({ all: "shape", shape: "colour" }[this.layers] ?? "all"),
      keep: () => item && this.keep(item),
      enter: () => this.variants.previewed ? this.keep(this.variants.previewed) : this.draw(),
      previous: () => this.variants.step(-1),
      next: () => this.variants.step(1),
      more: () => this.drawMore(),
      "close-up": () => $("close-up").click(),
      clear: () => this.forget(),
      global: () => this.chooseWhole(),
      transplant: () => this.stage.selection.kind === "none" ? this.transplant() : this.gallery.open("transplant"),
      leak: () => $("max-leak").select(),
      edits: () => this.edits.focus(),
      undo: () => this.undo(),
      redo: () => this.redo(),
      gallery: () => this.gallery.open("start"),
      picture: () => this.picture?.open(),
      export: () => this.tree.current !== null && this.exporting.open(),
      help: () => $("help").showModal(),
      smooth: () => { this.stage.smooth = !this.stage.smooth; this.stage.draw(); },
      base: () => { $("base").value = $("base").value === "parent" ? "root" : "parent"; this.showImage(); },
    };
    deeds[name]?.();
  }
}

async function decode(blob) {
  return { bitmap: await createImageBitmap(blob), url: URL.createObjectURL(blob) };
}

async function open() {
  try {
    const { about, tree } = await maker.session();
    const app = new App(maker, about);
    window.editor = app;   // for the console, and for tests
    await app.show(tree);
    if (tree.current === null) app.gallery.open("start");
  } catch (error) {
    document.body.dataset.state = "failed";
    const box = $("gone");
    box.hidden = false;
    box.querySelector("h2").textContent = "The editor cannot start";
    box.querySelector("p").textContent = error.message;
    console.info(error.message);
  }
}

open();
