// The page of `eyespot serve`: pictures in, answers as bars. It asks nobody but this server.
"use strict";

const TOP = 5;
const HISTORY = 30;
const AT_ONCE = 2;
const LISTED = 12; // classes above the place for pictures, each with so many characters
const LONGEST = 40;
const byId = (id) => document.getElementById(id);
const queue = [];
const locked = [];
let running = 0;
let limits = { body_bytes: 32 * 1024 * 1024 };
let explains = false;

const percent = (prob) => `${hundredths(prob)}\u00a0%`;
const short = (name) => { const letters = [...name]; return letters.length > LONGEST ? `${letters.slice(0, LONGEST - 1).join("")}…` : name; };
// A right-to-left name, or one that turns text around, does not move what stands beside it in a sentence.
const isolated = (name) => `\u2068${name.replace(/[\u202a-\u202e\u2066-\u2069]/g, "\ufffd")}\u2069`;
const say = (text) => { byId("status").textContent = text; };

// As `words.percent` in Python: what is not exactly all or nothing does not look like it.
function hundredths(prob) {
  if (Math.min(Math.abs(prob), Math.abs(1 - prob)) < 1e-9) return prob < 0.5 ? "0.0" : "100.0";
  for (const digits of [1, 2, 3, 4]) {
    const text = (100 * prob).toFixed(digits);
    if (![0, 100].includes(Number(text))) return text;
  }
  return prob < 0.5 ? "<0.0001" : ">99.9999";
}

function complain(text) {
  byId("problem").replaceChildren(Object.assign(document.createElement("p"), { textContent: text }));
  byId("problem").hidden = false;
}

function headers() {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function describe() {
  let response;
  try {
    response = await fetch("v1/model", { headers: headers() });
  } catch {
    return complain("The server does not answer. Is it still running?");
  }
  if (response.status === 401) {
    if (sessionStorage.getItem("token")) complain("The server does not take this token.");
    return lock();
  }
  if (!response.ok) return complain(`The server does not say which model it has (${response.status}).`);
  const model = await response.json().catch(() => null);
  if (!model?.limits) return complain("What answers here is not eyespot's server.");
  if (!byId("locked").hidden) {
    byId("locked").hidden = true;
    byId("choose").focus();
  }
  limits = model.limits;
  explains = model.explain === true;
  queue.push(...locked.splice(0));
  work();
  for (const button of document.querySelectorAll(".answer.told-all .why")) button.hidden = !explains;
  const test = model.metrics && model.metrics.test;
  const measured = test
    ? ` ${test.flaw ? `${test.flaw}: ` : ""}${percent(test.top1)} [${test.top1_ci95.map(hundredths).join(", ")}] right on test (n = ${test.n.toLocaleString("en")}).`
    : "";
  const names = model.class_names;
  const more = names.length - LISTED;
  const some = names.slice(0, LISTED).map((name) => isolated(short(name))).join(", ") + (more > 0 ? ` and ${more.toLocaleString("en")} more` : "");
  byId("model").textContent = `Knows ${names.length.toLocaleString("en")} classes: ${some}.${measured}`;
}

function lock() {
  byId("locked").hidden = false;
  byId("token").focus();
}

function add(files) {
  const pictures = [...files];
  if (!pictures.length) return;
  byId("problem").hidden = true;
  byId("answers-title").hidden = byId("tools").hidden = false;
  for (const file of pictures) {
    const item = byId("answer").content.firstElementChild.cloneNode(true);
    const image = item.querySelector(".picture");
    const name = file.name || "pasted picture";
    item.querySelector(".name").textContent = name;
    image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth < 100));
    image.addEventListener("error", () => { image.hidden = true; });
    image.src = URL.createObjectURL(file);
    image.alt = `The picture ${name}`;
    item.classList.add("waiting");
    item.querySelector(".label").textContent = "…";
    byId("answers").prepend(item);
    const job = { file, name, item };
    item.querySelector(".why").addEventListener("click", () => why(job).catch((error) => {
      tellWhy(job, `The server could not be reached (${error.message}).`);
    }));
    queue.push(job);
  }
  forgetOld();
  say(pictures.length === 1 ? "Looking at the picture" : `Looking at ${pictures.length} pictures`);
  work();
}

