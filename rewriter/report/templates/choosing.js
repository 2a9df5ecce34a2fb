/* Which layers may go, what is left then, and which ones a strategy takes.
 *
 * The rules are those of bounds.py, plan.py, weighing.py, strategies.py, selection.py and suggesting.py, under the
 * same names; tests/report/test_choices.py compares them. Nothing here knows the page. Layers are ascending arrays.
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

/* -- what limits the layers -- */

const UNBOUND = { stay: [], period: 1, not_first: [], not_last: [], counts: [], at_least: 1, among: null, requires: {},
  one_of: [], apart: [], never: false, soft: false };
const asBound = (stated) => ({ ...UNBOUND, ...stated });

function breaks(bound, kept, count) {
  const there = new Set(kept);
  const states = bound.apart.map((state) => kept.filter((layer) => layer < state).length);
  return (
    bound.never ||
    amongOf(bound, kept).length < bound.at_least ||
    !bound.stay.every((layer) => there.has(layer)) ||
    (bound.period > 1 && moves(bound, kept)) ||
    bound.not_first.includes(kept[0]) ||
    bound.not_last.includes(kept.at(-1)) ||
    bound.counts.includes(kept.length) ||
    bound.counts.includes(count) ||
    (bound.one_of.length > 0 && !bound.one_of.some((layer) => there.has(layer))) ||
    new Set(states).size < states.length ||
    kept.some((layer) => layer in bound.requires && !there.has(bound.requires[layer]))
  );
}

const amongOf = (bound, kept) => (bound.among ? kept.filter((layer) => bound.among.includes(layer)) : kept);

/** Whether a layer does not keep its place in the period. */
function moves(bound, kept) {
  const place = (layer) => (bound.among ? bound.among.indexOf(layer) : layer);
  return amongOf(bound, kept).some((layer, now) => mod(place(layer) - now, bound.period) !== 0);
}

function broken(bounds, kept, count) {
  return kept.length === count ? undefined : bounds.find((bound) => breaks(bound, kept, count));
}

/** Whether another period and offset give every kept layer what it was. */
function solvable(pattern, kept) {
  const wanted = kept.map((layer) => pattern.kinds[layer]);
  const kind = (at, period, offset) =>
    at < pattern.head.length ? pattern.head[at] : +((at - pattern.head.length) % period === mod(offset, period));
  return range(1, wanted.length + 2).some((period) =>
    (pattern.offset === null ? range(0, period) : [pattern.offset]).some((offset) =>
      wanted.every((each, at) => each === kind(at, period, offset))));
}

/** The bounds that may not be broken by `kept`; some patterns bind only what no period can say. */
function hardBounds(stack, kept) {
  const bounds = stack.bounds.map(asBound).filter((bound) => !bound.soft);
  if (stack.period > 1 && !stack.patterns.every((pattern) => solvable(pattern, kept))) {
    const why = `the loader knows only periods, of ${stack.period} together, and no others fit`;
    bounds.push(asBound({ why, period: stack.period }));
  }
  return [...bounds, ...stack.late.map(asBound)];
}

const sure = (stack) => asBound({ why: "", period: stack.period });

/** Why the layers cannot be all that is kept, "" if they can. */
function refusal(stack, kept) {
  if (kept.length === stack.layers) return "";
  if (!kept.length) return "at least one layer must stay";
  return stack.refused || (broken(hardBounds(stack, kept), kept, stack.layers)?.why ?? "");
}

/** Up to three selections that may be kept, those that differ in the fewest layers. */
function alternatives(stack, kept) {
  const bounds = hardBounds(stack, kept);
  const hopeless = stack.refused || !kept.length || broken(bounds, kept, stack.layers)?.never;
  return hopeless || stack.layers > stack.searched ? [] : nearest([...bounds, sure(stack)], kept, stack.layers, 3);
}

function warningsOf(stack, kept) {
  if (kept.length === stack.layers) return [];
  const moved = kept.some((layer, now) => layer !== now);
  const is = { "{dropped}": true, "{moved}": moved, "{first}": kept[0] > 0 };
  const said = stack.warnings.filter(([when]) => is[when]).map(([, text]) => text.replaceAll("{first}", kept[0]));
  const soft = stack.bounds.map(asBound).filter((bound) => bound.soft && breaks(bound, kept, stack.layers));
  return [...soft.map((bound) => bound.why), ...said];
}

/* -- what is left -- */

