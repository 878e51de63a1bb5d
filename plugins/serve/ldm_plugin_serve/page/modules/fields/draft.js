/* What was written, finished or not, kept in this tab for the time after a Reload. */
const PARTS = ["inputs", "typed", "settings"];

const nameOf = (model) => `ldm-draft:${model.id}`;
const mapping = (value) => (value !== null && typeof value === "object" && !Array.isArray(value) ? value : {});
const filled = (part) => Object.keys(part).length > 0;

/** A text of this tab; "" where there is none, or the browser keeps nothing. */
export function kept(name) {
  try {
    return sessionStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}

/** Keep a text, or forget an empty one; false where the browser has no room for it. */
export function keep(name, text) {
  try {
    if (text) sessionStorage.setItem(name, text);
    else sessionStorage.removeItem(name);
    return true;
  } catch {
    return false; // it lives as long as the page
  }
}

/** A form's draft as a mapping: an older page or another server of this address may have written it, so nothing is sure. */
function told(model) {
  try {
    return mapping(JSON.parse(kept(nameOf(model))));
  } catch {
    return {};
  }
}

export class Draft {
  constructor(form) {
    this.form = form;
    this.ready = false; // an empty form does not replace the draft that it is to be filled with
  }

  /** Fill the form with what an earlier visit left; what does not fit the model stays out. */
  async bring() {
    const { preset, ...found } = told(this.form.model);
    const parts = Object.fromEntries(PARTS.map((name) => [name, mapping(found[name])]));
    if (Object.values(parts).some(filled) || preset) await this.form.restore({ ...parts, preset });
    this.form.clearFaults(); // nobody has pressed the button yet
    this.form.settings.heal();
    this.ready = true;
  }

  /** Keep the form as it is. */
  async keep() {
    this.again = true;
    if (!this.ready || this.busy) return;
    this.busy = true;
    while (this.again) {
      await null; // the change is told of before it is whole
      this.again = false; // and it may change while its pictures are read
      this.#write(await this.form.written());
    }
    this.busy = false;
  }

  #write(written) {
    const name = nameOf(this.form.model);
    if (!PARTS.some((part) => filled(written[part])) && !written.preset) return keep(name, "");
    const small = Object.entries(written.inputs).filter(([, value]) => !String(value).startsWith("data:"));
    return keep(name, JSON.stringify(written)) || keep(name, JSON.stringify({ ...written, inputs: Object.fromEntries(small) })); // without pictures
  }
}
