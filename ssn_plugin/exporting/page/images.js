/**
 * Recipes made into images, as ssn_plugin/edits/resample.py does it: a seed, then edit by edit.
 *
 * A recipe is {seed, label, edits}, an edit has the names of the JSON that generate.py reads. Letters: L layers,
 * B blocks of all grids, bw style numbers per block, H x W pixels, C channels.
 */

import { RandomState } from "./random.js";

const BLOCK_STREAM = 1, NOISE_STREAM = 2;   // first word of a random key
const KEPT = 64;                            // renderings in memory

export class Images {
  constructor(network) {
    this.network = network;
    this.info = network.info;
    this.made = new Map();   // renderings by recipe
    const sizes = this.info.grids.map(([rows, cols]) => rows * cols);
    this.numBlocks = sizes.reduce((a, b) => a + b);
    this.firstBlocks = sizes.map((_, i) => sizes.slice(0, i).reduce((a, b) => a + b, 0));
  }

  /** {ws, noise, img, held} of a recipe. held: what the edits that keep the rest exactly put back, or null. */
  render(recipe) {
    const key = JSON.stringify([recipe.seed, recipe.label, recipe.edits]);
    const known = this.made.get(key);
    if (known) this.made.delete(key);
    const rendering = known ?? this.#render(recipe);
    this.made.set(key, rendering);
    rendering.catch(() => this.made.delete(key));
    if (this.made.size > KEPT) this.made.delete(this.made.keys().next().value);
    return rendering;
  }

  async #render(recipe) {
    if (recipe.edits.length === 0) {
      const ws = await this.network.map(this.#seedLatents(recipe.seed), recipe.label);
      return { ws, noise: null, img: await this.network.synthesise(ws, null), held: null };
    }
    const before = await this.render({ ...recipe, edits: recipe.edits.slice(0, -1) });
    return this.edit(recipe, before, recipe.edits[recipe.edits.length - 1]);
  }

  /** The image after one more edit. */
  async edit(recipe, before, edit) {
    const grid = this.#grid(edit), [, cols] = grid;
    const first = this.firstBlocks[this.info.grids.findIndex((other) => String(other) === String(grid))];
    const blocks = edit.blocks.map(([row, col]) => first + row * cols + col);
    const other = await this.network.map(this.#newLatents(recipe, edit, blocks), recipe.label);
    const ws = this.#mix(before.ws, other, edit.layers, blocks);
    const noise = edit.noise ? this.#newNoise(recipe, before.noise ?? this.network.noise, edit) : before.noise;
    const img = await this.network.synthesise(ws, noise);
    if (edit.keep_exact) {
      const kept = keepOutside(before.img, img, this.weights(edit));
      return { ws, noise, img: kept, held: kept.map((value, i) => value - img[i]) };
    }
    if (before.held === null) return { ws, noise, img, held: null };
    return { ws, noise, img: img.map((value, i) => value + before.held[i]), held: before.held };
  }

  /** Mean squared change inside the place of an edit and outside; null for a side without pixels. */
  change(before, after, edit) {
    const { channels, height, width } = this.info, area = height * width, weights = this.weights(edit);
    const sums = [0, 0], counts = [0, 0];
    for (let pixel = 0; pixel < area; pixel++) {
      const side = weights[pixel] > 0.5 ? 0 : 1;
      counts[side] += channels;
      for (let c = 0; c < channels; c++) sums[side] += (after[c * area + pixel] - before[c * area + pixel]) ** 2;
    }
    return sums.map((sum, side) => counts[side] ? sum / counts[side] : null);
  }

  /** How far each pixel belongs to the place of an edit, its feather included: [H * W] in 0..1. */
  weights(edit) {
    const { height, width } = this.info, [rows, cols] = this.#grid(edit);
    const inside = new Uint8Array(height * width);
    for (const [row, col] of edit.blocks) {
      const top = Math.floor(row * height / rows), bottom = Math.floor((row + 1) * height / rows);
      const left = Math.floor(col * width / cols), right = Math.floor((col + 1) * width / cols);
      for (let y = top; y < bottom; y++) inside.fill(1, y * width + left, y * width + right);
    }
    return feathered(inside, height, width, edit.feather ?? 0);
  }

  #grid(edit) {
    return edit.grid ?? this.info.grids[this.info.grids.length - 1];
  }

