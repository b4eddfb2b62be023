/** The sheet with everything that can be taken away. */

import { $, download, toast } from "./dom.js";
import { photographRow } from "./picture.js";

export class Exporting {
  /**
   * @param {object} hooks  maker, state(), picture(): name of the owner's picture or null,
   *                        sheet(): {request, numbers} or null, failed(error)
   */
  constructor(hooks, kinds) {
    this.hooks = hooks;
    this.files = new Map();   // the owner's pictures by name, as long as the page is open
    this.dialog = $("export");
    for (const row of this.dialog.querySelectorAll("[data-kind]")) {
      row.hidden = !kinds.includes(row.dataset.kind);
      row.querySelector("button").addEventListener("click", (event) => this.#take(row.dataset.kind, event.currentTarget));
    }
    this.photo = photographRow({
      maker: hooks.maker, state: hooks.state, file: () => this.files.get(hooks.picture()), failed: hooks.failed,
      keep: (file) => this.files.set(hooks.picture(), file),
      saved: (name, blob) => { download(name, blob); toast(`Saved ${name}`); },
    });
    this.dialog.querySelector(".exports").prepend(this.photo);
  }

  async open() {
    const sheet = this.hooks.sheet();
    this.dialog.querySelector('[data-kind="sheet"] button').disabled = !sheet;
    $("sheet-note").textContent = sheet
      ? "The variants of the selected place, with their numbers." : "Select a place first: the sheet shows its variants.";
    this.photo.hidden = this.hooks.picture() === null;
    $("command").textContent = "…";
    this.dialog.showModal();
    try {
      $("command").textContent = (await this.hooks.maker.export(this.hooks.state(), "command", {})).text;
    } catch (error) {
      this.hooks.failed(error);
    }
  }

  rememberFile(file) {
    this.files.set(file.name, file);
  }

  async #take(kind, button) {
    if (kind === "command") {
      await copy($("command").textContent);
      toast("Copied the command");
      return;
    }
    const options = kind === "png" ? { scale: Number($("export-scale").value) } : kind === "sheet" ? this.hooks.sheet() : {};
    button.disabled = true;
    button.classList.add("busy");
    try {
      const { name, blob } = await this.hooks.maker.export(this.hooks.state(), kind, options);
      download(name, blob);
      toast(`Saved ${name}`);
    } catch (error) {
      this.hooks.failed(error);
    } finally {
      button.disabled = false;
      button.classList.remove("busy");
    }
  }
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {   // not allowed here: select it, so that Ctrl+C works
    getSelection().selectAllChildren($("command"));
  }
}
