/**
 * The random numbers of numpy's RandomState, whose stream is frozen: a seed gives the same image here and in
 * generate.py. MT19937 (Matsumoto, Nishimura 1998) and normals by the polar method (Marsaglia, Bray 1964).
 */

const SIZE = 624, SHIFT = 397;

export class RandomState {
  /** @param {number | number[]} seed  a number, or a list of numbers, below 2^32 */
  constructor(seed) {
    this.state = new Uint32Array(SIZE);
    if (Array.isArray(seed)) this.#fillFrom(seed);
    else this.#fill(seed);
    this.at = SIZE;
    this.spare = null;   // normals come in pairs
  }

  /** Unit normals in single precision. */
  normals(count) {
    return Float32Array.from({ length: count }, () => this.#normal());
  }

  #fill(seed) {
    const { state } = this;
    state[0] = seed;
    for (let i = 1; i < SIZE; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  }

  #fillFrom(key) {
    this.#fill(19650218);
    const { state } = this;
    let i = 1;
    const step = () => {
      if (++i < SIZE) return;
      state[0] = state[SIZE - 1];
      i = 1;
    };
    const mixed = (factor) => state[i] ^ Math.imul(state[i - 1] ^ (state[i - 1] >>> 30), factor);
    for (let k = 0; k < Math.max(SIZE, key.length); k++) {
      state[i] = mixed(1664525) + key[k % key.length] + (k % key.length);
      step();
    }
    for (let k = 1; k < SIZE; k++) {
      state[i] = mixed(1566083941) - i;
      step();
    }
    state[0] = 0x80000000;
  }

  #refill() {
    const { state } = this;
    for (let i = 0; i < SIZE; i++) {
      const bits = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + SHIFT) % SIZE] ^ (bits >>> 1) ^ (bits & 1 ? 0x9908b0df : 0);
    }
    this.at = 0;
  }

  #bits() {
    if (this.at === SIZE) this.#refill();
    let y = this.state[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** Below 1, with 53 bits. */
  #uniform() {
    const high = this.#bits() >>> 5, low = this.#bits() >>> 6;
    return (high * 67108864 + low) / 9007199254740992;
  }

  #normal() {
    if (this.spare !== null) {
      const { spare } = this;
      this.spare = null;
      return spare;
    }
    let x, y, square;
    do {
      x = 2 * this.#uniform() - 1;
      y = 2 * this.#uniform() - 1;
      square = x * x + y * y;
    } while (square >= 1 || square === 0);
    const factor = Math.sqrt(-2 * Math.log(square) / square);
    this.spare = factor * x;
    return factor * y;
  }
}
