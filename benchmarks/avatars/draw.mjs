// Draw people that do not exist, as training images: node draw.mjs [STYLE] [COUNT] [SIDE] [FOLDER]
//
//     cd benchmarks/avatars && npm install && node draw.mjs toonHead 20000 128 ../../datasets/toonHead
//     python dataset_tool.py --source=datasets/toonHead --dest=avatars64.zip --resolution=64x64 --force-channels=3
//
// Needs Node 18 or newer. Draws some 90 images a second on one core, always the same ones for the same arguments.
// Styles whose parts lie in fixed places: toonHead (Johan Melin, CC BY 4.0), personas (Draftbit, CC BY 4.0), avataaars
// (Pablo Stanley, free for personal and commercial use). Credit the artist of what you publish.

import fs from 'node:fs';
import path from 'node:path';
import * as collection from '@dicebear/collection';
import {createAvatar} from '@dicebear/core';
import {Resvg} from '@resvg/resvg-js';

const BACKGROUNDS = ['b6e3f4', 'c0aede', 'd1d4f9', 'ffd5dc', 'ffdfbf'];

const [style = 'toonHead', count = '20000', side = '128', folder = style] = process.argv.slice(2);
if (!(style in collection)) {
  fail(`style must be one of ${Object.keys(collection).join(', ')}, got ${style}`);
}
for (const [name, value, most] of [['count', count, 1_000_000], ['side', side, 4096]]) {
  if (!(/^\d+$/.test(value) && 1 <= Number(value) && Number(value) <= most)) {
    fail(`${name} must be a number from 1 to ${most}, got ${value}`);
  }
}

fs.mkdirSync(folder, {recursive: true});
for (let i = 0; i < Number(count); i++) {
  const svg = createAvatar(collection[style], {seed: `${style}-${i}`, backgroundColor: BACKGROUNDS}).toString();
  const png = new Resvg(svg, {fitTo: {mode: 'width', value: Number(side)}}).render().asPng();
  fs.writeFileSync(path.join(folder, `${String(i).padStart(6, '0')}.png`), png);
}
console.log(`${count} images of ${side}x${side} pixels in ${folder}`);

function fail(message) {
  console.error(`Error: ${message}`);
  process.exit(2);
}