  #seedLatents(seed) {
    return new RandomState(seed).normals(this.info.z_dim);
  }

  #newLatents(recipe, edit, blocks) {
    if (edit.transplant_from !== undefined) return this.#seedLatents(edit.transplant_from);
    const z = this.#seedLatents(recipe.seed), size = this.info.z_dim / this.numBlocks;
    for (const block of blocks) {
      z.set(new RandomState([BLOCK_STREAM, recipe.seed, edit.key, block, edit.variant]).normals(size), block * size);
    }
    return z;
  }

  /** The styles with those of some blocks and layers from the other image. */
  #mix(ws, other, [first, last], blocks) {
    const { w_dim } = this.info, size = w_dim / this.numBlocks, mixed = ws.slice();
    for (let layer = first; layer <= last; layer++) {
      for (const block of blocks) {
        const at = layer * w_dim + block * size;
        mixed.set(other.subarray(at, at + size), at);
      }
    }
    return mixed;
  }

  /** Noise pixels that lie in the place by more than half are drawn anew. */
  #newNoise(recipe, noise, edit) {
    const { height, width } = this.info, weights = this.weights(edit);
    return noise.map((old, i) => {
      const { height: rows, width: cols } = this.network.noiseShapes[i];
      const drawn = new RandomState([NOISE_STREAM, recipe.seed, edit.key + 1, i, edit.variant]).normals(rows * cols);
      return old.map((value, at) => {
        const row = Math.floor(at / cols), col = at % cols;
        return areaMean(weights, height, width, row, rows, col, cols) > 0.5 ? drawn[at] : value;
      });
    });
  }
}

/** Mean of the pixels under one cell of a rows x cols map. */
function areaMean(values, height, width, row, rows, col, cols) {
  const top = Math.floor(row * height / rows), bottom = Math.ceil((row + 1) * height / rows);
  const left = Math.floor(col * width / cols), right = Math.ceil((col + 1) * width / cols);
  let sum = 0;
  for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) sum += values[y * width + x];
  return sum / ((bottom - top) * (right - left));
}

/** Soften the border outwards: half a cosine that reaches zero beyond `feather` pixels. [H * W] in 0..1 */
function feathered(inside, height, width, feather) {
  const weights = Float32Array.from(inside);
  if (feather === 0) return weights;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (inside[y * width + x]) continue;
      const distance = distanceTo(inside, height, width, y, x, feather + 1);
      const ramp = 0.5 + 0.5 * Math.cos(Math.PI * Math.min(distance / (feather + 1), 1));
      weights[y * width + x] = Math.fround(Math.round(ramp * 255) / 255);
    }
  }
  return weights;
}

/** Pixels from (x, y) to the nearest one inside, where that is less than `limit`. */
function distanceTo(inside, height, width, y, x, limit) {
  let nearest = limit * limit;
  for (let v = Math.max(0, y - limit); v <= Math.min(height - 1, y + limit); v++) {
    for (let u = Math.max(0, x - limit); u <= Math.min(width - 1, x + limit); u++) {
      const square = (u - x) ** 2 + (v - y) ** 2;
      if (square < nearest && inside[v * width + u]) nearest = square;
    }
  }
  return Math.sqrt(nearest);
}

function keepOutside(before, after, weights) {
  const area = weights.length;
  return after.map((value, i) => {
    const weight = weights[i % area];
    return weight === 0 ? before[i] : before[i] + (value - before[i]) * weight;
  });
}
