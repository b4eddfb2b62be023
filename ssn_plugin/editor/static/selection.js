/** The place that the next edit redraws: blocks of a grid, or a mask painted pixel by pixel. */

import { blobToBase64 } from "./bytes.js";

export class Selection {
  /** @param {number} width, height  of the image  @param {number[][]} grids  coarse to fine */
  constructor(width, height, grids) {
    Object.assign(this, { width, height, grids });
    this.finest = grids[grids.length - 1];
    this.grid = this.finest;   // the one that the chosen blocks belong to
    this.blocks = new Map();   // "row,col" -> [row, col]
    this.mask = new OffscreenCanvas(width, height);   // painted: opaque
    this.pen = this.mask.getContext("2d", { willReadFrequently: true });
    this.painted = false;
    this.feather = 0;
  }

  get kind() {
    if (this.painted) return "mask";
    return this.blocks.size ? "blocks" : "none";
  }

  clear() {
    this.blocks.clear();
    this.pen.clearRect(0, 0, this.width, this.height);
    this.painted = false;
  }

  /** The block of the finest grid under an image position, or null outside. */
  blockAt(x, y) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return null;
    const [rows, cols] = this.finest;
    return [Math.floor(y * rows / this.height), Math.floor(x * cols / this.width)];
  }

  /** [left, top, width, height] in image pixels. */
  cell([row, col], [rows, cols] = this.grid) {
    const left = Math.floor(col * this.width / cols), top = Math.floor(row * this.height / rows);
    return [left, top, Math.floor((col + 1) * this.width / cols) - left, Math.floor((row + 1) * this.height / rows) - top];
  }

  useGrid(grid) {
    if (String(grid) !== String(this.grid)) this.blocks.clear();
    this.grid = grid;
  }

  has(block) {
    return this.blocks.has(String(block));
  }

  add(block) {
    this.#forgetMask();
    this.blocks.set(String(block), block);
  }

  remove(block) {
    this.blocks.delete(String(block));
  }

  only(block) {
    this.blocks.clear();
    this.add(block);
  }

  /** A stroke from one image position to the next; diameter in image pixels. */
  stroke(from, to, diameter, erase) {
    this.#beginMask();
    const pen = this.pen;
    pen.globalCompositeOperation = erase ? "destination-out" : "source-over";
    pen.strokeStyle = pen.fillStyle = "#fff";
    pen.lineCap = pen.lineJoin = "round";
    pen.lineWidth = diameter;
    pen.beginPath();
    if (from[0] === to[0] && from[1] === to[1]) {
      pen.arc(to[0], to[1], diameter / 2, 0, 2 * Math.PI);
      pen.fill();
    } else {
      pen.moveTo(...from);
      pen.lineTo(...to);
      pen.stroke();
    }
    pen.globalCompositeOperation = "source-over";
    this.painted = erase ? this.share() > 0 : true;
  }

  /** Fill the outline of a lasso. */
  fill(points) {
    if (points.length < 3) return;
    this.#beginMask();
    this.pen.fillStyle = "#fff";
    this.pen.beginPath();
    points.forEach((point, i) => (i ? this.pen.lineTo(...point) : this.pen.moveTo(...point)));
    this.pen.closePath();
    this.pen.fill();
    this.painted = this.share() > 0;
  }

  /** How much of the image is painted, 0..1. */
  share() {
    const { data } = this.pen.getImageData(0, 0, this.width, this.height);
    let sum = 0;
    for (let i = 3; i < data.length; i += 4) sum += data[i];
    return sum / (255 * this.width * this.height);
  }

  /** A square around the place with a little more: [left, top, side] in image pixels. Null when it shows everything. */
  frame() {
    const [left, top, right, bottom] = this.#bounds();
    const side = 1.5 * Math.max(right - left, bottom - top, 4);
    if (side >= Math.min(this.width, this.height)) return null;
    const at = (from, to, size) => Math.max(0, Math.min(size - side, (from + to - side) / 2));
    return [at(left, right, this.width), at(top, bottom, this.height), side];
  }

  /** [left, top, right, bottom] of all that is chosen. */
  #bounds() {
    const cells = [...this.blocks.values()].map((block) => this.cell(block));
    const { data } = this.pen.getImageData(0, 0, this.width, this.height);
    if (this.painted) {
      for (let i = 0; i < this.width * this.height; i++) {
        if (data[4 * i + 3] > 127) cells.push([i % this.width, Math.floor(i / this.width), 1, 1]);
      }
    }
    return cells.reduce(([left, top, right, bottom], [x, y, width, height]) =>
      [Math.min(left, x), Math.min(top, y), Math.max(right, x + width), Math.max(bottom, y + height)],
      [this.width, this.height, 0, 0]);
  }

  /** In words, for the panel and for screen readers. */
  describe() {
    if (this.kind === "none") return "";
    if (this.kind === "mask") {
      const percent = 100 * this.share();
      return `Painted: ${percent < 1 ? "under 1" : Math.round(percent)} % of it`;
    }
    const [rows, cols] = this.grid;
    if (rows * cols === 1) return "Global code";
    const blocks = [...this.blocks.values()];
    if (blocks.length === rows * cols) return "All blocks";
    if (blocks.length > 3) return `${blocks.length} blocks`;
    return `${blocks.length > 1 ? "Blocks" : "Block"} ${blocks.map(([r, c]) => `(${r}, ${c})`).join(" ")}`;
  }

  /** The place as a maker takes it. */
  async place() {
    if (this.kind === "mask") return { mask: await this.maskPng() };
    const blocks = [...this.blocks.values()].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    return { blocks, grid: this.grid };
  }

  /** The mask as base64 of a PNG of the image's size, white where painted. */
  async maskPng() {
    const flat = new OffscreenCanvas(this.width, this.height);
    const pen = flat.getContext("2d");
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, this.width, this.height);
    pen.drawImage(this.mask, 0, 0);
    return blobToBase64(await flat.convertToBlob({ type: "image/png" }));
  }

  /** Paint takes the place of blocks. */
  #beginMask() {
    if (!this.painted) this.pen.clearRect(0, 0, this.width, this.height);
    this.blocks.clear();
  }

  #forgetMask() {
    if (this.painted) this.pen.clearRect(0, 0, this.width, this.height);
    this.painted = false;
  }
}