/** Tensors, parameters and bytes that stay with `kept`. */
function weigh(stack, kept, dropPredictions = false) {
  const there = new Set([...kept, ...(dropPredictions ? [] : range(stack.layers, stack.layers + stack.predictions))]);
  const stays = ({ needs = [], users = [], own = [], later = false }) => {
    const left = users.filter((user) => there.has(user));
    const held = !users.length || (left.length > 0 && (left[0] === users[0] || !own.includes(left[0])));
    return held && needs.every((layer) => there.has(layer)) && !(later && needs[0] === kept[0]);
  };
  const sum = [0, 0, 0];
  for (const part of stack.weights) if (stays(part)) part.weighs.forEach((amount, at) => { sum[at] += amount; });
  return { tensors: sum[0], parameters: sum[1], bytes: sum[2] };
}

/** The bytes of all files, at least and at most: what stands beside the tensors is known to some kB. */
function outputSize(stack, kept) {
  const { tensors, bytes } = weigh(stack, kept);
  const { most, with_most: upper, fewest, with_fewest: lower, slack } = stack.rest;
  if (kept.length === stack.layers) return [bytes + upper, bytes + upper];
  const beside = most > fewest ? lower + ((upper - lower) * (tensors - fewest)) / (most - fewest) : upper;
  return [bytes + Math.round(beside) - slack, bytes + Math.round(beside) + slack];
}

/* -- searching: as bounds.py does it -- */

const TRIED = 8, WAYS = 320, SUGGESTED = 16;

function compare(one, other) {
  for (let at = 0; at < Math.min(one.length, other.length); at++) {
    const order = Array.isArray(one[at]) ? compare(one[at], other[at]) : one[at] - other[at];
    if (order) return order;
  }
  return one.length - other.length;
}

function distinct(selections) {
  return [...new Map(selections.map((kept) => [kept.join(), kept])).values()];
}

function nearest(bounds, kept, count, most) {
  const groups = bounds.map((bound) => bound.one_of).filter((one) => one.length && !one.some((layer) => kept.includes(layer)));
  const found = distinct(eachChoice(bounds, groups).flatMap((tried) => nearestWith(tried, kept, count, most)));
  const differ = (each) => each.filter((layer) => !kept.includes(layer)).length + without(kept, each).length;
  const key = (each) => [differ(each), Math.abs(each.length - kept.length), each];
  return found.map((each) => [key(each), each]).sort((a, b) => compare(a[0], b[0])).slice(0, most).map(([, each]) => each);
}

/** The bounds with one layer of every group held, for each that could be. */
function eachChoice(bounds, groups) {
  return groups.reduce((tries, group) => tries.flatMap((each) =>
    group.slice(-TRIED).map((one) => [...each, asBound({ why: "", stay: [one] })])), [bounds]);
}

function nearestWith(bounds, kept, count, most) {
  const steps = range(0, count).map((layer) => (kept.includes(layer) ? [1, 0] : [0, 1]));
  return walked(bounds, steps, 2 * most, count, WAYS)
    .filter(([, chosen]) => chosen.length < count && !broken(bounds, chosen, count))
    .map(([cost, chosen]) => [cost, Math.abs(chosen.length - kept.length), chosen])
    .sort(compare).slice(0, most).map(([, , chosen]) => chosen);
}

/** Selections that drop `dropped` layers of the least cost together and break no bound, the cheapest first. */
function* cheapest(bounds, costs, dropped, most) {
  const count = costs.length;
  const held = new Set(bounds.flatMap((bound) => bound.stay));
  const free = range(0, count).filter((layer) => !held.has(layer)).sort((a, b) => costs[a] - costs[b] || a - b);
  const best = without(range(0, count), free.slice(0, dropped));
  const first = free.length >= dropped && best.length > 0 && !broken(bounds, best, count);
  if (first) yield best;
  const steps = costs.map((cost) => [cost, 0]);
  const ends = eachChoice(bounds, bounds.map((bound) => bound.one_of).filter((one) => one.length))
    .flatMap((tried) => walked(tried, steps, most, dropped, WAYS * dropped))
    .filter(([, chosen]) => chosen.length === count - dropped && !broken(bounds, chosen, count)).sort(compare);
  const found = distinct([...(first ? [best] : []), ...ends.map(([, chosen]) => chosen)]).slice(0, most);
  yield* first ? found.slice(1) : found;
}

