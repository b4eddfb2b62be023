/** The difference of two images, as colours. */

/** 256 colours from near white over red to violet, lightness falling evenly: a curve through Oklab, as on our sheets. */
function makeColours() {
  const colours = new Uint8ClampedArray(256 * 3);
  for (let i = 0; i < 256; i++) {
    const t = i / 255, lightness = 0.985 - 0.8 * t, hue = (95 - 155 * t) * Math.PI / 180;
    const chroma = 0.16 * Math.sin(Math.PI * t ** 0.8) ** 0.9 || 0;
    const a = chroma * Math.cos(hue), b = chroma * Math.sin(hue);
    const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
    const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
    const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
    [4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
     -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
     -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s].forEach((linear, channel) => {
      const x = Math.min(1, Math.max(0, linear));
      colours[3 * i + channel] = 255 * (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055);
    });
  }
  return colours;
}

const COLOURS = makeColours();

/** Mean absolute difference of the channels at each pixel, 0..1, of two bitmaps of one size. */
function difference(before, after) {
  const { width, height } = after;
  const [a, b] = [before, after].map((bitmap) => {
    const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    pen.drawImage(bitmap, 0, 0, width, height);
    return pen.getImageData(0, 0, width, height).data;
  });
  const change = new Float32Array(width * height);
  for (let i = 0; i < change.length; i++) {
    const j = 4 * i;
    change[i] = (Math.abs(a[j] - b[j]) + Math.abs(a[j + 1] - b[j + 1]) + Math.abs(a[j + 2] - b[j + 2])) / 765;
  }
  return change;
}

/** @returns {{map: OffscreenCanvas, limit: number}}  the map, and the change that its darkest colour means */
export function heatMap(before, after) {
  const { width, height } = after;
  const change = difference(before, after);
  const limit = Math.max(0.02, change.reduce((most, value) => Math.max(most, value), 0));
  const map = new OffscreenCanvas(width, height);
  const pen = map.getContext("2d");
  const image = pen.createImageData(width, height);
  for (let i = 0; i < change.length; i++) {
    const k = 3 * Math.round(255 * change[i] / limit);
    image.data.set([COLOURS[k], COLOURS[k + 1], COLOURS[k + 2], 255], 4 * i);
  }
  pen.putImageData(image, 0, 0);
  return { map, limit };
}

/** The scale of the heat map, for its legend. */
export function drawScale(canvas) {
  const pen = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    const k = 3 * Math.round(255 * x / (canvas.width - 1));
    pen.fillStyle = `rgb(${COLOURS[k]}, ${COLOURS[k + 1]}, ${COLOURS[k + 2]})`;
    pen.fillRect(x, 0, 1, canvas.height);
  }
}
