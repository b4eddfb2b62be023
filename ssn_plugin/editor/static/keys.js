/** One table of keys: the page obeys it, the help sheet prints it. */

import { $, el } from "./dom.js";

/** [keys as shown, what they do, test of an event, name of the action] */
export const KEYS = [
  ["Place", [
    ["B", "Choose blocks", "b", "tool:block"],
    ["P", "Paint what to redraw", "p", "tool:brush"],
    ["E", "Erase paint", "e", "tool:eraser"],
    ["L", "Lasso", "l", "tool:lasso"],
    ["R", "Brush the first image back", "r", "tool:restore"],
    ["V", "Move the image", "v", "tool:move"],
    ["[ ]", "Smaller, larger brush (or the wheel)", null, null],
    ["Arrows", "Move over blocks or pixels, when the image has the focus", null, null],
    ["Space", "Choose the block, or paint, under the keyboard's cursor", null, null],
    ["Shift", "Add to what is selected", null, null],
    ["W", "Whole image: the global code, or all blocks", "w", "global"],
    ["Esc", "Select nothing", "Escape", "clear"],
  ]],
  ["Variants", [
    ["1 – 9", "Keep a variant", null, null],
    [", .", "Show the previous, the next variant", null, null],
    ["Enter", "Keep the variant shown; else draw the place again", "Enter", "enter"],
    ["M", "Eight more", "m", "more"],
    ["I", "Close-up of the place, or whole images", "i", "close-up"],
    ["T", "Take the place from another image", "t", "transplant"],
    ["N", "Fresh noise", "n", "toggle:noise"],
    ["K", "Keep the rest exactly", "k", "toggle:keep-exact"],
    ["A", "All layers, shape, colour", "a", "layers"],
    ["Q", "Only variants that leak less than a number", "q", "leak"],
  ]],
  ["Compare", [
    ["C", "Hold to see the image before", null, null],
    ["S", "Slider", "s", "compare:slider"],
    ["D", "Difference as colours", "d", "compare:heat"],
    ["F", "Compare with the first image, or the one before", "f", "base"],
  ]],
  ["View and session", [
    ["+ −", "Zoom (or Ctrl and the wheel)", null, null],
    ["0", "Whole image", "0", "fit"],
    ["X", "Pixels sharp or smooth", "x", "smooth"],
    ["Ctrl Z", "Undo", "ctrl+z", "undo"],
    ["Ctrl Shift Z", "Redo", "ctrl+shift+z", "redo"],
    ["J", "The edits of this image: up and down, with Alt to reorder", "j", "edits"],
    ["Delete", "There, take an edit out", null, null],
    ["G", "Gallery of images to start from", "g", "gallery"],
    ["O", "Your own picture", "o", "picture"],
    ["Ctrl S", "Export", "ctrl+s", "export"],
    ["?", "This sheet", "?", "help"],
  ]],
];

const OTHERS = {
  "[": "brush:smaller", "]": "brush:larger", ",": "previous", ".": "next", "+": "zoom:in", "=": "zoom:in", "-": "zoom:out",
  "ctrl+y": "redo", "meta+z": "undo", "meta+shift+z": "redo", "meta+s": "export",
};

const ACTIONS = Object.assign(Object.create(null), OTHERS,
  ...KEYS.flatMap(([, rows]) => rows.filter(([, , key]) => key).map(([, , key, action]) => ({ [key]: action }))));

/** @param {(action: string) => void} act  @param {(down: boolean) => void} hold  for the key C */
export function listen(act, hold) {
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.defaultPrevented) return;
    const typing = event.target.closest?.("input:not([type=checkbox]):not([type=radio]):not([type=range]), textarea");
    if (typing) return;
    const action = actionOf(event);
    if (action === null) return;
    const chord = event.ctrlKey || event.metaKey;
    if (!chord && !["Escape", "Enter"].includes(event.key) && !$("single-keys").checked) return;
    if (action === "enter" && event.target.closest?.("button, select, summary, canvas, [role=treeitem]")) return;
    event.preventDefault();
    if (action !== "hold") act(action);
    else if (!event.repeat) hold(true);
  });
  document.addEventListener("keyup", (event) => event.key.toLowerCase() === "c" && hold(false));
  window.addEventListener("blur", () => hold(false));
}

function actionOf(event) {
  if (event.altKey) return null;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const chord = (event.ctrlKey ? "ctrl+" : event.metaKey ? "meta+" : "");
  if (chord) return ACTIONS[chord + (event.shiftKey ? "shift+" : "") + key] ?? null;
  if (key === "c") return "hold";
  if (/^[1-9]$/.test(key)) return `keep:${key}`;
  return ACTIONS[key] ?? null;
}

export function fillHelp() {
  $("help-keys").replaceChildren(...KEYS.map(([title, rows]) => el("section", {}, el("h3", {}, title),
    el("dl", {}, ...rows.map(([keys, text]) => el("div", {}, el("dt", {}, ...keys.split(" ").map((key) =>
      /^(–|,|\.)$/.test(key) && key === "–" ? document.createTextNode("–") : el("kbd", {}, key))), el("dd", {}, text)))))));
}