/** Ways over all layers, each dropped at the first cost of its step or kept at the second; the best for every state. */
function walked(bounds, steps, most, mostDropped, states) {
  const places = bounds.map((bound) => new Map((bound.among ?? []).map((layer, place) => [layer, place])));
  const held = new Set(bounds.flatMap((bound) => bound.stay));
  let ways = new Map([["", { state: [0, ...bounds.map(() => 0)], found: [[0, []]] }]]);
  steps.forEach(([drop, keep], layer) => {
    const following = new Map();
    const add = (state, found) => {
      const key = state.join();
      if (!following.has(key)) following.set(key, { state, found: [] });
      following.get(key).found.push(...found);
    };
    for (const { state, found } of ways.values()) {
      if (!held.has(layer) && layer - state[0] < mostDropped) {
        add(state, found.map(([cost, chosen]) => [cost + drop, chosen]));
      }
      if (mayStay(bounds, places, layer, state)) {
        const more = [state[0] + 1, ...places.map((place, at) => state[at + 1] + place.has(layer))];
        const met = found.filter(([, chosen]) => bounds.every((bound) =>
          !(layer in bound.requires) || chosen.includes(bound.requires[layer])));
        add(more, met.map(([cost, chosen]) => [cost + keep, [...chosen, layer]]));
      }
    }
    const best = [...following.values()].filter(({ found }) => found.length);
    for (const way of best) way.found = way.found.sort(compare).slice(0, most);
    best.sort((a, b) => a.found[0][0] - b.found[0][0] || compare(a.state, b.state));
    ways = new Map(best.slice(0, states).map((way) => [way.state.join(), way]));
  });
  return [...ways.values()].flatMap(({ found }) => found).filter(([, chosen]) => chosen.length);
}

/** Whether `layer` may follow where so many layers are kept. */
function mayStay(bounds, places, layer, state) {
  return !bounds.some((bound, at) =>
    shifts(bound, places[at], layer, state[0], state[at + 1]) || (!state[0] && bound.not_first.includes(layer)));
}

function shifts(bound, places, layer, kept, counted) {
  if (bound.period === 1 || (bound.among && !places.has(layer))) return false;
  return mod(bound.among ? places.get(layer) - counted : layer - kept, bound.period) !== 0;
}

/* -- choosing: as strategies.py, suggesting.py and selection.py do it -- */

/** What was asked for makes no sense; Refused: the architecture does not let it happen. */
class Mistaken extends Error {}
class Refused extends Error {}

function alternate(candidates, count, parity) {
  const those = candidates.filter((layer) => layer % 2 === parity);
  if (count > those.length) throw new Mistaken(`it can drop at most ${those.length} layers here, not ${count}`);
  return those.slice(those.length - count);
}

const STRATEGIES = {
  top: (candidates, count) => candidates.slice(candidates.length - count),
  bottom: (candidates, count) => candidates.slice(0, count),
  "even-alternate": (candidates, count) => alternate(candidates, count, 1),
  "odd-alternate": (candidates, count) => alternate(candidates, count, 0),
  symmetric: (candidates, count) => block(candidates, Math.floor((candidates.length - count + 1) / 2), count),
  "deepest-but-last": (candidates, count) => {
    if (count > candidates.length - 1) {
      throw new Mistaken(`it can drop at most ${Math.max(0, candidates.length - 1)} layers here, not ${count}`);
    }
    return block(candidates, candidates.length - 1 - count, count);
  },
  middle: (candidates, count) => block(candidates, Math.floor((candidates.length - count) / 2), count),
  "first-n": (candidates, count) => candidates.slice(candidates.length - count),
};

const block = (candidates, start, count) => candidates.slice(start, start + count);

function recipe(order) {
  return (candidates, count) => {
    const those = order.filter((layer) => candidates.includes(layer));
    if (count > those.length) throw new Mistaken(`it names ${those.length} layers that may go here, not ${count}`);
    return those.slice(0, count).sort((a, b) => a - b);
  };
}

function byScores(stack, costs, contiguous) {
  const every = range(0, stack.layers);
  return (candidates, count) => {
    if (!count) return [];
    for (const kept of contiguous ? blocks(every, candidates, count, costs) : inOrder(stack, candidates, count, costs)) {
      if (!refusal(stack, kept)) return without(every, kept);
    }
    throw new Refused(`no ${count} of the layers that may go can be dropped together`);
  };
}

function* inOrder(stack, candidates, count, costs) {
  const stay = asBound({ why: "", stay: without(range(0, stack.layers), candidates) });
  const bounds = [stay, ...stack.bounds.map(asBound).filter((bound) => !bound.soft)];
  yield* cheapest(bounds, costs, count, SUGGESTED);
  if (stack.period > 1) yield* cheapest([...bounds, sure(stack)], costs, count, SUGGESTED);
}

/** What is kept without each block of `count` candidates in a row, the cheapest block first. */
function blocks(every, candidates, count, costs) {
  const there = new Set(candidates);
  const cost = (run) => run.reduce((sum, layer) => sum + costs[layer], 0);
  return candidates.map((first) => range(first, first + count)).filter((run) => run.every((layer) => there.has(layer)))
    .sort((a, b) => cost(a) - cost(b) || a[0] - b[0]).map((run) => without(every, run));
}

