/** The maker of a page without a server: it runs the network itself. `maker.js` describes what a maker does. */

import { MakerError } from "./maker.js";
import { Images } from "./images.js";
import { Network } from "./network.js";
import { encode, withText } from "./pictures.js";

const MAX_EDITS = 1000;
const MAX_DRAWS = 256;   // of a search for variants that leave the outside alone

export class NetworkMaker {
  /** @param {string} folder  URL of the folder with the network  @param {string} runtime  URL of that of onnxruntime-web */
  constructor(folder, runtime) {
    Object.assign(this, { folder, runtime });
    this.states = new Map();      // by id: {id, parent, recipe, label}
    this.lastChild = new Map();   // where redo goes
    this.current = null;
    this.seeds = [];
  }

  async session() {
    try {
      this.network = await Network.open(this.folder, this.runtime);
    } catch (error) {
      throw new MakerError(`The network cannot be opened: ${error.message}`);
    }
    this.info = this.network.info;
    this.images = new Images(this.network);
    this.#restore();
    const { name, sha256, height, width, channels, grids, num_ws, num_classes, page } = this.info;
    const about = {
      network: name, sha256, height, width, channels, grids, num_layers: num_ws, num_classes, layers: page.layers,
      class_names: Array.from({ length: num_classes }, (_, i) => String(i)), exports: ["png", "recipe", "command"], can_find: false, can_restore: false, can_paint: false, file: null, resume: null,
    };
    return { about, tree: this.#tree() };
  }

  async start(seed, label = null) {
    return this.#add(null, { seed, label, edits: [] }, `seed ${seed}`);
  }

  async *variants(state, request, first, count, signal) {
    const { recipe } = this.#state(state);
    const before = await this.images.render(recipe);
    for (let number = first; number < first + count; number++) {
      await new Promise((resolve) => setTimeout(resolve));   // the page stays alive between two images
      if (signal?.aborted) throw new DOMException("aborted", "AbortError");
      const edit = this.#edit(recipe, request, number);
      const { img } = await this.images.edit(recipe, before, edit);
      const [inside, outside] = this.images.change(before.img, img, edit);
      yield { number, image: await encode(img, this.info), inside, outside };
    }
  }

  async *best(state, request, first, count, maxOutside, signal) {
    let found = 0, drawn = 0;
    for await (const variant of this.variants(state, request, first, MAX_DRAWS, signal)) {
      if (variant.outside === null || variant.outside < maxOutside) {
        found++;
        yield variant;
      }
      yield { drawn: ++drawn };
      if (found === count) return;
    }
  }

  async drop(state, number) {
    const { recipe } = this.#state(state);
    return this.#add(state, { ...recipe, edits: recipe.edits.filter((_, i) => i !== number - 1) }, `without edit ${number}`);
  }

  async move(state, number, to) {
    const { recipe } = this.#state(state), edits = [...recipe.edits];
    edits.splice(to - 1, 0, ...edits.splice(number - 1, 1));
    return this.#add(state, { ...recipe, edits }, `edit ${number} as ${to}`);
  }

  async keep(state, request, number) {
    const { recipe } = this.#state(state);
    if (recipe.edits.length >= MAX_EDITS) throw new MakerError(`An image has at most ${MAX_EDITS} edits`);
    const edit = this.#edit(recipe, request, number);
    return this.#add(state, { ...recipe, edits: [...recipe.edits, edit] }, describe(edit));
  }

  async restore() {
    throw new MakerError("This page cannot brush the first image back");
  }

  async go(state) {
    this.current = this.#state(state).id;
    return this.#changed();
  }

  async undo() {
    const { id, parent } = this.#state(this.current);
    if (parent === null) throw new MakerError("There is nothing to undo");
    this.lastChild.set(parent, id);
    this.current = parent;
    return this.#changed();
  }

  async redo() {
    const children = [...this.states.values()].filter(({ parent }) => parent === this.current);
    if (!children.length) throw new MakerError("There is nothing to redo");
    this.current = this.lastChild.get(this.current) ?? children[children.length - 1].id;
    return this.#changed();
  }

  async image(state) {
    return encode((await this.images.render(this.#state(state).recipe)).img, this.info);
  }

  async seedImage(seed, label = null, signal = undefined) {
    await new Promise((resolve) => setTimeout(resolve));
    if (signal?.aborted) throw new DOMException("aborted", "AbortError");
    return encode((await this.images.render({ seed, label, edits: [] })).img, this.info);
  }

  async favourites(seeds) {
    this.seeds = [...seeds];
    return this.#changed();
  }

  async export(state, kind, options = {}) {
    const { id, recipe } = this.#state(state);
    const seed = `seed${String(recipe.seed).padStart(4, "0")}`;
    const stem = recipe.edits.length ? `${seed}-edit${recipe.edits.length}-${id}` : seed;
    const text = this.#recipeText(recipe);
    if (kind === "recipe") return { name: `${stem}-recipe.json`, blob: new Blob([text], { type: "application/json" }) };
    if (kind === "command") {
      const what = recipe.edits.length ? `--recipe=${stem}-recipe.json` : `--seeds=${recipe.seed}`;
      return { text: `python generate.py --network=${this.info.page.network} ${what} --outdir=out` };
    }
    if (kind !== "png") throw new MakerError(`This page cannot export ${kind}`);
    const png = await encode((await this.images.render(recipe)).img, this.info, options.scale);
    return { name: `${stem}${options.scale > 1 ? `-x${options.scale}` : ""}.png`, blob: await withText(png, "ssn-recipe", text) };
  }

  async *find() {
    throw new MakerError("This page cannot search for a picture");
  }

  async photograph() {
    throw new MakerError("This page cannot change photographs");
  }

  #edit(recipe, request, number) {
    if (request.mask) throw new MakerError("This page redraws blocks, not painted places");
    const finest = this.info.grids[this.info.grids.length - 1];
    const edit = { blocks: request.blocks };
    if (String(request.grid) !== String(finest)) edit.grid = request.grid;
    if (request.feather) edit.feather = request.feather;
    if (request.keep_exact) edit.keep_exact = true;
    const key = recipe.edits.reduce((next, other) => Math.max(next, other.key + 1), 0);
    Object.assign(edit, { layers: request.layers, noise: request.noise, key });
    return { ...edit, ...(request.transplant_from === null ? { variant: number } : { transplant_from: request.transplant_from }) };
  }

  /** What generate.py --recipe reads. */
  #recipeText(recipe) {
    const { name, sha256, page } = this.info;
    const data = {
      format: "ssn-recipe 2", network: { name, sha256, path: page.path, tuned: null }, seed: recipe.seed,
      class: recipe.label, truncation: 1, noise_mode: "const", latents: null, picture: null, masks: {}, arrays: {},
      edits: recipe.edits, variants: [],
    };
    const lines = Object.entries(data).map(([key, value]) => `  "${key}": ${JSON.stringify(value)}`);
    return ascii(`{\n${lines.join(",\n")}\n}\n`);
  }

  #state(id) {
    const state = this.states.get(id);
    if (!state) throw new MakerError(`There is no state ${id}`);
    return state;
  }

  #add(parent, recipe, label) {
    const id = `s${this.states.size + 1}`;
    this.states.set(id, { id, parent, recipe, label });
    if (parent !== null) this.lastChild.set(parent, id);
    this.current = id;
    return this.#changed();
  }

