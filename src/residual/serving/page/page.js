// The page of `residual serve`: sends an image to the server, shows the classes and the evidence for them.

const TOP = 5; // classes that are shown
const UNSURE = 0.5; // probability below which the page says that the model is unsure
// Colours of a heat map by its value, as in report/explanation.py
const STOPS = [[0, 70, 130, 240], [0.35, 40, 220, 190], [0.6, 235, 220, 60], [0.8, 250, 130, 30], [1, 190, 20, 20]];
const RAMP = Array.from({ length: 256 }, (_, value) => ramp(value));

const at = (id) => document.getElementById(id);
const percent = (share) => (share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);
const count = (number) => number.toLocaleString("en");

let models = []; // as GET /model describes them
let limits = {}; // as GET /limits does
let token = ""; // kept in memory only
let file = null; // the image that was chosen last
let heats = []; // a canvas for each class of the result; null where no place speaks for it
let request = new AbortController(); // of the image that is being classified
let preview = ""; // an object URL

// ---------------------------------------------------------------- the server

class Problem extends Error {
  constructor(message, retry = false) {
    super(message);
    this.retry = retry; // whether trying again may help
  }
}

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server does not answer. It may have been stopped, or the connection is lost.", true);
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  if (answer.status === 401) askForToken();
  throw new Problem(sentence(answer, content), [408, 429].includes(answer.status) || answer.status >= 500);
}

function sentence(answer, content) {
  const detail = typeof content.detail === "string" ? content.detail : "";
  const wait = Number(answer.headers.get("Retry-After"));
  switch (answer.status) {
    case 401: return token ? "The server does not accept this token." : "The server asks for an access token.";
    case 408: return "The image took too long to arrive.";
    case 413: return tooLarge();
    case 415: return "This file is no image of a format that the server knows.";
    case 422: return `The image is damaged and cannot be read${detail ? `: ${detail}` : ""}.`.replace("..", ".");
    case 429:
    case 503: return wait > 0
      ? `The server is busy. Try again in ${wait} ${wait === 1 ? "second" : "seconds"}.`
      : "The server is busy. Try again soon.";
    default: return detail ? `The server refused: ${detail}.`.replace("..", ".") : `The server failed (status ${answer.status}).`;
  }
}

function tooLarge() {
  const bytes = limits.body_bytes ? ` of up to ${Math.floor(limits.body_bytes / 1e6) || 1} MB` : "";
  const pixels = limits.pixels ? ` and ${Math.floor(limits.pixels / 1e6) || 1} million pixels` : "";
  return bytes ? `The image is too large: this server takes files${bytes}${pixels}.` : "The image is too large.";
}

// ---------------------------------------------------------------- what the page says

function complain(problem) {
  at("status").textContent = "";
  at("problem-text").textContent = problem.message;
  at("again").hidden = !problem.retry;
  at("problem").hidden = false;
  if (!(problem instanceof Problem)) throw problem; // a bug in this page
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

// ---------------------------------------------------------------- the model

const chosenModel = () => models.find((model) => model.name === at("model").value) ?? models[0];

async function start() {
  try {
    const [described, limited] = await Promise.all([ask("model"), ask("limits")]);
    limits = limited;
    models = described.models;
    at("model").replaceChildren(...models.map((model) => new Option(model.name, model.name)));
    at("model").value = described.default;
    at("model-choice").hidden = models.length < 2;
    say("");
    describeModel();
  } catch (problem) {
    complain(problem);
  }
}

function describeModel() {
  const model = chosenModel();
  const classes = model.classes.length;
  at("intro").textContent =
    `${model.name} tells ${count(classes)} classes apart` +
    (model.error === null ? "." : ` and is wrong on ${model.error.toFixed(1)} % of its test images.`);
  const [height, width] = model.image_size;
  const facts = [
    ["Error", model.error === null ? "not known" : `${model.error.toFixed(1)} %`,
      model.images === null ? "" : `on ${count(model.images)} test images`],
    ["Network", model.network, model.parameters ? `${(model.parameters / 1e6).toPrecision(3)} million parameters` : ""],
    ["Data", model.data, ""],
    ["Image size", `${width} × ${height}`, "pixels, after resizing and cropping"],
    ["Probabilities", model.temperature === 1 ? "as they come" : "calibrated", `temperature ${Number(model.temperature.toPrecision(3))}`],
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

// ---------------------------------------------------------------- an image

function choose(files) {
  const images = [...files];
  file = images.find((one) => one.type.startsWith("image/")) ?? images[0];
  if (file) classify();
}

async function classify() {
  request.abort();
  const own = (request = new AbortController());
  const model = chosenModel();
  try {
    if (limits.body_bytes && file.size > limits.body_bytes) throw new Problem(tooLarge());
    say(`Classifying ${file.name} …`);
    showPreview();
    const form = new FormData();
    form.append("file", file);
    const query = new URLSearchParams({ top: TOP, ...(model && { model: model.name }) });
    const path = model?.explain ? "explain" : "predict";
    const answer = await ask(`${path}?${query}`, { method: "POST", body: form, signal: own.signal });
    const found = answer.images ? answer.images[0] : answer;
    const drawn = await Promise.all(found.predictions.map((one) => one.heatmap && colour(one.heatmap)));
    if (own.signal.aborted) return;
    heats = drawn;
    if (found.image) at("image").src = found.image;
    showClasses(found.predictions, Boolean(found.image));
  } catch (problem) {
    if (own.signal.aborted) return; // another image took its place
    at("result").hidden = true;
    complain(problem);
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
  at("unsure").hidden = predictions[0].probability >= UNSURE;
  const [height, width] = chosenModel().image_size;
  at("caption").textContent = explained ? `What the network saw of ${file.name}: ${width} × ${height} pixels` : file.name;
  const [first, ...others] = predictions.slice(0, 3).map((one) => `${one.class} ${percent(one.probability)}`);
  say(`${file.name}: most likely ${[first, ...others].join(", then ")}.`);
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

// ---------------------------------------------------------------- the evidence

/** Turn a grey heat map into a canvas of colours, as opaque as the map is strong. */
async function colour(url) {
  const grey = new Image();
  grey.src = url;
  await grey.decode();
  const canvas = element("canvas");
  [canvas.width, canvas.height] = [grey.naturalWidth, grey.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(grey, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  let any = false;
  for (let i = 0; i < pixels.data.length; i += 4) {
    any ||= pixels.data[i] > 0;
    pixels.data.set(RAMP[pixels.data[i]], i);
  }
  context.putImageData(pixels, 0, 0);
  return any ? canvas : null;
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

// ---------------------------------------------------------------- what the user does

for (const input of [at("file"), at("camera")]) {
  input.addEventListener("change", () => {
    choose(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
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
  if (event.dataTransfer.files.length) choose(event.dataTransfer.files);
  else complain(new Problem("That was no file. Save the image first, then drop its file here."));
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) choose(event.clipboardData.files);
});

at("model").addEventListener("change", () => {
  describeModel();
  if (file) classify();
});
for (const id of ["show", "strength", "classes"]) at(id).addEventListener("input", showEvidence);
at("again").addEventListener("click", async () => {
  if (!models.length) await start();
  if (models.length && file) classify();
});
at("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  at("token-form").hidden = true;
  await start();
  if (models.length && file) classify();
});

start();
