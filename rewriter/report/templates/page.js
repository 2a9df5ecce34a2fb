/* The page: shows which layers are picked. selection.js judges them, the program has computed the strategies. */
"use strict";

const STACKS = JSON.parse(document.getElementById("data").textContent);

/* -- how numbers look: as in units.py -- */

function scaled(amount, units, step) {
  let at = 0;
  while (amount >= 999.5 && at < units.length - 1) { amount /= 1000; at += 1; }
  return (at ? `${Number(amount.toPrecision(3))}` : `${amount}`) + (units[at] && step + units[at]);
}
const size = (bytes) => scaled(bytes, ["B", "kB", "MB", "GB", "TB"], " ");
const number = (count) => scaled(count, ["", "k", "M", "B", "T"], " ");

/** One stack: its rows, its chooser, and what is left of it. */
class Panel {
  constructor(section, stack) {
    Object.assign(this, { section, stack, gone: new Set(), at: 0, anchor: 0 });
    this.rows = [...section.querySelectorAll(".layer")];
    this.form = section.querySelector(".chooser");
    this.find("strip").append(...this.rows.map(() => document.createElement("i")));
    for (const row of this.rows) row.name = row.ariaLabel;
    for (const bound of [...this.stack.bounds, ...this.stack.late].filter((each) => !each.soft)) this.markHeld(bound);
    this.listen();
    this.byHand();
  }

  find(name) { return this.section.querySelector(`[data-${name}]`); }
  dropped() { return [...this.gone].sort((one, other) => one - other); }
  kept() { return without(range(0, this.stack.layers), this.dropped()); }
  get dropsMtp() { return Boolean(this.find("mtp")?.checked); }

  listen() {
    const list = this.find("rows");
    list.addEventListener("mousedown", (event) => { if (event.shiftKey) event.preventDefault(); });
    list.addEventListener("click", (event) => {
      const row = event.target.closest(".layer");
      if (row) this.pick(Number(row.dataset.layer), event.shiftKey);
    });
    list.addEventListener("keydown", (event) => this.press(event));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", (event) => this.choose(event.target));
    this.find("reset").addEventListener("click", () => this.byHand([]));
    this.find("mtp")?.addEventListener("change", () => this.show());
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
  }

  press(event) {
    const last = this.stack.layers - 1;
    const to = { ArrowDown: this.at + 1, ArrowUp: this.at - 1, PageDown: this.at + 10, PageUp: this.at - 10, Home: 0, End: last }[event.key];
    const layer = Math.min(last, Math.max(0, to ?? this.at));
    if (event.ctrlKey || event.metaKey || event.altKey || (to === undefined && ![" ", "Enter"].includes(event.key))) return;
    if (to === undefined || event.shiftKey) this.pick(layer, event.shiftKey);
    else this.focus(layer);
    event.preventDefault();
  }

  focus(layer) {
    this.rows[this.at].tabIndex = -1;
    this.at = layer;
    this.rows[layer].tabIndex = 0;
    this.rows[layer].focus();
  }

  byHand(gone) {
    this.form.elements.strategy.value = "";
    this.fill([]);
    this.tell("");
    this.show(gone);
  }

  /* -- by strategy: rows of [number of dropped layers, place in the table of selections] -- */

  choose(changed) {
    const { strategy, count, fit } = this.form.elements;
    const rows = this.stack.ways[strategy.value] ?? [];
    if (changed === strategy) this.fill(rows);
    if (changed === count) fit.value = "";
    const limit = fit.value * fit.dataset.unit;
    const row = rows.find(([gone, at]) => (limit ? this.stack.selections[at][1] <= limit : gone === Number(count.value)));
    const missing = rows.length > 0 && !row;
    count.value = row?.[0] ?? "";
    this.tell(missing ? "No selection of this strategy is so small." : "", missing);
    this.show(row ? layersOf(this.stack.selections[row[1]][0]) : []);
  }

  /** Offer the numbers of layers that the strategy can drop; a quarter is chosen, or the next to it. */
  fill(rows) {
    const { count, fit } = this.form.elements;
    const { layers, quarter, selections } = this.stack;
    const label = (gone, at) => `${gone} (${Math.round((100 * gone) / layers)} %): ${size(selections[at][1])}`;
    count.replaceChildren(...rows.map(([gone, at]) => new Option(label(gone, at), gone)));
    count.disabled = fit.disabled = !rows.length;
    count.value = [...rows].sort(([a], [b]) => Math.abs(a - quarter) - Math.abs(b - quarter))[0]?.[0] ?? "";
  }

  /** What stands under the chooser: a mistake, else what the strategy does. */
  tell(text, mistaken = false) {
    const about = this.find("about");
    about.textContent = text || this.form.elements.strategy.selectedOptions[0].dataset.hint;
    about.classList.toggle("mistaken", mistaken);
  }

  markHeld({ stay = [], why }) {
    for (const row of stay.flatMap((layer) => this.rows[layer] ?? [])) {
      row.classList.add("held");
      row.title = why;
    }
  }

