/** The exported network: latents to styles, styles to an image, in WebAssembly or on the GPU. */

export class Network {
  /** @param {string} folder  URL of the folder that has network.json  @param {string} runtime  URL of that of onnxruntime-web */
  static async open(folder, runtime) {
    const info = await (await fetch(new URL("network.json", folder))).json();
    const network = new Network(info);
    await network.#load(folder, runtime);
    return network;
  }

  constructor(info) {
    this.info = info;
    this.queue = Promise.resolve();   // one run at a time
  }

  async #load(folder, runtime) {
    const gpu = await navigator.gpu?.requestAdapter().catch(() => null);
    this.ort = await import(new URL(gpu ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs", runtime).href);
    const { env, InferenceSession } = this.ort;
    env.wasm.wasmPaths = runtime;
    env.wasm.numThreads = 1;   // more need headers that a static host rarely sends
    env.logLevel = "error";
    this.device = gpu ? "webgpu" : "wasm";
    const open = (name) => InferenceSession.create(new URL(this.info.files[name], folder).href, {
      executionProviders: gpu && name === "synthesis" ? ["webgpu", "wasm"] : ["wasm"],
    });
    this.mapping = await open("mapping");
    this.synthesis = await open("synthesis");
    const numbers = new Float32Array(await (await fetch(new URL(this.info.files.noise, folder))).arrayBuffer());
    this.noiseShapes = Object.entries(this.info.inputs.synthesis).filter(([name]) => name.startsWith("noise."))
      .map(([name, [, , height, width]]) => ({ name, height, width }));
    let at = 0;
    this.noise = this.noiseShapes.map(({ height, width }) => numbers.subarray(at, at += height * width));
  }

  /** Latents [z_dim] and a class or null to styles [L * w_dim]. */
  async map(z, label) {
    const { z_dim, num_classes } = this.info;
    const feeds = { z: this.#tensor(z, [1, z_dim]) };
    if (num_classes) feeds.c = this.#tensor(Float32Array.from({ length: num_classes }, (_, i) => Number(i === label)), [1, num_classes]);
    if ("truncation" in this.info.inputs.mapping) feeds.truncation = this.#tensor(new Float32Array([1]), []);
    return (await this.#run(this.mapping, feeds)).ws.data.slice();
  }

  /** Styles [L * w_dim] and noise maps, or null for the network's own, to an image [C * H * W] in -1..1. */
  async synthesise(ws, noise) {
    const { num_ws, w_dim } = this.info;
    const feeds = { ws: this.#tensor(ws, [1, num_ws, w_dim]) };
    this.noiseShapes.forEach(({ name, height, width }, i) => {
      feeds[name] = this.#tensor((noise ?? this.noise)[i], [1, 1, height, width]);
    });
    return (await this.#run(this.synthesis, feeds)).image.data.slice();
  }

  #tensor(data, shape) {
    return new this.ort.Tensor("float32", data, shape);
  }

  #run(session, feeds) {
    const result = this.queue.then(() => session.run(feeds));
    this.queue = result.catch(() => {});
    return result;
  }
}
