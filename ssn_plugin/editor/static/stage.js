/** The large image: draws it with what is selected, and turns pointer and keys into places. */

import { heatMap } from "./compare.js";
import { announce } from "./dom.js";
import { Selection } from "./selection.js";
import { View } from "./view.js";

export const PAINTING = ["brush", "eraser", "restore"];
const GRIP = 14;   // reach of the comparison's slider, in screen pixels

export class Stage {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {object} hooks  chosen(): a place is complete; selecting(): it begins to change; restored(mask, stroke);
   *                        moved(): zoom or brush changed
   */
  constructor(canvas, about, hooks) {
    Object.assign(this, {
      canvas, hooks, tool: "block", image: null, before: null, preview: null, compare: "none", holding: false,
      slider: 0.5, smooth: true, hover: null, cursor: null, keyBlock: [0, 0], lasso: null, drag: null, heat: null, spent: false,
    });
    this.view = new View(about.width, about.height);
    this.selection = new Selection(about.width, about.height, about.grids);
    this.erased = new Selection(about.width, about.height, about.grids);   // what the restoring brush goes over
    this.brush = Math.max(2, Math.round(Math.min(about.width, about.height) / 8));
    this.pointers = new Map();
    this.#listen();
    new ResizeObserver(() => this.#resize()).observe(canvas.parentElement);
  }

  setTool(tool) {
    this.tool = tool;
    this.canvas.dataset.tool = tool;
    this.cursor = null;
    this.draw();
  }

  setBrush(size) {
    const most = Math.max(this.view.width, this.view.height);
    this.brush = Math.min(most, Math.max(1, Math.round(size)));
    this.hooks.moved();
    this.draw();
  }

  show(image, before) {
    Object.assign(this, { image, before, preview: null, heat: null });
    this.draw();
  }

  showPreview(preview) {
    Object.assign(this, { preview, heat: null });
    this.draw();
  }

  setCompare(mode) {
    this.compare = mode;
    this.heat = null;
    this.draw();
  }

  zoom(factor) {
    this.view.zoomAt(factor);
    this.#viewChanged();
  }

  fit() {
    this.view.fit();
    this.#viewChanged();
  }

  /** Largest change of the heat map, or null when there is none to see. */
  get heatLimit() {
    return this.compare === "heat" && this.before ? this.#heat().limit : null;
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.#paint();
    });
  }

  // Drawing

  #paint() {
    const { canvas, view } = this;
    const ratio = canvas.width / view.stageWidth;
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, view.stageWidth, view.stageHeight);
    if (!this.image) return;
    this.ink = getComputedStyle(canvas).getPropertyValue("--mark").trim() || "#e6005c";
    const shown = this.preview ?? this.image;
    pen.imageSmoothingEnabled = this.smooth;
    pen.imageSmoothingQuality = "high";
    this.#drawImage(pen, this.holding && this.before ? this.before : shown);
    if (!this.holding && this.before) {
      if (this.compare === "heat") this.#drawImage(pen, this.#heat().map);
      if (this.compare === "slider") this.#drawSlider(pen);
    }
    if (this.holding) return;
    if (!this.preview) this.#drawTint(pen);
    this.#drawBlocks(pen);
    this.#drawCursor(pen);
  }

  #drawImage(pen, bitmap) {
    const { view } = this;
    pen.drawImage(bitmap, view.left, view.top, view.width * view.scale, view.height * view.scale);
  }

  #heat() {
    this.heat ??= heatMap(this.before, this.preview ?? this.image);
    return this.heat;
  }

  /** Left of the slider the image before, right of it the image now. */
  #drawSlider(pen) {
    const { view } = this;
    const x = view.left + this.slider * view.width * view.scale;
    pen.save();
    pen.beginPath();
    pen.rect(0, 0, x, view.stageHeight);
    pen.clip();
    this.#drawImage(pen, this.before);
    pen.restore();
    const middle = Math.min(Math.max(view.stageHeight / 2, view.top), view.top + view.height * view.scale);
    pen.strokeStyle = "#fff";
    pen.lineWidth = 2;
    pen.shadowColor = "rgb(0 0 0 / 45%)";
    pen.shadowBlur = 6;
    line(pen, x, view.top, x, view.top + view.height * view.scale);
    pen.fillStyle = "#fff";
    pen.beginPath();
    pen.arc(x, middle, GRIP, 0, 2 * Math.PI);
    pen.fill();
    pen.shadowColor = "transparent";
    pen.strokeStyle = "#333";
    pen.lineJoin = pen.lineCap = "round";
    for (const side of [-1, 1]) {
      pen.beginPath();
      pen.moveTo(x + side * 4, middle - 4);
      pen.lineTo(x + side * 8, middle);
      pen.lineTo(x + side * 4, middle + 4);
      pen.stroke();
    }
  }

  /** What is painted: a tint, with the image's own pixels still to be seen. */
  #drawTint(pen) {
    const restoring = this.tool === "restore";
    const selection = restoring ? this.erased : this.selection;
    if (!selection.painted || (this.spent && !restoring)) return;   // a kept variant is to be seen, not its mask
    const tint = new OffscreenCanvas(selection.width, selection.height);
    const brush = tint.getContext("2d");
    if (selection.feather > 0 && !restoring) brush.filter = `blur(${selection.feather / 2}px)`;
    brush.drawImage(selection.mask, 0, 0);
    brush.filter = "none";
    brush.globalCompositeOperation = "source-in";
    brush.fillStyle = restoring ? "#2f8f6b" : this.ink;
    brush.fillRect(0, 0, tint.width, tint.height);
    pen.globalAlpha = 0.5;
    this.#drawImage(pen, tint);
    pen.globalAlpha = 1;
  }

  #drawBlocks(pen) {
    const { selection } = this;
    if (selection.painted && this.tool !== "block") return;
    if (this.tool === "block" && this.hover && !this.preview) this.#drawGrid(pen);
    const selected = [...selection.blocks.values()];
    if (!selected.length) return;
    const outline = new Path2D();
    for (const block of selected) this.#traceEdges(outline, block);
    pen.lineCap = "square";
    for (const [width, style] of [[5, "rgb(255 255 255 / 90%)"], [2.5, this.ink]]) {
      pen.lineWidth = width;
      pen.strokeStyle = style;
      pen.stroke(outline);
    }
  }

  /** The edges of a selected block beyond which the neighbour is not selected. */
  #traceEdges(path, block) {
    const { selection } = this;
    const [left, top, width, height] = selection.cell(block);
    const [x0, y0] = this.view.toStage(left, top), [x1, y1] = this.view.toStage(left + width, top + height);
    const [row, col] = block;
    const edges = [
      [[row - 1, col], x0, y0, x1, y0], [[row + 1, col], x0, y1, x1, y1],
      [[row, col - 1], x0, y0, x0, y1], [[row, col + 1], x1, y0, x1, y1],
    ];
    for (const [neighbour, ...edge] of edges) {
      if (selection.has(neighbour)) continue;
      path.moveTo(edge[0], edge[1]);
      path.lineTo(edge[2], edge[3]);
    }
  }

  #drawGrid(pen) {
    const { selection, view } = this;
    const { finest } = selection;
    const lines = new Path2D();
    for (let row = 1; row < finest[0]; row++) {
      const [, y] = view.toStage(0, selection.cell([row, 0], finest)[1]);
      lines.moveTo(view.left, y);
      lines.lineTo(view.left + view.width * view.scale, y);
    }
    for (let col = 1; col < finest[1]; col++) {
      const [x] = view.toStage(selection.cell([0, col], finest)[0], 0);
      lines.moveTo(x, view.top);
      lines.lineTo(x, view.top + view.height * view.scale);
    }
    for (const [width, style] of [[2.5, "rgb(0 0 0 / 22%)"], [1, "rgb(255 255 255 / 75%)"]]) {
      pen.lineWidth = width;
      pen.strokeStyle = style;
      pen.stroke(lines);
    }
    const [left, top, width, height] = selection.cell(this.hover, finest);
    const [x, y] = view.toStage(left, top);
    pen.fillStyle = "rgb(255 255 255 / 16%)";
    pen.fillRect(x, y, width * view.scale, height * view.scale);
    if (this.byKeys) {
      pen.setLineDash([6, 5]);
      for (const [thick, style] of [[4, "rgb(0 0 0 / 55%)"], [2, "#fff"]]) {
        pen.lineWidth = thick;
        pen.strokeStyle = style;
        pen.strokeRect(x + 4, y + 4, width * view.scale - 8, height * view.scale - 8);
      }
      pen.setLineDash([]);
    }
  }

  /** The circle of the brush, or the line of the lasso. */
  #drawCursor(pen) {
    const shape = new Path2D();
    if (this.lasso) {
      this.lasso.forEach((point, i) => {
        const [x, y] = this.view.toStage(...point);
        if (i) shape.lineTo(x, y);
        else shape.moveTo(x, y);
      });
    } else if (PAINTING.includes(this.tool) && this.cursor) {
      const [x, y] = this.view.toStage(...this.cursor);
      shape.arc(x, y, Math.max(1, this.brush * this.view.scale / 2), 0, 2 * Math.PI);
    }
    for (const [width, style] of [[3, "rgb(0 0 0 / 45%)"], [1.5, "#fff"]]) {
      pen.lineWidth = width;
      pen.strokeStyle = style;
      pen.stroke(shape);
    }
  }

  // Pointer

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#cancel(event));
    canvas.addEventListener("pointerleave", () => {
      if (this.drag) return;
      Object.assign(this, { hover: null, cursor: null });
      this.draw();
    });
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => {
      if (!this.byKeys) return;
      Object.assign(this, { hover: null, byKeys: false });
      this.draw();
    });
  }

  #position(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #down(event) {
    if (!this.image) return;
    const [x, y] = this.#position(event);
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [x, y]);
    this.byKeys = false;
    if (this.pointers.size === 2) {   // two fingers zoom and pan; what the first one began is dropped
      this.drag = { kind: "pinch" };
      this.lasso = null;
      return;
    }
    const handle = this.view.left + this.slider * this.view.width * this.view.scale;
    if (event.button === 1 || this.tool === "move" || this.spaceHeld) this.drag = { kind: "pan" };
    else if (this.compare === "slider" && Math.abs(x - handle) < GRIP + 4) this.drag = { kind: "slider" };
    else if (event.button === 0) this.#beginPlace(this.view.toImage(x, y), event.shiftKey);
    this.draw();
  }

  #beginPlace(at, shift) {
    const { selection } = this;
    if (this.tool === "restore") {
      this.drag = { kind: "stroke", last: at, into: this.erased, erase: false };
      this.erased.stroke(at, at, this.brush, false);
      return;
    }
    this.#beginAfresh(shift);
    if (this.tool === "lasso") {
      this.drag = { kind: "lasso" };
      this.lasso = [at];
    } else if (PAINTING.includes(this.tool)) {
      this.drag = { kind: "stroke", last: at, into: selection, erase: this.tool === "eraser" };
      selection.stroke(at, at, this.brush, this.drag.erase);
    } else {
      this.#beginBlocks(selection.blockAt(...at), shift);
    }
  }

  /** What was chosen stays to be seen once a variant of it is kept; the next place is a new one. */
  #beginAfresh(shift) {
    this.hooks.selecting();
    if (this.spent && !shift && this.tool !== "eraser") this.selection.clear();
    this.spent = false;
  }

  #beginBlocks(block, shift) {
    const { selection } = this;
    selection.useGrid(selection.finest);
    this.drag = { kind: "blocks", remove: Boolean(block && shift && selection.has(block)) };
    if (!block) selection.clear();
    else if (!shift) selection.only(block);
    else if (this.drag.remove) selection.remove(block);
    else selection.add(block);
  }

  #move(event) {
    if (!this.image) return;
    const [x, y] = this.#position(event);
    const before = this.pointers.get(event.pointerId);
    if (before) this.pointers.set(event.pointerId, [x, y]);
    const at = this.view.toImage(x, y);
    this.cursor = at;
    this.hover = this.selection.blockAt(...at);
    this.byKeys = false;
    if (this.drag && before) this.#dragTo(at, [x, y], before);
    this.draw();
  }

  #dragTo(at, [x, y], [oldX, oldY]) {
    const { drag, selection } = this;
    if (drag.kind === "pan") {
      this.view.pan(x - oldX, y - oldY);
      this.hooks.moved();
    } else if (drag.kind === "pinch") {
      this.#pinch([x, y], [oldX, oldY]);
    } else if (drag.kind === "slider") {
      this.slider = Math.min(1, Math.max(0, at[0] / this.view.width));
    } else if (drag.kind === "lasso") {
      this.lasso.push(at);
    } else if (drag.kind === "stroke") {
      drag.into.stroke(drag.last, at, this.brush, drag.erase);
      drag.last = at;
    } else if (this.hover) {
      if (drag.remove) selection.remove(this.hover);
      else selection.add(this.hover);
    }
  }

  #pinch([x, y], [oldX, oldY]) {
    const other = [...this.pointers.values()].find(([a, b]) => a !== x || b !== y);
    if (!other || this.pointers.size !== 2) return;
    const now = Math.hypot(x - other[0], y - other[1]), was = Math.hypot(oldX - other[0], oldY - other[1]);
    this.view.pan((x - oldX) / 2, (y - oldY) / 2);
    if (was > 0) this.view.zoomAt(now / was, (x + other[0]) / 2, (y + other[1]) / 2);
    this.hooks.moved();
  }

  #up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    const { drag } = this;
    if (this.pointers.size) return;
    this.drag = null;
    if (event.pointerType === "touch") this.hover = this.cursor = null;
    if (!drag) return;
    if (drag.kind === "lasso") {
      this.selection.fill(this.lasso);
      this.lasso = null;
    }
    this.draw();
    if (drag.into === this.erased) this.#finishRestoring();
    else if (["blocks", "stroke", "lasso"].includes(drag.kind)) this.hooks.chosen();
  }

  #cancel(event) {
    this.pointers.delete(event.pointerId);
    Object.assign(this, { drag: null, lasso: null });
    this.draw();
  }

  async #finishRestoring() {
    const mask = await this.erased.maskPng();
    await this.hooks.restored(mask);
    this.erased.clear();
    this.draw();
  }

  #wheel(event) {
    event.preventDefault();
    const [x, y] = this.#position(event);
    if (PAINTING.includes(this.tool) && !event.ctrlKey && !event.metaKey) {
      this.setBrush(this.brush * (event.deltaY < 0 ? 1.15 : 1 / 1.15) + (event.deltaY < 0 ? 0.5 : -0.5));
      return;
    }
    this.view.zoomAt(Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / 240), x, y);
    this.#viewChanged();
  }

  // Keys: the arrows move a cursor over blocks or pixels, space and enter choose what is under it.

  #key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const chooses = event.key === "Enter" || event.key === " ";
    if ((!step && !chooses) || event.ctrlKey || event.metaKey || event.altKey || !this.image) return;
    event.preventDefault();
    this.byKeys = true;
    if (this.tool === "move") {
      if (step) this.view.pan(-40 * step[1], -40 * step[0]);
    } else if (this.tool === "block") {
      this.#keyOnBlocks(step, event.shiftKey);
    } else {
      this.#keyOnPixels(step, event.key);
    }
    this.draw();
  }

  #keyOnBlocks(step, shift) {
    const { selection } = this;
    const [rows, cols] = selection.finest;
    const [row, col] = this.keyBlock;
    if (step) {
      this.keyBlock = [Math.min(rows - 1, Math.max(0, row + step[0])), Math.min(cols - 1, Math.max(0, col + step[1]))];
    } else {
      this.#beginAfresh(shift);
      this.#beginBlocks([row, col], shift);
      this.drag = null;
      this.hooks.chosen();
    }
    this.hover = this.keyBlock;
    announce(`Block row ${this.keyBlock[0]}, column ${this.keyBlock[1]}`
             + (selection.has(this.keyBlock) ? ", selected" : ""));
  }

  #keyOnPixels(step, key) {
    this.cursor ??= [this.view.width / 2, this.view.height / 2];
    if (step) {
      const stride = Math.max(1, this.brush / 2);
      this.cursor = [Math.min(this.view.width, Math.max(0, this.cursor[0] + step[1] * stride)),
                     Math.min(this.view.height, Math.max(0, this.cursor[1] + step[0] * stride))];
      announce(`Pixel ${Math.round(this.cursor[0])}, ${Math.round(this.cursor[1])}`);
    } else if (key === " ") {
      const into = this.tool === "restore" ? this.erased : this.selection;
      if (into === this.selection) this.#beginAfresh(false);
      into.stroke(this.cursor, this.cursor, this.brush, this.tool === "eraser");
    } else if (this.tool === "restore") {
      this.#finishRestoring();
    } else {
      this.hooks.chosen();
    }
  }

  #viewChanged() {
    this.hooks.moved();
    this.draw();
  }

  #resize() {
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    const ratio = Math.min(3, window.devicePixelRatio || 1);
    this.canvas.width = Math.max(1, Math.round(clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * ratio));
    this.view.resize(Math.max(1, clientWidth), Math.max(1, clientHeight));
    this.#viewChanged();
  }
}

function line(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}