async function photograph() {
  const devices = navigator.mediaDevices; // not there over http from another machine
  if (!devices || matchMedia("(pointer: coarse)").matches) return byId("camera").click(); // phones bring their own
  byId("problem").hidden = byId("photograph").disabled = true;
  try {
    byId("finder").srcObject = await devices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return complain(error.name === "NotAllowedError" ? "The camera may not be used: allow it in the browser."
      : "No camera can be used: choose a picture instead.");
  } finally {
    byId("photograph").disabled = false;
  }
  byId("viewfinder").showModal();
}

function shoot() {
  const finder = byId("finder");
  if (!finder.videoWidth) return; // the first frame is not there yet
  const canvas = Object.assign(document.createElement("canvas"), { width: finder.videoWidth, height: finder.videoHeight });
  canvas.getContext("2d").drawImage(finder, 0, 0);
  canvas.toBlob((blob) => add([new File([blob], "photograph.jpg", { type: "image/jpeg" })]), "image/jpeg", 0.95);
  byId("viewfinder").close();
}

function forgetOld() {
  const items = [...byId("answers").children];
  const answered = items.filter((item) => !item.classList.contains("waiting"));
  for (const item of answered.reverse().slice(0, Math.max(0, items.length - HISTORY))) forget(item);
}

function forget(item) {
  URL.revokeObjectURL(item.querySelector(".picture").src);
  item.remove();
}

function work() {
  while (running < AT_ONCE && queue.length) {
    const job = queue.shift();
    running += 1;
    ask(job).catch((error) => refuse(job, `The server could not be reached (${error.message}).`)).finally(() => {
      running -= 1;
      work();
    });
  }
}

async function send(job, query, tries = 0) {
  const response = await fetch(`v1/predict?${query}`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream", ...headers() },
    body: job.file,
  });
  if (response.status === 503 && tries < 5) {
    await new Promise((done) => setTimeout(done, 1000 * Math.min(10, Number(response.headers.get("Retry-After")) || 1)));
    if (job.item.isConnected) return send(job, query, tries + 1);
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return { prediction: answer.predictions[0] };
  if (response.status === 401) {
    lock();
    return { refusal: "This server asks for a token", waits: true };
  }
  const what = answer.what || `the server answered ${response.status}`;
  const told = answer.remedy ? `${what}: ${answer.remedy}` : what;
  return { refusal: /^picture 1 /.test(what) ? told.replace(/^picture 1/, "This file") : `No answer, ${told}` };
}

async function ask(job) {
  if (job.file.size > limits.body_bytes) {
    return refuse(job, `This file is larger than ${Math.floor(limits.body_bytes / 1024 / 1024)} MB`);
  }
  try {
    await job.file.slice(0, 1).arrayBuffer();
  } catch {
    return refuse(job, "This cannot be read: a folder, or a file that is no longer there");
  }
  if (!job.file.size) return refuse(job, "This file is empty");
  const { prediction, refusal, waits } = await send(job, `top_k=${TOP}`);
  if (!job.item.isConnected) return; // cleared meanwhile
  if (waits) {
    locked.push(job);
    job.item.querySelector(".label").textContent = refusal;
    return;
  }
  if (refusal) return refuse(job, refusal);
  show(job, prediction);
}

async function why(job) {
  const button = job.item.querySelector(".why");
  const map = job.item.querySelector(".map");
  if (!map.src) {
    if (button.disabled) return;
    button.disabled = true;
    tellWhy(job, "Making the heat map …");
    const { prediction, refusal } = await send(job, "explain=true").finally(() => { button.disabled = false; });
    if (refusal) return tellWhy(job, refusal);
    const { image, label, check } = prediction.heatmap;
    map.src = image;
    map.alt = `Heat map of what speaks for ${label}`;
    tellWhy(job, checked(label, check));
  }
  const shown = map.hidden;
  map.hidden = !shown;
  job.item.querySelector(".check").hidden = !shown;
  button.textContent = shown ? "Show the picture" : "Show the heat map";
}

