/** A picture of the owner: choose a file, frame a part, watch it being found in the network. */

import { $, announce, el, short } from "./dom.js";
import { fillClasses } from "./gallery.js";

const LARGEST_FILE = 32 * 2 ** 20;   // bytes

export class PictureDialog {
  /**
   * @param {object} hooks  maker, found(tree), failed(error)  @param {number} aspect  width / height of the images
   * @param {string[]} classNames  of a conditional network
   */
  constructor(hooks, aspect, classNames) {
    Object.assign(this, { hooks, aspect, file: null, bitmap: null, frame: null });
    fillClasses($("picture-class"), classNames);
    $("picture-class-row").hidden = !classNames.length;
    this.dialog = $("picture");
    this.canvas = $("crop");
    $("picture-file").addEventListener("change", () => this.take($("picture-file").files[0]));
    $("picture-find").addEventListener("click", () => this.#find());
    $("picture-cancel").addEventListener("click", () => this.searching?.abort());
    $("picture-other").addEventListener("click", () => this.#showStep("choose"));
    $("crop-size").addEventListener("input", () => this.#resizeFrame(Number($("crop-size").value) / 100));
    this.dialog.addEventListener("close", () => this.searching?.abort());
    this.#listenToDrops();
    this.#listenToFrame();
  }

  open(file = null) {
    this.#showStep("choose");
    if (!this.dialog.open) this.dialog.showModal();
    if (file) this.take(file);
  }

  /** A file was chosen or dropped. */
  async take(file) {
    $("picture-file").value = "";
    if (!file) return;
    $("picture-fault").hidden = true;
    if (file.size > LARGEST_FILE) return this.#fault(`${file.name} is larger than ${LARGEST_FILE / 2 ** 20} MB.`);
    try {
      this.bitmap?.close();
      this.bitmap = await createImageBitmap(file);
    } catch {
      this.bitmap = null;
      return this.#fault(`${file.name} is not a picture that this browser can read.`);
    }
    this.file = file;
    $("crop-size").value = "100";
    this.frame = { x: this.bitmap.width / 2, y: this.bitmap.height / 2, width: this.#widest };
    this.#showStep("frame");
    this.#draw();
    this.canvas.focus();
  }

  get #widest() {
    return Math.min(this.bitmap.width, this.bitmap.height * this.aspect);
  }

  /** What the picture shows; null where the network has no classes. */
  get #class() {
    return $("picture-class-row").hidden ? null : Number($("picture-class").value);
  }

  #fault(text) {
    $("picture-fault").textContent = text;
    $("picture-fault").hidden = false;
    announce(text);
  }

  #showStep(step) {
    this.dialog.dataset.step = step;
    for (const part of this.dialog.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== step;
  }

  // The frame: the part of the picture that is looked for, in pixels of the picture.

  #resizeFrame(share) {
    this.frame.width = Math.max(8, this.#widest * share);
    this.#moveFrame(0, 0);
  }

  #moveFrame(dx, dy) {
    const { frame, bitmap, aspect } = this, halfWidth = frame.width / 2, halfHeight = frame.width / aspect / 2;
    frame.x = Math.max(halfWidth, Math.min(bitmap.width - halfWidth, frame.x + dx));
    frame.y = Math.max(halfHeight, Math.min(bitmap.height - halfHeight, frame.y + dy));
    this.#draw();
  }

  /** [left, top, right, bottom] in whole pixels. */
  get box() {
    const { frame, bitmap, aspect } = this, height = frame.width / aspect;
    const left = Math.max(0, Math.round(frame.x - frame.width / 2)), top = Math.max(0, Math.round(frame.y - height / 2));
    return [left, top, Math.min(bitmap.width, left + Math.max(1, Math.round(frame.width))),
            Math.min(bitmap.height, top + Math.max(1, Math.round(height)))];
  }

