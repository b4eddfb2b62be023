/** The gallery of seeds: pick an image to start from, mark favourites, take a place from another image. */

import { $, el, icon } from "./dom.js";

const PAGE = 24;

export class Gallery {
  /**
   * @param {object} hooks  maker, start(seed, class), transplant(seed), favour(seeds), failed(error),
   *                        currentClass(): of the image that is edited
   * @param {string[]} classNames  of a conditional network
   */
  constructor(hooks, classNames) {
    this.hooks = hooks;
    fillClasses($("gallery-class"), classNames);
    $("gallery-class").addEventListener("change", () => this.#show(this.first));
    this.conditional = classNames.length > 0;
    this.first = 0;
    this.favourites = [];
    this.urls = new Map();
    this.dialog = $("gallery");
    $("gallery-next").addEventListener("click", () => this.#show(this.first + PAGE));
    $("gallery-back").addEventListener("click", () => this.#show(Math.max(0, this.first - PAGE)));
    $("gallery-seed-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const seed = Number($("gallery-seed").value);
      if (Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32) this.#pick(seed);
    });
    for (const tab of this.dialog.querySelectorAll("[data-list]")) {
      tab.addEventListener("click", () => this.#showList(tab.dataset.list));
    }
    this.dialog.addEventListener("close", () => this.loading?.abort());
  }

  /** @param {"start"|"transplant"} purpose */
  open(purpose = "start") {
    this.purpose = purpose;
    $("gallery-title").textContent = purpose === "start" ? "Start from an image" : "Take the place from another image";
    $("gallery-hint").textContent = purpose === "start"
      ? "Every seed is an image of this network. Click one to edit it; mark the ones you like."
      : "The selected place is redrawn with the latents that this image has there.";
    // What comes from another image is of this one's class.
    $("gallery-class-row").hidden = !this.conditional || purpose !== "start";
    this.dialog.showModal();
    this.#showList("all");
  }

  setFavourites(seeds) {
    this.favourites = seeds;
    this.#drawTray();
  }

  /** Of the images that are shown; null where the network has no classes. */
  get #class() {
    if (!this.conditional) return null;
    return this.purpose === "start" ? Number($("gallery-class").value) : this.hooks.currentClass();
  }

  #showList(list) {
    this.list = list;
    for (const tab of this.dialog.querySelectorAll("[data-list]")) {
      tab.setAttribute("aria-pressed", String(tab.dataset.list === list));
    }
    $("gallery-pages").hidden = list !== "all";
    this.#show(this.first);
  }

  async #show(first) {
    this.first = first;
    this.loading?.abort();
    this.loading = new AbortController();
    const { signal } = this.loading;
    const seeds = this.list === "all" ? Array.from({ length: PAGE }, (_, i) => first + i) : this.favourites;
    $("gallery-range").textContent = `${first} – ${first + PAGE - 1}`;
    $("gallery-back").disabled = first === 0;
    $("gallery-empty").hidden = seeds.length > 0;
    const tiles = seeds.map((seed) => this.#tile(seed));
    $("seeds").replaceChildren(...tiles);
    try {
      for (const [i, seed] of seeds.entries()) {
        if (signal.aborted) return;
        tiles[i].querySelector("img").src = await this.#url(seed, this.#class, signal);
        tiles[i].classList.remove("waiting");
      }
    } catch (error) {
      if (error.name !== "AbortError") this.hooks.failed(error);
    }
  }

  #tile(seed) {
    const favourite = this.favourites.includes(seed);
    const star = el("button", {
      class: "star", type: "button", "aria-pressed": String(favourite), title: "Favourite",
      "aria-label": `Seed ${seed} is a favourite`, onclick: () => this.#toggle(seed, star),
    }, icon("star"));
    return el("li", { class: "seed waiting" },
      el("button", { class: "pick", type: "button", "data-seed": String(seed), "aria-label": `Seed ${seed}`, onclick: () => this.#pick(seed) },
         el("span", { class: "picture" }, el("img", { alt: "", draggable: false })), el("span", { class: "numbers" }, `seed ${seed}`)),
      star);
  }

  #pick(seed) {
    this.dialog.close();
    if (this.purpose === "transplant") this.hooks.transplant(seed);
    else this.hooks.start(seed, this.#class);
  }

  #toggle(seed, star) {
    const now = !this.favourites.includes(seed);
    star.setAttribute("aria-pressed", String(now));
    this.favourites = now ? [...this.favourites, seed] : this.favourites.filter((other) => other !== seed);
    this.hooks.favour(this.favourites);
    this.#drawTray();
  }

  /** The favourites in the panel, to be dragged onto the image. */
  #drawTray() {
    $("tray").hidden = this.favourites.length === 0;
    $("tray-seeds").replaceChildren(...this.favourites.map((seed) => {
      const image = el("img", { alt: "", draggable: false });
      this.#url(seed, this.conditional ? this.hooks.currentClass() ?? 0 : null).then((url) => { image.src = url; }).catch(() => {});
      return el("li", {}, el("button", {
        class: "seed-chip", type: "button", draggable: true, "data-seed": String(seed), title: `Seed ${seed}: drag it onto the image, or click, to take the selected place from it`,
        "aria-label": `Take the selected place from seed ${seed}`,
        onclick: () => this.hooks.transplant(seed),
        ondragstart: (event) => event.dataTransfer.setData("text/x-seed", String(seed)),
      }, image));
    }));
  }

  async #url(seed, class_, signal) {
    const key = `${seed}/${class_}`;
    if (!this.urls.has(key)) {
      const url = URL.createObjectURL(await this.hooks.maker.seedImage(seed, class_, signal));
      this.urls.set(key, url);
      if (this.urls.size > 240) this.#dropOldest();
    }
    return this.urls.get(key);
  }

  #dropOldest() {
    const oldest = [...this.urls.keys()].find((key) => !this.favourites.includes(parseInt(key, 10)));
    URL.revokeObjectURL(this.urls.get(oldest));
    this.urls.delete(oldest);
  }
}

/** The classes of a conditional network as options of a list. */
export function fillClasses(list, names) {
  list.replaceChildren(...names.map((name, number) => el("option", { value: String(number) }, name)));
}
