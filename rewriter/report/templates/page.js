/* The page: what is picked, and what is shown of it. What may be picked is decided in choosing.js. */
"use strict";

const STACKS = JSON.parse(document.getElementById("data").textContent);

/* -- how numbers look: as amounts.py has them -- */

function scaled(amount, units, step) {
  let at = 0;
  while (amount >= 999.5 && at < units.length - 1) { amount /= 1000; at += 1; }
  return (at ? `${Number(amount.toPrecision(3))}` : `${amount}`) + (units[at] && step + units[at]);
}
const size = (bytes) => scaled(bytes, ["B", "kB", "MB", "GB", "TB"], " ");
const number = (count) => scaled(count, ["", "k", "M", "B", "T"], " ");

const UNITS = {
  count: ["Layers", "4"],
  ratio: ["Share", "0.25"],
  size: ["Size", "4GB"],
};

/** One stack: its rows, its chooser, and what is said of the layers that are left. */
class Panel {
  constructor(section, stack) {
    Object.assign(this, { section, stack, gone: new Set(), at: 0, anchor: 0, asked: null });
    this.rows = [...section.querySelectorAll(".layer")];
    this.form = section.querySelector(".chooser");
    this.list = section.querySelector("[data-rows]");
    this.find("strip").append(...this.rows.map(() => document.createElement("i")));
    for (const row of this.rows) row.name = row.getAttribute("aria-label");
    this.markHeld();
    this.listen();
    this.show();
  }

  find(name) { return this.section.querySelector(`[data-${name}]`); }
  kept() { return range(0, this.stack.layers).filter((layer) => !this.gone.has(layer)); }
  dropped() { return range(0, this.stack.layers).filter((layer) => this.gone.has(layer)); }
  get dropsPredictions() { return Boolean(this.find("predictions")?.checked); }

