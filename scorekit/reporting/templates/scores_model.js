"use strict";
// The rows of a report of scores: what a row is, how rows are filtered and sorted. No drawing.
const model = (() => {
  const { data } = scorekit;
  const { rows, metrics } = data;
  // Metrics that judge a row's words alike have one list; the others name the metric that has it.
  for (const by of Object.values(data.words)) {
    for (const m of Object.keys(by)) if (typeof by[m] === "number") by[m] = by[by[m]];
  }
  const n = rows.system.length;
  const names = metrics.map((metric) => metric.name);
  const headlines = [...metrics.keys()].filter((m) => metrics[m].headline);
  const several = data.runs.length > 1;
  const judged = Object.keys(data.words).length > 0;

  const value = (metric, row) => rows.values[metric][row];
  const text = (row) => data.texts[rows.text[row]];
  const sourceText = (row) => (rows.sourceText ? data.texts[rows.sourceText[row]] : "");
  const system = (row) => data.systems[rows.system[row]];
  const item = (row) => data.items[rows.item[row]];
  const run = (row) => data.runs[rows.run[row]];
  const picture = (row) => data.pictures[rows.picture[row]];
  const source = (row) => (rows.source ? data.pictures[rows.source[row]] : null);
  const notes = (row) => data.notes[row] || [];
  const makers = (row) =>
    [several && run(row), system(row) || "(no system)", rows.index[row] && `#${rows.index[row]}`]
      .filter(Boolean);
  const maker = (row) => makers(row).join(" · ");
  const title = (row) => `${item(row)} · ${maker(row)}`;

  const show = (number) => {
    if (number === null || number === undefined) return "–";
    if (number && Math.abs(number) < 1e-3) return Number(number.toPrecision(3)).toExponential();
    return Number(number.toPrecision(4)).toString();
  };

  const spans = metrics.map((_, m) => {
    let [low, high] = [Infinity, -Infinity];
    for (const v of rows.values[m]) {
      if (v === null) continue;
      if (v < low) low = v;
      if (v > high) high = v;
    }
    return [low, high];
  });
  // How good among all rows, 0 the worst and 1 the best.
  const share = (metric, row) => {
    const [low, high] = spans[metric];
    const v = value(metric, row);
    if (v === null) return 0;
    const at = high > low ? (v - low) / (high - low) : 1;
    return metrics[metric].up ? at : 1 - at;
  };

  const byItem = new Map();
  for (let row = 0; row < n; row++) {
    const code = rows.item[row];
    if (!byItem.has(code)) byItem.set(code, []);
    byItem.get(code).push(row);
  }
  const siblings = (row) => byItem.get(rows.item[row]);

  // The best of some rows by a metric; nobody wins alone.
  const winners = (metric, among) => {
    const scored = among.filter((row) => value(metric, row) !== null);
    if (scored.length < 2) return new Set();
    const all = scored.map((row) => value(metric, row));
    const best = metrics[metric].up ? Math.max(...all) : Math.min(...all);
    return new Set(scored.filter((row) => value(metric, row) === best));
  };

  // The status of a row for a metric; of a component, its metric's.
  const problem = (metric, row) => {
    const own = notes(row).find(([m]) => m === metric);
    if (own) return own;
    const parent = names.indexOf(names[metric].split(".").slice(0, -1).join("."));
    return parent < 0 ? undefined : notes(row).find(([m]) => m === parent);
  };
  const statuses = (row) => {
    // A component that has no value is no failure of its row.
    const lost = notes(row)
      .filter(([m, status]) => metrics[m].headline && status !== "ok")
      .map(([, status]) => status);
    return lost.length ? lost : ["ok"];
  };

  const haystacks = new Map();
  const haystack = (row) => {
    if (!haystacks.has(row)) {
      const parts = [title(row), text(row), sourceText(row), rows.path[row]];
      for (const tag of data.tags) parts.push(tag.values[tag.codes[row]]);
      for (const [, status, note] of notes(row)) parts.push(status, note);
      haystacks.set(row, parts.join("\n").toLowerCase());
    }
    return haystacks.get(row);
  };

  const fits = (wish, row) => {
    if (wish.run !== null && rows.run[row] !== wish.run) return false;
    if (wish.system !== null && rows.system[row] !== wish.system) return false;
    if (wish.tag !== null && wish.value !== null && data.tags[wish.tag].codes[row] !== wish.value)
      return false;
    if (wish.status && !statuses(row).includes(wish.status)) return false;
    if (wish.item && !item(row).toLowerCase().includes(wish.item)) return false;
    if (wish.low !== null || wish.high !== null) {
      const v = value(wish.metric, row);
      if (v === null) return false;
      if (wish.low !== null && v < wish.low) return false;
      if (wish.high !== null && v > wish.high) return false;
    }
    return wish.words.every((word) => haystack(row).includes(word));
  };

  // What rows are sorted by besides scores: in the alphabet's order, numbers in it as numbers.
  const { compare } = new Intl.Collator("en", { numeric: true });
  const lostFirst = (a, b) => (a === "ok") - (b === "ok") || compare(a, b);
  const keys = [
    { name: "system", of: system },
    { name: "item", of: item },
    { name: "status", of: (row) => statuses(row)[0], order: lostFirst },
    ...data.tags.map((tag) => ({ name: tag.name, of: (row) => tag.values[tag.codes[row]] })),
  ];
  const byKey = (found, { of, order = compare }, falling) => {
    const texts = new Map(found.map((row) => [row, of(row)]));
    const sorted = [...new Set(texts.values())].sort(order);
    const place = new Map(sorted.map((text, i) => [text, falling ? -i : i]));
    return found.sort((a, b) => place.get(texts.get(a)) - place.get(texts.get(b)) || a - b);
  };

  // Rows in order; those without a score last.
  const select = (wish) => {
    const found = [];
    for (let row = 0; row < n; row++) if (fits(wish, row)) found.push(row);
    if (wish.key !== null) return byKey(found, keys[wish.key], !wish.worst);
    if (wish.metric === null) {
      if (!wish.worst) found.reverse();
      return found;
    }
    const column = rows.values[wish.metric];
    const sign = metrics[wish.metric].up === wish.worst ? 1 : -1;
    return found.sort((a, b) => {
      const [x, y] = [column[a], column[b]];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return sign * (x - y) || a - b;
    });
  };

  // Items in the order of their first row.
  const itemsOf = (found) => [...new Set(found.map((row) => rows.item[row]))];

  return {
    data, rows, metrics, names, headlines, several, judged, n, byItem,
    value, text, sourceText, system, item, run, picture, source, notes, makers, maker, title,
    show, share, siblings, winners, problem, statuses, keys, select, itemsOf,
  };
})();
