/** Who makes the images of this page: the local server. A page that is exported has another file of this name. */

import { ServerMaker } from "./maker.js";

export const maker = new ServerMaker(location.hash.slice(1));   // the token in the address that the terminal showed