  listen() {
    this.list.addEventListener("mousedown", (event) => { if (event.shiftKey) event.preventDefault(); });
    this.list.addEventListener("click", (event) => {
      const row = event.target.closest(".layer");
      if (row) this.pick(Number(row.dataset.layer), event.shiftKey);
    });
    this.list.addEventListener("keydown", (event) => this.press(event));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", (event) => this.choose(event.target));
    this.find("reset").addEventListener("click", () => { this.byHand(); this.take([]); });
    this.find("predictions")?.addEventListener("change", () => this.show());
    for (const button of this.section.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
  }

  /* -- by hand -- */

  /** Drop or keep a layer; with `extend` all from the last one picked get what that one has. */
  pick(layer, extend) {
    const drop = extend ? this.gone.has(this.anchor) : !this.gone.has(layer);
    const [low, high] = extend ? [Math.min(layer, this.anchor), Math.max(layer, this.anchor)] : [layer, layer];
    for (const each of range(low, high + 1)) drop ? this.gone.add(each) : this.gone.delete(each);
    if (!extend) this.anchor = layer;
    this.focus(layer);
    this.byHand();
    this.show();
  }

  press(event) {
    const page = 10, last = this.stack.layers - 1;
    const to = { ArrowDown: this.at + 1, ArrowUp: this.at - 1, PageDown: this.at + page, PageUp: this.at - page,
      Home: 0, End: last }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (to !== undefined) {
      const layer = Math.min(last, Math.max(0, to));
      if (event.shiftKey) this.pick(layer, true);
      else this.focus(layer);
    } else if (event.key === " " || event.key === "Enter") this.pick(this.at, event.shiftKey);
    else return;
    event.preventDefault();
  }

  focus(layer) {
    this.rows[this.at].tabIndex = -1;
    this.at = layer;
    this.rows[layer].tabIndex = 0;
    this.rows[layer].focus();
  }

  byHand() {
    this.form.elements.strategy.value = "";
    this.asked = null;
    this.tell("");
  }

  /* -- by strategy -- */

  choose(changed) {
    const { strategy, by, amount } = this.form.elements;
    if (changed === by) amount.value = by.value === "size" ? this.someSize() : UNITS[by.value][1];
    this.find("unit").textContent = by.value === "count" && strategy.value === "first-n" ? "Keep" : UNITS[by.value][0];
    if (!strategy.value) return this.byHand();
    this.asked = this.request();
    try {
      const { kept, close } = choose(this.stack, this.asked);
      this.tell(close ? "Here the headers decide: the command leaves it to the program, which may drop fewer layers." : "");
      this.take(without(range(0, this.stack.layers), kept), close);
    } catch (error) {
      if (!(error instanceof Mistaken || error instanceof Refused)) throw error;
      this.tell(error.message, true);
      this.take([]);
    }
  }

  /** Three quarters of what there is. */
  someSize() { return size(Math.ceil(outputSize(this.stack, range(0, this.stack.layers))[0] * 0.75)).replace(" ", ""); }

  request() {
    const { strategy, by, amount, first, last, contiguous } = this.form.elements;
    const text = amount.value.trim();
    const scored = strategy.value in this.stack.scores;
    const limit = (field, usual) => {
      field.placeholder = usual;
      return field.value === "" || !field.validity.valid ? null : Number(field.value);
    };
    const [usualFirst, usualLast] = scored ? this.stack.protected : [0, 0];
    contiguous.disabled = !scored;
    return {
      strategy: strategy.value, by: by.value, amount: by.value === "size" ? text : text === "" ? NaN : Number(text),
      first: limit(first, usualFirst), last: limit(last, usualLast), contiguous: scored && contiguous.checked,
    };
  }

  /** What stands under the chooser: a mistake or a warning, else what the strategy does. */
  tell(text, mistaken = false) {
    const about = this.find("about");
    about.textContent = text || this.form.elements.strategy.selectedOptions[0].dataset.says;
    about.classList.toggle("mistaken", mistaken);
  }

  /** Take these layers as the dropped ones. */
  take(layers, close = false) {
    this.gone = new Set(layers);
    this.show(close);
  }

  /* -- what is shown -- */

  markHeld() {
    for (const bound of [...this.stack.bounds, ...this.stack.late].map(asBound).filter((each) => !each.soft)) {
      for (const layer of bound.stay) {
        this.rows[layer]?.classList.add("held");
        this.rows[layer]?.setAttribute("title", bound.why);
      }
    }
  }

  show(close = false) {
    const kept = this.kept();
    const changed = this.gone.size > 0 || this.dropsPredictions;
    const refused = refusal(this.stack, kept);
    this.showRows();
    this.showAmounts(kept);
    this.showVerdict(kept, refused, changed);
    this.showCommands(changed && !refused, close);
    this.section.classList.toggle("refused", Boolean(refused));
    brief(this);
  }

  showRows() {
    const cells = this.find("strip").children;
    this.rows.forEach((row, layer) => {
      const gone = this.gone.has(layer);
      row.setAttribute("aria-selected", gone);
      row.setAttribute("aria-label", row.name + (gone ? ", dropped" : ", kept"));
      cells[layer].classList.toggle("gone", gone);
    });
  }

  showAmounts(kept) {
    const all = weigh(this.stack, range(0, this.stack.layers));
    const left = weigh(this.stack, kept, this.dropsPredictions);
    const share = all.bytes ? Math.round((100 * left.bytes) / all.bytes) : 100;
    const files = outputSize(this.stack, kept);
    const texts = {
      bytes: size(left.bytes), share: `of ${size(all.bytes)}, ${share} %`,
      layers: `${kept.length} of ${this.stack.layers}`, parameters: `${number(left.parameters)} of ${number(all.parameters)}`,
      tensors: `${left.tensors} of ${all.tensors}`, files: `about ${size(Math.round((files[0] + files[1]) / 2) + left.bytes - weigh(this.stack, kept).bytes)}`,
    };
    for (const [name, text] of Object.entries(texts)) this.find(name).textContent = text;
    this.find("dropped").replaceChildren(...listed(this.dropped()));
    this.find("kept").replaceChildren(...listed(kept));
  }

  showVerdict(kept, refused, changed) {
    const verdict = this.find("verdict");
    verdict.replaceChildren();
    const say = (kind, text) => verdict.append(element("p", kind, text));
    if (!changed) return say("hint", "Nothing is dropped yet.");
    if (refused) {
      say("bad", `Refused: ${refused}.`);
      const others = alternatives(this.stack, kept);
      if (others.length) say("hint", "What comes nearest:");
      for (const other of others) {
        const button = element("button", "other", `keep ${formatLayers(other)}`);
        button.type = "button";
        button.addEventListener("click", () => { this.byHand(); this.take(without(range(0, this.stack.layers), other)); });
        verdict.append(button);
      }
      return undefined;
    }
    for (const warning of warningsOf(this.stack, kept)) say("warned", `Warning: ${warning}.`);
    if (this.stack.doubt) return say("warned", `This page cannot tell whether these can go (${this.stack.doubt}): the plan below has the last word.`);
    return say("good", "These layers can go together.");
  }

  showCommands(ready, close) {
    const layers = this.gone.size ? ` --drop ${formatLayers(this.dropped())}` : ` --keep ${formatLayers(this.kept())}`;
    const chosen = close ? this.options() : layers + (this.dropsPredictions ? " --drop-mtp" : "");
    const texts = { prune: this.stack.commands.prune + chosen, plan: this.stack.commands.plan + chosen, verify: this.stack.commands.verify };
    this.find("commands").classList.toggle("waiting", !ready);
    for (const [name, text] of Object.entries(texts)) {
      this.section.querySelector(`[data-command="${name}"]`).replaceChildren(...(ready ? words(text) : ["…"]));
      this.section.querySelector(`[data-copy="${name}"]`).disabled = !ready;
    }
  }

  /** The strategy itself as arguments, where the size of a header decides. */
  options() {
    const { strategy, amount, first, last, contiguous } = this.asked;
    const said = [["--strategy", strategy], ["--target-size", amount.replace(" ", "")], ["--protect-first", first], ["--protect-last", last]];
    const words = said.filter(([, value]) => value !== null).map(([name, value]) => `${name} ${value}`);
    return ` ${words.join(" ")}${contiguous ? " --contiguous" : ""}`;
  }
}

function element(tag, kind, text) {
  const made = document.createElement(tag);
  made.className = kind;
  made.textContent = text;
  return made;
}

/** A command whose short words no line breaks. */
function words(text) {
  return text.split(" ").flatMap((word, at) => [at ? " " : "", element("span", word.length < 28 ? "word" : "", word)]);
}

/** Layer numbers that a line breaks only after a comma. */
function listed(layers) {
  const runs = (formatLayers(layers) || "none").split(",");
  return runs.flatMap((run, at) => [element("span", "", at < runs.length - 1 ? `${run},` : run), document.createElement("wbr")]);
}

/** The result in a line, for narrow windows where the rest is out of sight. */
function brief(panel) {
  if (panel.section.hidden) return;
  const line = document.querySelector("[data-brief]");
  line.hidden = !panel.stack;
  if (!panel.stack) return;
  const refused = panel.section.classList.contains("refused") ? ", refused" : "";
  line.href = `#${panel.section.querySelector(".result").id}`;
  line.firstElementChild.textContent = `${panel.find("layers").textContent} layers, ${panel.find("bytes").textContent}${refused}`;
}

async function copy(button) {
  const code = button.parentElement.querySelector("code");
  const done = await write(code.textContent).catch(() => false);
  if (!done) getSelection().selectAllChildren(code);
  button.textContent = done ? "Copied" : "Selected";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

/** A page opened as a file may have no clipboard of the new kind. */
async function write(text) {
  if (navigator.clipboard) {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* the old way, then */ }
  }
  const field = document.body.appendChild(element("textarea", "aside", ""));
  field.value = text;
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

/* -- the page as a whole -- */

const panels = STACKS.map((stack, at) => {
  const section = document.getElementById(`stack-${at}`);
  return stack && !stack.refused ? new Panel(section, stack) : { section };
});

const tabs = [...document.querySelectorAll('[role="tab"]')];

function open(at) {
  tabs.forEach((tab, each) => {
    tab.setAttribute("aria-selected", each === at);
    tab.tabIndex = each === at ? 0 : -1;
    panels[each].section.hidden = each !== at;
  });
  brief(panels[at]);
}

tabs.forEach((tab, at) => {
  tab.addEventListener("click", () => open(at));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    open(mod(to, tabs.length));
    tabs[mod(to, tabs.length)].focus();
  });
});
if (panels.length) open(0);

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