/** Half to even, as Python rounds. */
function rounded(number) {
  const low = Math.floor(number);
  const over = number - low;
  return over > 0.5 || (over === 0.5 && low % 2) ? low + 1 : low;
}

/** Bytes in `4GiB`, `4.5GB` or `4000000000`. */
function parseSize(text) {
  const match = /^([0-9]{1,15})(?:[.]([0-9]{1,9}))? ?(?:([KMGT])(i)?)?B?$/i.exec(text);
  if (!match) throw new Mistaken("write a size as 4GiB, 4.5GB or 4000000000");
  const [, whole, part = "", scale = "", binary] = match;
  const unit = BigInt(binary ? 1024 : 1000) ** BigInt(scale ? "kmgt".indexOf(scale.toLowerCase()) + 1 : 0);
  return Number((BigInt(whole + part) * unit) / 10n ** BigInt(part.length));
}

function amountOf(asked, count) {
  if (asked.by === "ratio") {
    if (!(asked.amount > 0 && asked.amount < 1)) throw new Mistaken("write a share between 0 and 1, such as 0.25");
    return Math.max(1, rounded(asked.amount * count));
  }
  if (!(Number.isInteger(asked.amount) && asked.amount >= 1)) throw new Mistaken("write a whole number from 1");
  if (asked.strategy !== "first-n") return asked.amount;
  if (asked.amount > count) throw new Mistaken(`there are only ${count} layers to keep`);
  return count - asked.amount;
}

/** How many layers at the beginning and at the end may not go. */
function protection(stack, asked) {
  const [first, last] = isScored(stack, asked) ? stack.protected : [0, 0];
  return [asked.first ?? first, asked.last ?? last];
}

const isScored = (stack, asked) => asked.strategy in stack.scores;

function strategyOf(stack, asked) {
  if (isScored(stack, asked)) return byScores(stack, stack.scores[asked.strategy], asked.contiguous);
  return asked.strategy in stack.recipes ? recipe(stack.recipes[asked.strategy]) : STRATEGIES[asked.strategy];
}

/** The layers to keep for {strategy, by: count | ratio | size, amount, first, last, contiguous}.
 *
 * Gives {kept}, with `close` where only the program knows the size well enough. Throws Mistaken or Refused.
 */
function choose(stack, asked) {
  const count = stack.layers;
  const strategy = strategyOf(stack, asked);
  const [first, last] = protection(stack, asked);
  if (last && asked.strategy === "first-n") throw new Mistaken("first-n keeps the first layers alone: protect no last ones");
  const spared = asked.strategy === "deepest-but-last" ? Math.max(0, last - 1) : last;
  const candidates = range(first, count - spared);
  const every = range(0, count);
  if (asked.by === "size") return fitting(stack, strategy, candidates, parseSize(asked.amount));
  const amount = amountOf(asked, count);
  if (amount > candidates.length) throw new Mistaken(`${amount} layers cannot go: ${candidates.length} of the ${count} may`);
  const gone = asked.by === "ratio" && isScored(stack, asked)
    ? nearestAmount(strategy, candidates, amount) : strategy(candidates, amount);
  const kept = without(every, gone);
  if (!kept.length) throw new Mistaken(`that would leave no layer: at most ${count - 1} of the ${count} can go`);
  return { kept };
}

/** `amount` layers or, where the architecture does not let so many go, as near as it can be. */
function nearestAmount(strategy, candidates, amount) {
  const others = range(1, candidates.length + 1);
  let refused = new Mistaken("no layer may go");
  for (const other of others.sort((a, b) => Math.abs(a - amount) - Math.abs(b - amount) || a - b)) {
    try {
      return strategy(candidates, other);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (!(refused instanceof Refused)) refused = error;
    }
  }
  throw refused;
}

/** The fewest layers that must go for the output to fit. */
function fitting(stack, strategy, candidates, target) {
  let close = false;
  for (const amount of range(0, Math.min(candidates.length, stack.layers - 1) + 1)) {
    let kept;
    try {
      kept = without(range(0, stack.layers), strategy(candidates, amount));
    } catch (error) {
      if (error instanceof Mistaken) break;
      continue; // this many cannot go, more perhaps can
    }
    if (refusal(stack, kept)) continue;
    const [least, most] = outputSize(stack, kept);
    if (most <= target) return { kept, close };
    close ||= least <= target;
  }
  throw new Mistaken("no selection fits into that size");
}