  #tree() {
    const states = [...this.states.values()].map(({ id, parent, recipe, label }) => {
      const number = recipe.edits.length;
      return { id, parent, title: number ? `Edit ${number}: ${label}` : label, short: label, seed: recipe.seed, class: recipe.label, picture: null };
    });
    const edits = this.current === null ? [] : this.#state(this.current).recipe.edits.map(placeAndSource);
    return { states, current: this.current, favourites: this.seeds, edits };
  }

  // The session stays in this browser.

  get #storageKey() {
    return `ssn-session-${this.info.sha256}`;
  }

  #changed() {
    const session = { states: [...this.states.values()], current: this.current, lastChild: [...this.lastChild], seeds: this.seeds };
    try {
      localStorage.setItem(this.#storageKey, JSON.stringify(session));
    } catch { /* storage is full or not allowed: the session lasts as long as the page */ }
    return this.#tree();
  }

  #restore() {
    try {
      const session = JSON.parse(localStorage.getItem(this.#storageKey) ?? "null");
      if (!session) return;
      this.states = new Map(session.states.map((state) => [state.id, state]));
      this.lastChild = new Map(session.lastChild);
      Object.assign(this, { current: session.current, seeds: session.seeds });
    } catch { /* written by another version: begin anew */ }
  }
}

/** What an edit did, in a few words. */
function describe(edit) {
  const { place, source } = placeAndSource(edit);
  return `${place} ${source}`;
}

function placeAndSource({ blocks, grid, variant, transplant_from: seed }) {
  const place = blocks.length > 8 ? `${blocks.length} blocks` : blocks.map((block) => block.join(",")).join("+");
  const source = variant === undefined ? `from seed ${seed}` : `v${String(variant).padStart(2, "0")}`;
  return { place: `${grid ? `${grid.join("x")}:` : ""}${place}`, source };
}

/** JSON in ASCII, which PNG files carry. */
function ascii(text) {
  return text.replace(/[^\x00-\x7f]/g, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
