// The page of `residual serve`: sends an image to the server, shows the classes and the evidence for them.

const TOP = 5; // classes that are shown
// Colours of a heat map by its value, as in report/explanation.py
const STOPS = [[0, 70, 130, 240], [0.35, 40, 220, 190], [0.6, 235, 220, 60], [0.8, 250, 130, 30], [1, 190, 20, 20]];
const RAMP = Array.from({ length: 256 }, (_, value) => ramp(value));

const at = (id) => document.getElementById(id);
const percent = (share) => (share < 0.001 ? "<\u00a00.1\u00a0%" : `${(100 * share).toFixed(1)}\u00a0%`);
const count = (number) => number.toLocaleString("en");

let started; // a promise: models and limits are known, or the page has said why not
let models = []; // as GET /model describes them
let limits = {}; // of a request, as GET /limits has them
let token = ""; // kept in memory only
let file = null; // the image that was chosen last
let heats = []; // a canvas for each class of the result; null where no place speaks for it
let request = new AbortController(); // of the image that is being classified
let preview = ""; // an object URL

// ---- the server

/** An error for the user; `retry` tells whether trying again may help. */
const problem = (message, retry = false) => Object.assign(new Error(message), { retry });

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw problem("The server does not answer. It may have been stopped, or the connection is lost.", true);
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  if (answer.status === 401) askForToken();
  throw problem(sentence(answer, content), [408, 429].includes(answer.status) || answer.status >= 500);
}

/** Say what an answer that is an error means for the user. */
function sentence(answer, content) {
  const detail = typeof content.detail === "string" ? content.detail : `the server failed with status ${answer.status}`;
  const seconds = Number(answer.headers.get("Retry-After"));
  switch (answer.status) {
    case 401: return token ? "The server does not accept this token." : "The server asks for an access token.";
    case 413: return `The image is too large: ${detail}.`;
    case 415:
    case 422: return `${file.name}: ${detail}.`;
    case 429:
    case 503: return `The server is busy. Try again ${seconds > 1 ? `in ${seconds} seconds` : "in a moment"}.`;
    default: return `${detail[0].toUpperCase()}${detail.slice(1)}.`;
  }
}

// ---- what the page says

function complain(error) {
  at("status").textContent = "";
  at("problem-text").textContent = error.message;
  at("again").hidden = !error.retry;
  at("problem").hidden = false;
  if (error.retry === undefined) throw error; // a bug in this page
}

function say(text) {
  at("problem").hidden = true;
  at("status").textContent = text;
}

function askForToken() {
  at("token-form").hidden = false;
  at("token").value = "";
  at("token").focus();
}

// ---- the model

const chosenModel = () => models.find((model) => model.name === at("model").value) ?? models[0];

async function start() {
  try {
    const [described, limited] = await Promise.all([ask("model"), ask("limits")]);
    limits = limited;
    models = described.models;
    at("model").replaceChildren(...models.map((model) => new Option(model.name, model.name)));
    at("model").value = described.default;
    at("model-choice").hidden = models.length < 2;
    at("problem").hidden = true;
    describeModel();
  } catch (error) {
    complain(error);
  }
}

function describeModel() {
  const model = chosenModel();
  const classes = model.classes.length;
  at("intro").textContent =
    `${model.name} tells ${count(classes)} classes apart` +
    (model.error === null ? "." : ` and is wrong on ${model.error.toFixed(1)} % of its test images.`);
  const [height, width] = model.image_size;
  const tested = model.images === null ? "" : `on ${count(model.images)} test images`;
  const temperature = `temperature ${Number(model.temperature.toPrecision(3))}`;
  const facts = [
    ["Error", model.error === null ? "not known" : `${model.error.toFixed(1)} %`, tested],
    ["Network", model.network, `${count(model.parameters)} parameters`],
    ["Data", model.data, ""],
    ["Image size", `${width} × ${height}`, "pixels, after resizing and cropping"],
    ["Probabilities", model.temperature === 1 ? "not calibrated" : "calibrated", temperature],
    ["Engine", model.engine, ""],
    ["Licence", model.licence, ""],
    ["Recipe", model.recipe, ""],
  ];
  at("facts").replaceChildren(...facts.filter((fact) => fact[1]).map(factElement));
  at("class-count").textContent = `All ${count(classes)} classes`;
  at("class-names").replaceChildren(...model.classes.map((name) => element("li", "", name)));
  at("about").hidden = false;
}

function factElement([title, value, note]) {
  const group = element("div", value.length > 20 ? "long" : "");
  const text = element("dd");
  text.append(element("b", "", value), element("small", "", note));
  group.append(element("dt", "", title), text);
  return group;
}

function element(kind, className = "", text = "") {
  const made = document.createElement(kind);
  made.className = className;
  made.textContent = text;
  return made;
}

// ---- an image

/** Classify the first image among files. */
function choose(files) {
  file = [...files].find((one) => one.type.startsWith("image/")) ?? files[0] ?? file;
  if (files.length) classify();
}