  #draw() {
    const { canvas, bitmap } = this;
    const scale = Math.min(canvas.parentElement.clientWidth / bitmap.width, 380 / bitmap.height);
    const ratio = Math.min(3, window.devicePixelRatio || 1);
    canvas.style.width = `${bitmap.width * scale}px`;
    canvas.style.height = `${bitmap.height * scale}px`;
    canvas.width = Math.max(1, Math.round(bitmap.width * scale * ratio));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale * ratio));
    const pen = canvas.getContext("2d"), [left, top, right, bottom] = this.box.map((side) => side * scale * ratio);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    pen.fillStyle = "rgb(0 0 0 / 55%)";
    pen.beginPath();
    pen.rect(0, 0, canvas.width, canvas.height);
    pen.rect(left, top, right - left, bottom - top);
    pen.fill("evenodd");
    pen.strokeStyle = "#fff";
    pen.lineWidth = 2 * ratio;
    pen.strokeRect(left + ratio, top + ratio, right - left - 2 * ratio, bottom - top - 2 * ratio);
    this.scale = scale;
  }

  #listenToFrame() {
    const { canvas } = this;
    let last = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      last = [event.clientX, event.clientY];
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      this.#moveFrame((event.clientX - last[0]) / this.scale, (event.clientY - last[1]) / this.scale);
      last = [event.clientX, event.clientY];
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#sizeBy(event.deltaY < 0 ? 5 : -5);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
      const size = { "+": 5, "=": 5, "-": -5 }[event.key];
      if (!step && !size) return;
      event.preventDefault();
      if (step) this.#moveFrame(step[0] * this.frame.width / 32, step[1] * this.frame.width / 32);
      else this.#sizeBy(size);
    });
    new ResizeObserver(() => this.dialog.dataset.step === "frame" && this.bitmap && this.#draw())
      .observe(canvas.parentElement);
  }

  #sizeBy(percent) {
    const slider = $("crop-size");
    slider.value = String(Number(slider.value) + percent);
    this.#resizeFrame(Number(slider.value) / 100);
  }

  #listenToDrops() {
    const zone = $("drop-zone");
    const hasFile = (event) => [...event.dataTransfer.types].includes("Files");
    for (const name of ["dragenter", "dragover"]) {
      document.addEventListener(name, (event) => {
        if (!hasFile(event)) return;
        event.preventDefault();
        zone.classList.add("over");
      });
    }
    document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) zone.classList.remove("over"); });
    document.addEventListener("drop", (event) => {
      if (!hasFile(event)) return;
      event.preventDefault();
      zone.classList.remove("over");
      if (!this.searching) this.open(event.dataTransfer.files[0]);
    });
  }

  // The search

  async #find() {
    this.#showStep("search");
    const [left, top, right, bottom] = this.box;
    const target = $("search-target"), reached = $("search-reached");
    this.#drawOn(target, this.bitmap, left, top, right - left, bottom - top);
    reached.getContext("2d").clearRect(0, 0, reached.width, reached.height);
    $("search-progress").removeAttribute("value");
    $("search-words").textContent = "Looking for a start …";
    const searching = this.searching = new AbortController();
    try {
      const options = { name: this.file.name, box: this.box, likeness: $("likeness").value, class: this.#class };
      for await (const event of this.hooks.maker.find(this.file, options, searching.signal)) {
        if (event.tree) return this.#found(event.tree);
        const bitmap = await createImageBitmap(event.image);
        this.#drawOn(reached, bitmap, 0, 0, bitmap.width, bitmap.height);
        $("search-progress").value = event.step / event.steps;
        $("search-words").textContent = `Step ${event.step} of ${event.steps} · distance ${short(event.distance)}`;
      }
    } catch (error) {
      this.#showStep("frame");
      if (error.name !== "AbortError" && !searching.signal.aborted) this.#fault(error.message);
    } finally {
      this.searching = null;
    }
  }

  #found(tree) {
    this.searching = null;
    this.dialog.close();
    this.hooks.found(tree, this.file);
  }

  #drawOn(canvas, image, ...part) {
    canvas.width = 320;
    canvas.height = Math.round(320 / this.aspect);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(image, ...part, 0, 0, canvas.width, canvas.height);
  }
}

/** The row of the export sheet that gives the photograph back; asks for the file where the page has not kept it. */
export function photographRow({ maker, state, file, keep, saved, failed }) {
  const input = el("input", { type: "file", accept: "image/*", class: "unseen", tabindex: "-1", "aria-label": "The photograph" });
  const button = el("button", { type: "button", onclick: () => file() ? give(file()) : input.click() }, "Save");
  input.addEventListener("change", () => input.files[0] && give(input.files[0]));
  async function give(chosen) {
    button.disabled = true;
    button.classList.add("busy");
    try {
      saved(`${chosen.name.replace(/\.[^.]*$/, "")}-edited.png`, await maker.photograph(state(), chosen));
      keep(chosen);
    } catch (error) {
      failed(error);
    } finally {
      button.disabled = false;
      button.classList.remove("busy");
      input.value = "";
    }
  }
  return el("li", { id: "photo-row" }, el("div", {}, el("h3", {}, "Your photograph"),
    el("p", {}, "At its full size, with the edits in it; everything else stays bit by bit.")), input, button);
}