  /** Show that `gone` are the dropped layers. */
  show(gone = this.gone) {
    this.gone = new Set(gone);
    const changed = this.gone.size > 0 || this.dropsMtp;
    const refused = refusal(this.stack, this.kept());
    const left = sizesWithout(this.stack, this.dropped(), this.dropsMtp);
    this.rows.forEach((row, layer) => {
      const dropped = this.gone.has(layer);
      row.ariaSelected = dropped;
      row.ariaLabel = row.name + (dropped ? ", dropped" : ", kept");
      this.find("strip").children[layer].classList.toggle("gone", dropped);
    });
    this.showAmounts(left);
    this.showVerdict(refused, changed, left.planned);
    this.showCommands(changed && !refused);
    this.section.classList.toggle("refused", Boolean(refused));
    brief(this);
  }

  showAmounts(left) {
    const kept = this.kept(), all = sizesWithout(this.stack, []), about = left.exact ? "" : "about ";
    const share = all.bytes ? Math.round((100 * left.bytes) / all.bytes) : 100;
    const texts = {
      bytes: about + size(left.bytes), share: `of ${size(all.bytes)}, ${share} %`, layers: `${kept.length} of ${this.stack.layers}`,
      parameters: `${about}${number(left.parameters)} of ${number(all.parameters)}`, tensors: `${about}${left.tensors} of ${all.tensors}`,
      files: (left.planned ? "" : "about ") + size(left.files),
    };
    for (const [name, text] of Object.entries(texts)) this.find(name).textContent = text;
    this.find("files").title = left.planned ? `${left.files} bytes` : "";
    this.find("dropped").replaceChildren(...listed(this.dropped()));
    this.find("kept").replaceChildren(...listed(kept));
  }

  showVerdict(refused, changed, planned) {
    const near = refused ? nearestListed(this.stack, this.dropped()) : [];
    const texts = refused ? [["bad", `Refused: ${refused}.`]] : warningsOf(this.stack, this.kept()).map((text) => ["warned", `Warning: ${text}.`]);
    if (!changed) texts.push(["hint", "Nothing is dropped yet."]);
    else if (near.length) texts.push(["hint", "Strategies that come near:"]);
    else if (!refused && this.stack.doubt && !planned) texts.push(["warned", `This page cannot tell whether these can go (${this.stack.doubt}): the plan below has the last word.`]);
    else if (!refused) texts.push(["good", "These layers can go together."]);
    this.find("verdict").replaceChildren(...texts.map((text) => element("p", ...text)), ...near.map((other) => {
      const button = element("button", "other", `drop ${formatLayers(other)}`);
      button.addEventListener("click", () => this.byHand(other));
      return button;
    }));
  }

  showCommands(ready) {
    const layers = this.gone.size ? ` --drop ${formatLayers(this.dropped())}` : ` --keep ${formatLayers(this.kept())}`;
    const chosen = layers + (this.dropsMtp ? " --drop-mtp" : "");
    const { prune, plan, verify } = this.stack.commands;
    this.find("commands").classList.toggle("waiting", !ready);
    for (const [name, text] of Object.entries({ prune: prune + chosen, plan: plan + chosen, verify })) {
      this.section.querySelector(`[data-command="${name}"]`).replaceChildren(...(ready ? words(text) : ["…"]));
      this.section.querySelector(`[data-copy="${name}"]`).disabled = !ready;
    }
  }
}

function element(tag, className, textContent) {
  return Object.assign(document.createElement(tag), { className, textContent });
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
  const line = document.querySelector("[data-brief]");
  if (panel.section.hidden) return;
  line.hidden = !panel.stack;
  if (line.hidden) return;
  const refused = panel.section.classList.contains("refused") ? ", refused" : "";
  line.href = `#${panel.section.querySelector(".result").id}`;
  line.firstElementChild.textContent = `${panel.find("layers").textContent} layers, ${panel.find("bytes").textContent}${refused}`;
}

/** Copy the command beside the button, or select it if the browser does not let a page copy. */
async function copy(button) {
  const code = button.parentElement.querySelector("code");
  const done = await navigator.clipboard?.writeText(code.textContent).then(() => true, () => false);
  if (!done) getSelection().selectAllChildren(code);
  button.textContent = done ? "Copied" : "Selected";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

/* -- the page as a whole -- */

const panels = STACKS.map((stack, at) => {
  const section = document.getElementById(`stack-${at}`);
  return stack && !stack.refused ? new Panel(section, stack) : { section };
});

const tabs = [...document.querySelectorAll('[role="tab"]')];

function open(at) {
  tabs.forEach((tab, each) => {
    tab.ariaSelected = each === at;
    tab.tabIndex = each === at ? 0 : -1;
    panels[each].section.hidden = each !== at;
  });
  brief(panels[at]);
}

tabs.forEach((tab, at) => {
  tab.addEventListener("click", () => open(at));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
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
