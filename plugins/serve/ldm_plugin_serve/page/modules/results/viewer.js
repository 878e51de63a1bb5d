/* One picture large, with all that it was made from; arrow keys go to its neighbours. */
import { button, h } from "../frame/elements.js";
import { dialog } from "../frame/dialog.js";
import { altOf, downloadImage, duration, pixelated, settingsOf, summaryOf, urlOf } from "./words.js";

/** `acts`: {restore(record, image), begin(image)}; `begin` may be missing. */
export function viewer(record, index, acts) {
  const { body, element, close, title } = dialog("", { wide: true });
  const picture = h("img", { class: pixelated(record.size) ? "pixels" : "" });
  const facts = h("dl", { class: "facts" });
  const count = h("span", { class: "soft number", "aria-live": "polite" });
  const many = record.images.length > 1;
  const show = (to) => {
    index = (to + record.images.length) % record.images.length;
    const image = record.images[index];
    picture.src = urlOf(image.blob);
    picture.alt = altOf(record, index);
    count.textContent = many ? `${index + 1} of ${record.images.length}` : "";
    const made = record.seconds ? [["time", duration(record.seconds)]] : [];
    const rows = [["model", record.name], ...settingsOf(record, image), ...made];
    facts.replaceChildren(...rows.flatMap(([name, words]) => [h("dt", {}, name), h("dd", { class: "number" }, words)]));
  };
  const then = (act) => () => {
    close();
    act();
  };
  const neighbours = many && [
    button("Previous picture", { onclick: () => show(index - 1) }, { icon: "left", quiet: true }),
    button("Next picture", { onclick: () => show(index + 1) }, { icon: "right", quiet: true }),
  ];
  body.append(
    h(
      "div",
      { class: "viewer" },
      h("div", { class: "viewer-picture" }, picture),
      h(
        "div",
        { class: "stack" },
        h("div", { class: "row" }, neighbours, count),
        facts,
        h(
          "div",
          { class: "stack tight" },
          button("Download with metadata", { onclick: () => downloadImage(record, record.images[index]) }, { icon: "download" }),
          button("Use these settings", { onclick: then(() => acts.restore(record, record.images[index])) }, { icon: "undo" }),
          acts.begin && button("Begin from this picture", { onclick: then(() => acts.begin(record.images[index])) }, { icon: "picture" }),
        ),
      ),
    ),
  );
  title.textContent = summaryOf(record);
  element.addEventListener("keydown", (event) => {
    if (!many || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    show(index + (event.key === "ArrowLeft" ? -1 : 1));
  });
  show(index);
}
