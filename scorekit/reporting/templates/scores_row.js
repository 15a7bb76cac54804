"use strict";
// How a row looks: as a card, beside its siblings, and opened. Texts go in as texts, never as HTML.
const view = (() => {
  const { data, rows, metrics, names } = model;

  const make = (tag, kind, ...children) => {
    const element = document.createElement(tag);
    if (kind) element.className = kind;
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const isolated = (value) => make("bdi", "", value);
  // Each for itself, so that a name from right to left turns no other around.
  const joined = (names) =>
    names.flatMap((name, i) => (i ? [" · ", isolated(name)] : [isolated(name)]));
  const titled = (row) => joined([model.item(row), ...model.makers(row)]);

  // A metric's name may be broken after a dot.
  const named = (metric) => {
    const parts = names[metric].split(/(?<=\.)/);
    return make("bdi", "", ...parts.flatMap((part, i) => (i ? [make("wbr"), part] : [part])));
  };

  const image = (picture, alt) => {
    if (picture.src) {
      const img = make("img");
      img.src = `data:image/webp;base64,${picture.src}`;
      img.alt = alt;
      img.decoding = "async";
      return img;
    }
    return make("span", "hole", isolated(`No picture: ${picture.why}`));
  };
  const about = (row) => {
    const text = scorekit.short(model.text(row), 200);
    return text ? `${model.maker(row)}: ${text}` : `${model.maker(row)}, no prompt`;
  };

  const percent = (share) => `${share > 0 ? "+" : ""}${Math.round(share / 10)}%`;

  // The words of a row's text, by a metric or by the first that has any.
  const told = (row, metric) => {
    const by = data.words[row];
    return (by && (by[metric] || Object.values(by)[0])) || [];
  };
  // A word with a heat map; in an open row it is a button, which a text of its own is not.
  const mappable = (element, row, word, map, button) => {
    element.classList.add("mapped");
    Object.assign(element.dataset, { row, word, map });
    if (button) {
      element.tabIndex = 0;
      element.setAttribute("role", "button");
      element.setAttribute("aria-pressed", "false");
    }
    return element;
  };

  // The prompt, its words by what they add to the score: underlined if misaligned.
  const prompt = (row, metric, kind, words = told(row, metric)) => {
    const out = make("p", kind);
    out.dir = "auto";
    const text = model.text(row);
    if (!text) {
      out.append(make("span", "none", "no prompt"));
      return out;
    }
    let done = 0;
    for (const [start, end, share, flagged, map] of words) {
      if (start < done) continue;
      const word = make("span", flagged ? "word flagged" : "word", text.slice(start, end));
      word.classList.add(share < 0 ? "down" : "up");
      word.style.setProperty("--much", `${Math.round(Math.sqrt(Math.abs(share) / 1000) * 100)}%`);
      word.title = `${percent(share)} of the largest`;
      if (map !== undefined) mappable(word, row, text.slice(start, end), map, kind === "full");
      if (flagged) word.append(make("span", "sr", " (misaligned)"));
      out.append(text.slice(done, start), word);
      done = end;
    }
    out.append(text.slice(done));
    return out;
  };

  const score = (metric, row) => {
    const found = model.value(metric, row);
    if (found !== null) return make("dd", "", model.show(found));
    const problem = model.problem(metric, row);
    if (!problem) return make("dd", "", "–");
    const out = make("dd", "none", problem[1]);
    out.title = problem[2];
    return out;
  };
  const scores = (row, shown, by, won) =>
    make(
      "dl",
      "scores",
      ...shown.map((metric) => {
        const line = make("div", metric === by ? "by" : "");
        const name = make("dt", "", isolated(names[metric]));
        name.title = names[metric];
        const cell = score(metric, row);
        if (won && won.get(metric).has(row)) {
          cell.prepend(make("span", "best", "★", make("span", "sr", " best ")));
        }
        line.style.setProperty("--fill", `${Math.round(model.share(metric, row) * 100)}%`);
        line.append(name, cell);
        return line;
      }),
    );

  const opener = (row, names) => {
    const button = make("button", "open", ...joined(names));
    button.type = "button";
    button.dataset.row = row;
    button.title = model.title(row);
    return button;
  };

  // The picture of a row, over which its heat maps are drawn.
  const main = (row) => {
    const shown = image(model.picture(row), about(row));
    shown.dataset.shows = row;
    return shown;
  };
  const frame = (row) => {
    const source = model.source(row);
    const shown = main(row);
    if (!source) return make("div", "frame", shown);
    const before = make("span", "half mini", image(source, "source"), make("span", "tab", "source"));
    return make("div", "frame", before, make("span", "half", shown, make("span", "tab", "edited")));
  };

  const card = (row, shown, by) => {
    const box = make(
      "div", "about", opener(row, [model.item(row)]),
      make("div", "maker", ...joined(model.makers(row))),
      prompt(row, by, "prompt"), scores(row, shown, by),
    );
    return make("li", "card", frame(row), box);
  };

  const wonBy = (shown, among) => new Map(shown.map((m) => [m, model.winners(m, among)]));

  // Beside others of its item, a row has its own misaligned words, or else its lowest.
  const missed = (row, by) => {
    const text = model.text(row);
    const words = [...told(row, by)].sort((a, b) => a[2] - b[2]);
    const flagged = words.filter((word) => word[3]);
    const line = make("div", "missed", flagged.length ? "misaligned: " : words.length ? "lowest: " : "");
    (flagged.length ? flagged : words.slice(0, 1)).forEach(([start, end, , , map], i) => {
      const word = make("span", flagged.length ? "word flagged" : "word", text.slice(start, end));
      if (map !== undefined) mappable(word, row, text.slice(start, end), map);
      line.append(i ? ", " : "", word);
    });
    return line;
  };

  const sideBySide = (item, shown, by) => {
    const among = model.byItem.get(item);
    const won = wonBy(shown, among);
    const strip = make(
      "div", "strip",
      ...among.map((row) => {
        const box = make("div", "beside", make("div", "frame", main(row)), opener(row, model.makers(row)));
        if (model.judged) box.append(missed(row, by));
        box.append(scores(row, shown, by, won));
        return box;
      }),
    );
    const head = make("div", "name", isolated(data.items[item]));
    // Which of its words are misaligned differs from image to image.
    return make("li", "card side", head, prompt(among[0], by, "prompt", []), strip);
  };

  const change = (a, b, difference, metric) => {
    const pair = make(
      "div", "frame",
      make("span", "half", image(model.picture(a), about(a)), make("span", "tab", "before")),
      make("span", "half", image(model.picture(b), about(b)), make("span", "tab", "after")),
    );
    const better = difference > 0 === metrics[metric].up;
    const said = `${model.show(model.value(metric, a))} → ${model.show(model.value(metric, b))}`;
    return make(
      "li", "changed", pair,
      opener(b, [model.item(b), model.system(b) || "(no system)"]),
      make("div", "change", `${difference > 0 ? "+" : ""}${model.show(difference)} `,
        make("span", better ? "" : "none", better ? "▲ better" : "▼ worse")),
      make("div", "unit", said),
    );
  };

  // Opened ---------------------------------------------------------------------------------

  let cut = 50, differing = false; // kept from row to row
  const slider = (row) => {
    const under = image(model.source(row), "source image");
    const over = main(row);
    over.classList.add("over");
    const edge = make("span", "edge");
    const box = make("div", "large pair", under, over, edge);
    const range = make("input");
    range.type = "range";
    range.min = 0;
    range.max = 100;
    range.value = cut;
    range.setAttribute("aria-label", "How much of the source is shown, in percent");
    const differ = make("input");
    differ.type = "checkbox";
    differ.checked = differing;
    const show = () => {
      [cut, differing] = [range.value, differ.checked];
      box.style.setProperty("--cut", `${cut}%`);
      over.classList.toggle("differ", differing);
      edge.hidden = range.disabled = differing;
    };
    range.addEventListener("input", show);
    differ.addEventListener("change", show);
    show();
    const label = make("label", "", differ, " difference");
    return [box, make("div", "slider", make("span", "unit", "source"), range,
      make("span", "unit", "edited"), label)];
  };

  // The same in figures, for those who can't tell the colours.
  const words = (row) => {
    const text = model.text(row);
    const alike = new Map(); // metrics that judge the words alike have one list
    for (const [m, found] of Object.entries(data.words[row])) {
      const key = found.map((word) => word.slice(0, 4)).join(";");
      alike.set(key, [...(alike.get(key) || []), [m, found]]);
    }
    return [...alike.values()].map((those) => {
      const found = those[0][1];
      const by = those.flatMap(([m], i) => (i ? [" and ", named(m)] : [named(m)]));
      const list = make("ol", "words");
      for (const [start, end, share, flagged] of [...found].sort((a, b) => a[2] - b[2])) {
        const line = make("li", "", isolated(text.slice(start, end)), ` ${percent(share)}`);
        if (flagged) line.append(make("b", "", " misaligned"));
        list.append(line);
      }
      return make("details", "", make("summary", "", "Words by ", ...by),
        make("p", "note", "What each adds, as a share of the largest."), list);
    });
  };

  // What may be wider than its place is scrolled by the keyboard as well.
  const scrolling = (name, table) => {
    const box = make("div", "scroll", table);
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", `Table: ${name}`);
    return box;
  };
  const table = (row) => {
    const body = make("tbody");
    for (const [m, metric] of metrics.entries()) {
      const found = model.value(m, row);
      const problem = model.problem(m, row);
      if (found === null && !problem) continue;
      const name = make("th", "", named(m));
      name.scope = "row";
      const told = make("td", "text");
      if (found === null) told.append(make("span", "none", problem[1], ": "), isolated(problem[2]));
      else {
        if (!metric.up) told.append(make("span", "unit", "lower is better "));
        if (problem) told.append(isolated(problem[2]));
      }
      body.append(make("tr", metric.headline ? "" : "dim", name, make("td", "", model.show(found)), told));
    }
    return scrolling("Scores", make("table", "", body));
  };

  const across = (row, open) => {
    const among = model.siblings(row);
    if (among.length < 2) return [];
    const shown = [...metrics.keys()].filter((m) => among.some((r) => model.value(m, r) !== null));
    const won = wonBy(shown, among);
    const head = make("tr", "", make("td"));
    for (const r of among) {
      const makers = model.makers(r);
      const label = r === row ? make("b", "", ...joined(makers)) : opener(r, makers);
      const cell = make("th", r === row ? "here" : "",
        make("div", "frame", image(model.picture(r), about(r))), label);
      cell.scope = "col";
      head.append(cell);
    }
    const body = make("tbody");
    for (const m of shown) {
      const name = make("th", "", named(m));
      name.scope = "row";
      const line = make("tr", metrics[m].headline ? "" : "dim", name);
      for (const r of among) {
        const star = won.get(m).has(r) ? make("span", "best", "★", make("span", "sr", " best ")) : null;
        line.append(make("td", r === row ? "here" : "", star, ...score(m, r).childNodes));
      }
      body.append(line);
    }
    const grid = make("table", "across first", make("thead", "", head), body);
    grid.addEventListener("click", (event) => {
      const button = event.target.closest(".open");
      if (button) open(Number(button.dataset.row));
    });
    return [make("h3", "", "This item across systems"),
      make("p", "note", "★ the best by that metric"), scrolling("This item across systems", grid)];
  };

  const facts = (row) => {
    const list = make("dl", "facts");
    const picture = model.picture(row);
    const lines = [["file", rows.path[row]], ["item", model.item(row)], ["system", model.system(row)]];
    if (model.several) lines.push(["run", model.run(row)]);
    if (picture.w) lines.push(["size", `${picture.w} × ${picture.h}`]);
    for (const tag of data.tags) lines.push([tag.name, tag.values[tag.codes[row]]]);
    for (const [name, found] of lines) {
      if (found) list.append(make("dt", "", isolated(name)), make("dd", "", isolated(found)));
    }
    return list;
  };

  const opened = (row, by, open) => {
    const edited = model.source(row);
    const large = edited
      ? slider(row)
      : [make("div", "large", main(row))];
    const left = make("div", "", ...large);
    if (told(row, by).some((word) => word.length > 4)) {
      const legend = make("p", "note heat-legend", ...heat.hint());
      legend.setAttribute("role", "status");
      left.append(legend);
    }
    const right = make("div", "");
    right.append(prompt(row, by, "full"));
    if (data.words[row]) {
      right.append(make("p", "note",
        "Underlined words are misaligned. Red pulls the score down, teal lifts it."));
      right.append(...words(row));
    }
    if (edited && model.sourceText(row)) {
      const before = make("p", "note", "Source: ", isolated(model.sourceText(row)));
      right.append(before);
    }
    right.append(make("h3", "", "Scores"), table(row));
    for (const [m, text] of Object.entries(data.evidence[row] || {})) {
      const proof = make("pre", "", text);
      proof.dir = "auto";
      proof.tabIndex = 0;
      right.append(make("h3", "", "What ", isolated(names[m]), " rests on"), proof);
    }
    right.append(make("h3", "", "Row"), facts(row));
    return [left, right, make("div", "wide", ...across(row, open))];
  };

  return { make, titled, card, sideBySide, change, opened };
})();
