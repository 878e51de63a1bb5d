/* The page of blind comparisons: it is set up, answered pair by pair, and ends with the share of preferences. */
import { button, h } from "./frame/elements.js";
import { theme } from "./frame/theme.js";
import { Fault, get } from "./server/client.js";
import { outcome } from "./blind/outcome.js";
import { Setup } from "./blind/setup.js";
import { Study } from "./blind/study.js";
import { Trial } from "./blind/trial.js";

const main = document.getElementById("main");
let setup = null;
theme(document.getElementById("theme"));

function head() {
  return h(
    "header",
    { class: "page-head" },
    h("div", {}, h("h1", { class: "page-title" }, "Blind test"), h("p", {}, "Two models, or one with two settings, make pictures of the same inputs and seeds. You see each pair in random order without names, and say which you prefer.")),
  );
}

function show(...parts) {
  main.replaceChildren(...parts);
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

async function end(study) {
  if (study.done) Study.forget();
  await study.reveal();
  show(outcome(study, { onagain: begin, oncontinue: () => run(study) }));
}

function run(study) {
  study.keep();
  show(new Trial(study, { onend: end }).element);
}

async function begin() {
  let models;
  try {
    ({ models } = await get("/v1/models"));
  } catch (error) {
    const words = error instanceof Fault ? error.text : String(error);
    return show(head(), h("div", { class: "notice row spread", role: "alert" }, h("p", {}, words), button("Try again", { onclick: begin })));
  }
  const ready = models.filter((model) => model.ready !== false);
  if (!ready.length) return show(head(), h("p", { class: "soft" }, "No model is ready yet."));
  const kept = Study.kept();
  const again = kept && h("div", { class: "kept row spread" }, h("p", {}, `A test of ${kept.sides.map((side) => side.name).join(" and ")} was begun: ${kept.index} of ${kept.plan.length} pairs.`), button("Go on with it", { onclick: () => run(kept) }));
  const known = JSON.stringify(ready.map((model) => [model.id, model.weights_sha256]));
  if (setup?.known !== known) setup = Object.assign(new Setup({ models: ready, onstart: run }), { known }); // else as it was left
  show(...[head(), again, setup.element].filter(Boolean));
}

begin();