async function classify() {
  request.abort();
  const own = (request = new AbortController());
  try {
    say(`Classifying ${file.name} …`);
    showPreview();
    await started;
    const model = chosenModel();
    if (own.signal.aborted || !model) return; // a start that failed has said so
    if (file.size > limits.body_bytes) {
      throw problem(`The image is too large: the server takes ${Math.floor(limits.body_bytes / 1e6)} MB at most.`);
    }
    const form = new FormData();
    form.append("file", file);
    const query = new URLSearchParams({ top: TOP, model: model.name });
    const path = `${model.explain ? "explain" : "predict"}?${query}`;
    const answer = await ask(path, { method: "POST", body: form, signal: own.signal });
    const found = answer.images ? answer.images[0] : answer;
    const drawn = await Promise.all(found.predictions.map((one) => one.heatmap && colour(one.heatmap)));
    if (own.signal.aborted) return;
    heats = drawn;
    if (found.image) at("image").src = found.image;
    showClasses(found.predictions, Boolean(found.image));
  } catch (error) {
    if (own.signal.aborted) return; // another image took its place
    at("result").hidden = true;
    complain(error);
  } finally {
    if (!own.signal.aborted) document.body.classList.remove("waiting");
  }
}

function showPreview() {
  URL.revokeObjectURL(preview);
  preview = URL.createObjectURL(file);
  heats = [];
  at("image").src = preview;
  at("image").alt = file.name;
  at("heat").hidden = at("classes-group").hidden = at("evidence").hidden = at("unsure").hidden = true;
  at("caption").textContent = file.name;
  at("result").hidden = false;
  document.body.classList.add("waiting", "shown");
}

function showClasses(predictions, explained) {
  at("classes").replaceChildren(...predictions.map((one, place) => classElement(one, place, explained)));
  at("classes-title").textContent = explained ? "Likeliest classes; choose one to see its evidence" : "Likeliest classes";
  at("classes-group").hidden = false;
  at("evidence").hidden = !explained;
  at("unsure").hidden = predictions[0].probability >= 0.5;
  const [height, width] = chosenModel().image_size;
  at("caption").textContent = explained ? `What the network saw of ${file.name}: ${width} × ${height} pixels` : file.name;
  const told = predictions.slice(0, 3).map((one) => `${one.class} ${percent(one.probability)}`);
  say(`${file.name}: most likely ${told.join(", then ")}`);
  showEvidence();
}

function classElement(prediction, place, explained) {
  const row = element(explained ? "label" : "div", "class");
  if (explained) {
    const radio = element("input");
    Object.assign(radio, { type: "radio", name: "class", value: place, checked: place === 0 });
    row.append(radio);
  }
  const bar = element("span", "bar");
  bar.setAttribute("aria-hidden", "true");
  bar.append(element("i"));
  bar.firstChild.style.width = `${100 * prediction.probability}%`;
  row.append(element("span", "name", prediction.class), element("span", "chance", percent(prediction.probability)), bar);
  return row;
}

// ---- the evidence

/** Turn a grey heat map into a canvas of colours, as opaque as the map is strong; null if it is all 0. */
async function colour(url) {
  const grey = Object.assign(new Image(), { src: url });
  await grey.decode();
  const canvas = element("canvas");
  [canvas.width, canvas.height] = [grey.naturalWidth, grey.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(grey, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    pixels.data.set(RAMP[pixels.data[i]], i);
  }
  context.putImageData(pixels, 0, 0);
  return pixels.data.some((value, place) => place % 4 === 3 && value > 0) ? canvas : null;
}

/** Return red, green, blue and opacity of a value from 0 to 255. */
function ramp(value) {
  const upper = Math.max(1, STOPS.findIndex((stop) => stop[0] >= value / 255));
  const [low, high] = [STOPS[upper - 1], STOPS[upper]];
  const part = (value / 255 - low[0]) / (high[0] - low[0]);
  return [...[1, 2, 3].map((channel) => low[channel] + part * (high[channel] - low[channel])), value];
}

function showEvidence() {
  const chosen = document.querySelector("#classes input:checked");
  const name = chosen?.parentElement.querySelector(".name").textContent;
  const heat = chosen && heats[chosen.value];
  const shown = at("show").checked && !at("evidence").hidden;
  at("heat").hidden = !(shown && heat);
  at("shades").hidden = !shown;
  at("heat").style.opacity = at("strength").value / 100;
  at("evidence-note").textContent = heat
    ? "Red places speak most for the class. Each class has its own scale."
    : "No place of the image speaks for this class.";
  at("image").alt = shown && heat ? `${file.name}, with the evidence for ${name} in colours` : file.name;
  if (!heat) return;
  [at("heat").width, at("heat").height] = [heat.width, heat.height];
  at("heat").getContext("2d").drawImage(heat, 0, 0);
}

// ---- what the user does

for (const input of [at("file"), at("camera")]) {
  input.addEventListener("change", () => choose(input.files));
  input.addEventListener("click", () => (input.value = "")); // so that the same file can be chosen again
}

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  choose(event.dataTransfer.files);
  if (!event.dataTransfer.files.length) complain(problem("That was no file. Save the image, then drop its file here."));
});
document.addEventListener("paste", (event) => choose(event.clipboardData.files));

at("model").addEventListener("change", () => {
  describeModel();
  if (file) classify();
});
for (const id of ["show", "strength", "classes"]) at(id).addEventListener("input", showEvidence);
at("again").addEventListener("click", retry);
at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  at("token-form").hidden = true;
  retry();
});

function retry() {
  at("file").focus(); // what had it is hidden now
  if (!models.length) started = start();
  if (file) classify();
}

started = start();
