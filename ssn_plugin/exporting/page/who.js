/** Who makes the images of this page: the network that lies beside it. */

import { NetworkMaker } from "./network-maker.js";

const here = (folder) => new URL(folder, import.meta.url).href;

export const maker = new NetworkMaker(here("network/"), here("runtime/"));