function tellWhy(job, text) {
  const check = job.item.querySelector(".check");
  check.textContent = text;
  check.hidden = false;
}

function checked(label, check) {
  const name = isolated(label);
  if (!check) return `Nothing in this picture speaks for ${name}.`;
  const told = `With the brightest ${percent(check.covered_share)} of the picture covered, ${name} goes from `
    + `${percent(check.prob)} to ${percent(check.prob_covered)}; with as much covered elsewhere, to `
    + `${percent(check.prob_covered_elsewhere)}.`;
  return check.passed ? told : `${told} So this map says no more than a random one: do not rely on it.`;
}

function refuse(job, reason) {
  if (!job.item.isConnected) return; // cleared meanwhile
  job.item.classList.remove("waiting");
  job.item.classList.add("bad");
  job.item.querySelector(".label").textContent = reason;
  say(`${job.name}: ${reason}`);
}

function show(job, prediction) {
  const { item } = job;
  const [best] = prediction.top;
  item.classList.remove("waiting");
  item.classList.toggle("unknown", prediction.unknown === true);
  const label = item.querySelector(".label");
  const note = item.querySelector(".note");
  if (prediction.unknown) {
    label.textContent = "Unknown";
    note.textContent = `Unlike the pictures that the model was trained on; the nearest class is ${isolated(best.name)}.`;
    note.hidden = false;
  } else {
    label.textContent = best.name;
  }
  item.querySelector(".bars").replaceChildren(...prediction.top.map(bar));
  item.classList.add("told-all");
  item.querySelector(".why").hidden = !explains;
  say(`${job.name}: ${prediction.unknown ? "unknown, nearest " : ""}${isolated(best.name)}, ${percent(best.prob)}`);
}

function bar(score) {
  const row = document.createElement("li");
  const fill = Object.assign(document.createElement("span"), { className: "fill" });
  fill.style.width = `${100 * score.prob}%`;
  const name = Object.assign(document.createElement("span"), { className: "name", textContent: score.name });
  const share = Object.assign(document.createElement("span"), { className: "percent", textContent: percent(score.prob) });
  row.append(fill, name, share);
  return row;
}

const drop = byId("drop");
const isForToken = (event) => event.target === byId("token") && !event.dataTransfer.types.includes("Files");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    if (isForToken(event)) return;
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
document.addEventListener("drop", (event) => {
  if (isForToken(event)) return;
  event.preventDefault();
  drop.classList.remove("over");
  const { files } = event.dataTransfer;
  if (!files.length) return complain("That was no file: save the picture, then drop it here.");
  add(files);
});
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) {
    event.preventDefault();
    add(files);
  } else if (event.target.tagName !== "INPUT") {
    complain("There is no picture in the clipboard.");
  }
});
for (const input of ["files", "camera"]) {
  byId(input).addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = "";
  });
}
byId("choose").addEventListener("click", () => byId("files").click());
byId("photograph").addEventListener("click", photograph);
byId("shoot").addEventListener("click", shoot);
byId("leave").addEventListener("click", () => byId("viewfinder").close());
byId("viewfinder").addEventListener("close", () => {
  byId("finder").srcObject.getTracks().forEach((track) => track.stop());
  byId("finder").srcObject = null;
});
byId("clear").addEventListener("click", () => {
  queue.length = locked.length = 0;
  [...byId("answers").children].forEach(forget);
  byId("answers-title").hidden = byId("tools").hidden = byId("problem").hidden = true;
  say("Cleared");
  byId("choose").focus();
});
byId("locked").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = byId("token").value.trim();
  // No header can carry another one, so nothing would reach the server any more.
  if (!/^[\x20-\x7e]*$/.test(token)) {
    return complain("A token has printable ASCII characters only: copy it again, or type it.");
  }
  sessionStorage.setItem("token", token);
  byId("problem").hidden = true;
  describe();
});
describe();
