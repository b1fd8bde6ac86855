import { describe } from "./tides.js";

document.querySelector("#tides").textContent = describe(new Date().getHours());
