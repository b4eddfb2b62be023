/**
 * Who makes images.
 *
 * The page knows nothing of networks: it asks one object, a maker, and there may be several kinds of them. This file
 * describes what a maker can do and has the one that asks the local server; who.js says which one a page has.
 *
 * Places and options of an edit travel as a request:
 *     {blocks: [[row, col], ...], grid: [rows, cols]}  or  {mask: base64 of a gray PNG of the image's size}
 *     and {layers: [first, last], noise, keep_exact, feather: pixels, transplant_from: seed or null}
 * A session is {about, tree}; a tree is {states: [{id, parent, title, short, seed, class}], current, favourites,
 * edits: [{place, source}] of the current image}. Classes are numbers, null where the network has none.
 *
 * A maker has these methods; all are asynchronous, and failures are instances of MakerError.
 *     session()                                 the network and the tree, as when the page was last open
 *     start(seed, class)                        a new image; returns the tree
 *     variants(state, request, first, count, signal)   yields {number, image: Blob, inside, outside} as they are made
 *     best(state, request, first, count, maxOutside, signal)   yields those alone that change the outside by less,
 *                                                      and {drawn} after each draw, until there are enough or it gives up
 *     keep(state, request, number)              makes a variant a state; returns the tree
 *     restore(state, mask)                      brings the first image of its line back under the mask; returns the tree
 *     drop(state, number), move(state, number, to)     an edit, counted from 1, is taken out or acts earlier or later;
 *                                                      returns the tree
 *     go(state), undo(), redo()                 returns the tree
 *     image(state), seedImage(seed, class)      Blob of a PNG
 *     favourites(seeds)                         remembers them; returns the tree
 *     export(state, kind, options)              {name, blob}, or {text} for a command line
 *     find(file, {name, box, likeness, class}, signal) searches the owner's picture; yields {step, steps, distance, image}
 *                                                      about once a second, and at last {tree}
 *     photograph(state, file)                   Blob of the owner's picture at its full size with the edits in it
 */
import { blobToBase64, pngFromBase64 } from "./bytes.js";

export class MakerError extends Error {
  /** @param {string} message  one line for people  @param {boolean} gone  is there nobody left to ask? */
  constructor(message, gone = false) {
    super(message);
    this.gone = gone;
  }
}

export class ServerMaker {
  /** @param {string} token  from the address that the terminal showed */
  constructor(token) {
    this.token = token;
  }

  session() {
    return this.#json("session");
  }

  start(seed, class_ = null) {
    return this.#json("start", { seed, class: class_ });
  }

  keep(state, request, number) {
    return this.#json("keep", { state, request, number });
  }

  restore(state, mask) {
    return this.#json("restore", { state, mask });
  }

  drop(state, number) {
    return this.#json("drop", { state, number });
  }

  move(state, number, to) {
    return this.#json("move", { state, number, to });
  }

  go(state) {
    return this.#json("go", { state });
  }

  undo() {
    return this.#json("undo", {});
  }

  redo() {
    return this.#json("redo", {});
  }

  favourites(seeds) {
    return this.#json("favourites", { seeds });
  }

  async image(state) {
    return (await this.#call(`image/${encodeURIComponent(state)}`)).blob();
  }

  async seedImage(seed, class_ = null, signal = undefined) {
    return (await this.#call(class_ === null ? `seed/${seed}` : `seed/${seed}/${class_}`, undefined, signal)).blob();
  }

  async *variants(state, request, first, count, signal) {
    for await (const line of this.#lines("variants", { state, request, first, count }, signal)) {
      yield { ...line, image: pngFromBase64(line.image) };
    }
  }

  async *best(state, request, first, count, maxOutside, signal) {
    for await (const line of this.#lines("best", { state, request, first, count, max_outside: maxOutside }, signal)) {
      yield line.image ? { ...line, image: pngFromBase64(line.image) } : line;
    }
  }

  async *find(file, options, signal) {
    const data = await blobToBase64(file);
    for await (const line of this.#lines("picture", { data, ...options }, signal)) {
      yield line.image ? { ...line, image: pngFromBase64(line.image) } : line;
    }
  }

  async photograph(state, file) {
    return (await this.#call("photo", { state, data: await blobToBase64(file), name: file.name })).blob();
  }

  async export(state, kind, options = {}) {
    const response = await this.#call("export", { state, kind, options });
    if (response.headers.get("Content-Type").startsWith("application/json")
        && !response.headers.has("Content-Disposition")) return response.json();
    const name = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition"))[1];
    return { name, blob: await response.blob() };
  }

  async #json(path, body) {
    return (await this.#call(path, body)).json();
  }

  /** GET without a body, POST with one. */
  async #call(path, body, signal) {
    const headers = { "X-SSN-Token": this.token };
    const init = { headers, signal, cache: "no-store" };
    if (body !== undefined) {
      headers["Content-Type"] = "application/json";
      Object.assign(init, { method: "POST", body: JSON.stringify(body) });
    }
    let response;
    try {
      response = await fetch(`/api/${path}`, init);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new MakerError("The editor's server does not answer. Is it still running in the terminal?", true);
    }
    if (response.ok) return response;
    const reason = await response.json().then((answer) => answer.error).catch(() => response.statusText);
    throw new MakerError(reason || `The server answered with ${response.status}`);
  }

  /** The answer line by line, each one JSON, as they arrive. */
  async *#lines(path, body, signal) {
    const response = await this.#call(path, body, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          const answer = JSON.parse(line);
          if (answer.error) throw new MakerError(answer.error);
          yield answer;
        }
      }
    } catch (error) {
      if (error instanceof MakerError || error.name === "AbortError") throw error;
      throw new MakerError("The connection to the editor's server broke off.", true);
    }
  }
}
