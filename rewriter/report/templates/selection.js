/* Judges a selection of layers: is it allowed, what warns about it, what does it weigh?
 *
 * choices.py gives the tables. Nothing here knows the page. Layers are ascending arrays.
 */
"use strict";

const mod = (number, by) => ((number % by) + by) % by;
const range = (low, high) => Array.from({ length: Math.max(0, high - low) }, (_, at) => low + at);
const without = (layers, gone) => layers.filter((layer) => !gone.includes(layer));

/** `0-3,5`: the syntax of --drop and --keep. */
function formatLayers(layers) {
  const runs = [];
  for (const layer of layers) {
    if (runs.length && runs.at(-1)[1] === layer - 1) runs.at(-1)[1] = layer;
    else runs.push([layer, layer]);
  }
  return runs.map(([low, high]) => (low === high ? `${low}` : `${low}-${high}`)).join(",");
}

/* -- what limits the layers: the members of Constraint -- */

function breaks(bound, kept, count) {
  const there = new Set(kept);
  const { stay = [], one_of: group = [], apart = [], requires = {}, at_least: least = 1, period = 1 } = bound;
  const counted = bound.among ? kept.filter((layer) => bound.among.includes(layer)) : kept;
  const place = (layer) => (bound.among ? bound.among.indexOf(layer) : layer);
  const states = apart.map((state) => kept.filter((layer) => layer < state).length);
  return Boolean(
    bound.never ||
    counted.length < least ||
    !stay.every((layer) => there.has(layer)) ||
    counted.some((layer, now) => mod(place(layer) - now, period) !== 0) ||
    bound.not_first?.includes(kept[0]) ||
    bound.not_last?.includes(kept.at(-1)) ||
    bound.counts?.includes(kept.length) ||
    bound.counts?.includes(count) ||
    (group.length && !group.some((layer) => there.has(layer))) ||
    new Set(states).size < states.length ||
    kept.some((layer) => layer in requires && !there.has(requires[layer]))
  );
}

/** Whether a period and an offset exist that give every kept layer its kind. */
function solvable(pattern, kept) {
  const wanted = kept.map((layer) => pattern.kinds[layer]);
  const kind = (at, period, offset) =>
    at < pattern.head.length ? pattern.head[at] : +((at - pattern.head.length) % period === mod(offset, period));
  return range(1, wanted.length + 2).some((period) =>
    (pattern.offset === null ? range(0, period) : [pattern.offset]).some((offset) =>
      wanted.every((each, at) => each === kind(at, period, offset))));
}

/** Why the layers cannot be all that is kept, "" if they can. */
function refusal(stack, kept) {
  if (kept.length === stack.layers) return "";
  if (!kept.length) return "at least one layer must stay";
  const bounds = stack.bounds.filter((bound) => !bound.soft);
  if (stack.period > 1 && !stack.patterns.every((pattern) => solvable(pattern, kept))) {
    const why = `the loader knows only periods, of ${stack.period} together, and no others fit`;
    bounds.push({ why, period: stack.period });
  }
  return [...bounds, ...stack.late].find((bound) => breaks(bound, kept, stack.layers))?.why ?? "";
}

function warningsOf(stack, kept) {
  if (kept.length === stack.layers) return [];
  const applies = { "{dropped}": true, "{moved}": kept.some((layer, now) => layer !== now), "{first}": kept[0] > 0 };
  const soft = stack.bounds.filter((bound) => bound.soft && breaks(bound, kept, stack.layers)).map((bound) => bound.why);
  const texts = stack.warnings.filter(([when]) => applies[when]).map(([, text]) => text.replaceAll("{first}", kept[0]));
  return [...soft, ...texts];
}

/* -- the table of selections: [dropped layers as bits in hexadecimal, bytes of all files]; tensors, parameters and
 * bytes follow if the weights of the layers do not add up to them -- */

const bitsOf = (layers) => layers.reduce((sum, layer) => sum | (1n << BigInt(layer)), 0n).toString(16);
const layersOf = (bits) => range(0, 4 * bits.length).filter((layer) => (BigInt(`0x${bits}`) >> BigInt(layer)) & 1n);

/** What is left without the layers `gone`; `planned` if the table has it, else `files` is not known to the byte. */
function sizesWithout(stack, gone, dropMtp = false) {
  const found = stack.selections.find(([bits]) => bits === bitsOf(gone));
  const weights = [...gone.map((layer) => stack.weights[layer]), ...(dropMtp ? [stack.mtp_weight] : [])];
  const sums = stack.selections[0].slice(2).map((all, at) => weights.reduce((left, weight) => left - weight[at], all));
  const planned = Boolean(found) && !dropMtp;
  const [tensors, parameters, bytes] = planned && found.length > 2 ? found.slice(2) : sums;
  const files = planned ? found[1] : bytes + Math.round(stack.beside[0] + stack.beside[1] * tensors);
  return { planned, exact: planned || stack.additive, files, tensors, parameters, bytes };
}

/** Up to three selections of the table that drop something and differ from `gone` in the fewest layers. */
function nearestListed(stack, gone) {
  const differ = (layers) => without(layers, gone).length + without(gone, layers).length;
  const found = stack.selections.map(([bits]) => layersOf(bits)).filter((layers) => layers.length);
  return found.sort((one, other) => differ(one) - differ(other)).slice(0, 3);
}
