/** Images of the network as PNG files. */

/** [C * H * W] in -1..1, C of 1, 3 or 4, to a PNG, enlarged by a whole number. */
export async function encode(img, { channels, height, width }, scale = 1) {
  const area = height * width, pixels = new ImageData(width, height);
  for (let pixel = 0; pixel < area; pixel++) {
    for (let c = 0; c < 4; c++) {
      const value = c === 3 && channels < 4 ? 1 : img[(channels === 1 ? 0 : c) * area + pixel];
      pixels.data[4 * pixel + c] = Math.max(0, Math.min(255, Math.floor(value * 127.5 + 128)));
    }
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return (scale === 1 ? canvas : enlarged(canvas, scale)).convertToBlob({ type: "image/png" });
}

function enlarged(canvas, scale) {
  const larger = new OffscreenCanvas(canvas.width * scale, canvas.height * scale);
  const pen = larger.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(canvas, 0, 0, larger.width, larger.height);
  return larger;
}

/** The PNG with a text of ASCII letters in it, which follows the header. */
export async function withText(png, keyword, text) {
  const bytes = new Uint8Array(await png.arrayBuffer());
  const content = new TextEncoder().encode(`tEXt${keyword}\0${text}`);
  const chunk = new DataView(new ArrayBuffer(content.length + 8));
  chunk.setUint32(0, content.length - 4);
  new Uint8Array(chunk.buffer).set(content, 4);
  chunk.setUint32(content.length + 4, crc32(content));
  const header = 8 + 25;   // signature and IHDR
  return new Blob([bytes.subarray(0, header), chunk.buffer, bytes.subarray(header)], { type: "image/png" });
}

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
