/** Where the image lies on the stage: zoom and pan, and the way from pointer to pixel and back. */

const MAX_ZOOM = 64;   // screen pixels per image pixel, beyond the size that fits
const MARGIN = 28;

export class View {
  constructor(width, height) {
    Object.assign(this, { width, height, stageWidth: 1, stageHeight: 1, zoom: 1, x: 0, y: 0 });
  }

  /** Screen pixels per image pixel. */
  get scale() {
    return this.fitScale * this.zoom;
  }

  get fitScale() {
    const margin = Math.min(MARGIN, this.stageWidth * 0.04);
    return Math.max(0.01, Math.min((this.stageWidth - 2 * margin) / this.width,
                                   (this.stageHeight - 2 * margin) / this.height));
  }

  /** Top left corner of the image on the stage. */
  get left() {
    return this.stageWidth / 2 + this.x - this.width * this.scale / 2;
  }

  get top() {
    return this.stageHeight / 2 + this.y - this.height * this.scale / 2;
  }

  resize(stageWidth, stageHeight) {
    Object.assign(this, { stageWidth, stageHeight });
    this.#settle();
  }

  /** Stage coordinates -> image coordinates, in pixels with fractions. */
  toImage(x, y) {
    return [(x - this.left) / this.scale, (y - this.top) / this.scale];
  }

  toStage(x, y) {
    return [this.left + x * this.scale, this.top + y * this.scale];
  }

  /** Zoom by a factor while the image point under (x, y) stays there. */
  zoomAt(factor, x = this.stageWidth / 2, y = this.stageHeight / 2) {
    const [u, v] = this.toImage(x, y);
    this.zoom = Math.min(MAX_ZOOM, Math.max(1, this.zoom * factor));
    const [newX, newY] = this.toStage(u, v);
    this.pan(x - newX, y - newY);
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.#settle();
  }

  fit() {
    Object.assign(this, { zoom: 1, x: 0, y: 0 });
  }

  /** The image never leaves the stage: at least its middle half stays reachable. */
  #settle() {
    const reach = (size, stage) => Math.max(0, (size * this.scale - stage) / 2 + Math.min(stage, size * this.scale) / 4);
    const limitX = this.zoom === 1 ? 0 : reach(this.width, this.stageWidth);
    const limitY = this.zoom === 1 ? 0 : reach(this.height, this.stageHeight);
    this.x = Math.max(-limitX, Math.min(limitX, this.x));
    this.y = Math.max(-limitY, Math.min(limitY, this.y));
  }
}
