"use strict";
// The gallery: what is asked for, the rows in view, and the row that is open.
(() => {
  const { data, metrics, names, headlines, rows } = model;
  const find = (id) => document.getElementById(id);
  const MOST_SHOWN = 6, MOST_NAMES = 1000, GAP = 14, OVER = 2, MOST_PRINTED = 200;

  // What is asked for --------------------------------------------------------------------------

  const form = find("controls");
  const option = (select, value, label) => {
    const made = document.createElement("option");
    made.value = value;
    made.textContent = label;
    select.append(made);
  };
  const choices = (select, labels, first) => {
    if (first !== undefined) option(select, "", first);
    labels.forEach((label, i) => option(select, i, label));
  };
  const group = (label) => {
    const made = document.createElement("optgroup");
    made.label = label;
    find("sort").append(made);
    return made;
  };
  const [byScore, byColumn] = [group("Score"), group("Column")];
  for (const [m, metric] of metrics.entries()) {
    option(byScore, m, metric.up ? metric.name : `${metric.name} (lower is better)`);
  }
  for (const [k, { name }] of model.keys.entries()) option(byColumn, `key ${k}`, name);
  option(byColumn, "", "order of the table");
  choices(find("by-system"), data.systems.map((name) => name || "(none)"), "all");
  choices(find("by-run"), data.runs, "all");
  find("run-label").hidden = !model.several;
  for (const name of data.items.slice(0, MOST_NAMES)) option(find("item-names"), name, name);
  option(find("by-status"), "", "all");
  const met = new Set();
  for (let row = 0; row < model.n; row++) for (const s of model.statuses(row)) met.add(s);
  for (const status of met) option(find("by-status"), status, status === "ok" ? "ok (scored)" : status);
  const tags = [...data.tags.keys()].filter((t) => data.tags[t].filter);
  option(find("by-tag"), "", "any");
  for (const t of tags) option(find("by-tag"), t, data.tags[t].name);
  find("tag-label").hidden = !tags.length;
  const offerValues = () => {
    const tag = find("by-tag").value;
    find("tag-value-label").hidden = tag === "";
    find("by-value").replaceChildren();
    if (tag !== "") choices(find("by-value"), data.tags[tag].values.map((v) => v || "(empty)"), "all");
  };

  // Words, and "phrases in quotes", of which the last may still be open; all must be found.
  const wordsOf = (text) => [...text.matchAll(/"([^"]+)|[^\s"]+/g)].map((m) => m[1] ?? m[0]);
  const number = (id) => (find(id).value === "" ? null : Number(find(id).value));
  const asked = () => {
    const [, key, metric] = find("sort").value.match(/^key (\d+)$|^(\d+)$/) ?? [];
    const scored = metric !== undefined;
    return {
      metric: scored ? Number(metric) : null,
      key: key === undefined ? null : Number(key),
      worst: find("order").value === "worst",
      run: number("by-run"),
      system: number("by-system"),
      item: find("by-item").value.trim().toLowerCase(),
      status: find("by-status").value,
      tag: number("by-tag"),
      value: number("by-value"),
      // A range of the scores by which it is sorted.
      low: scored ? number("low") : null,
      high: scored ? number("high") : null,
      words: wordsOf(find("find").value.toLowerCase()),
    };
  };

  // The rows in view ---------------------------------------------------------------------------

  const grid = find("grid");
  let wish, found, entries, items, shape;
  const made = new Map();
  const shown = () => {
    const balance = [...metrics.keys()].filter((m) => /\.(modification|preservation)$/.test(names[m]));
    const both = rows.source ? balance.slice(0, 2) : [];
    const out = [...headlines.slice(0, MOST_SHOWN - both.length), ...both];
    if (wish.metric !== null && !out.includes(wish.metric)) out.push(wish.metric);
    return out;
  };
  // Heights follow from the style sheet: all lines of a card have fixed ones.
  const measure = () => {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const width = grid.clientWidth;
    const lines = shown().length * 1.35 * rem + shown().length;
    if (items) {
      return { across: 1, width, height: (model.judged ? 19.7 : 16.8) * rem + lines };
    }
    const across = Math.max(1, Math.floor((width + GAP) / ((rows.source ? 17 : 14.5) * rem + GAP)));
    return {
      across,
      width: (width - GAP * (across - 1)) / across,
      height: 13 * rem + 8.6 * rem + lines + 4,
    };
  };
  const render = () => {
    if (!shape.width) return;
    const step = shape.height + GAP;
    const top = -grid.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / step) - OVER) * shape.across;
    const last = Math.min(
      entries.length, (Math.ceil((top + innerHeight) / step) + OVER) * shape.across,
    );
    for (const [at, element] of made) {
      // What has the focus stays, wherever it is.
      if ((at < first || at >= last) && !element.contains(document.activeElement)) {
        element.remove();
        made.delete(at);
      }
    }
    for (let at = first; at < last; at++) if (!made.has(at)) place(at);
  };
  const place = (at) => {
    const element = items
      ? view.sideBySide(entries[at], shown(), wish.metric)
      : view.card(entries[at], shown(), wish.metric);
    const [line, column] = [Math.floor(at / shape.across), at % shape.across];
    element.style.width = `${shape.width}px`;
    element.style.height = `${shape.height}px`;
    element.style.transform =
      `translate(${column * (shape.width + GAP)}px, ${line * (shape.height + GAP)}px)`;
    element.setAttribute("aria-setsize", entries.length);
    element.setAttribute("aria-posinset", at + 1);
    // In the order of the rows, so that the tab key goes from one to the next.
    const later = [...made.keys()].filter((other) => other > at);
    grid.insertBefore(element, later.length ? made.get(Math.min(...later)) : null);
    made.set(at, element);
  };
  // The button that opens a row, though its card may not be in view.
  const buttonOf = (row) => {
    const at = entries.indexOf(items ? rows.item[row] : row);
    if (at < 0) return null;
    if (!made.has(at)) place(at);
    return made.get(at).querySelector(`.open[data-row="${row}"]`);
  };
  const layout = () => {
    shape = measure();
    grid.style.height = `${Math.ceil(entries.length / shape.across) * (shape.height + GAP)}px`;
    for (const element of made.values()) element.remove();
    made.clear();
    render();
  };
  const update = () => {
    wish = asked();
    items = find("view").value === "items";
    found = model.select(wish);
    entries = items ? model.itemsOf(found) : found;
    const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
    find("found").textContent =
      `${count(found.length, "image")} of ${model.n.toLocaleString("en")}` +
      (items ? `, ${count(entries.length, "item")} with all their images` : "");
    const [first, last] =
      wish.metric === null ? ["first to last", "last to first"] : ["worst first", "best first"];
    find("order").options[0].textContent = first;
    find("order").options[1].textContent = last;
    find("low").disabled = find("high").disabled = wish.metric === null;
    const filters = ["run", "system", "value", "low", "high"].filter((name) => wish[name] !== null);
    const active = filters.length + Boolean(wish.item) + Boolean(wish.status);
    find("active").textContent = active ? `(${active} in use)` : "";
    layout();
  };
  let waiting = 0;
  const soon = (what) => () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(what);
  };
  addEventListener("scroll", soon(render), { passive: true });
  addEventListener("beforeprint", () => {
    const last = Math.min(entries.length, MOST_PRINTED);
    for (let at = 0; at < last; at++) if (!made.has(at)) place(at);
    for (const [at, element] of made) element.classList.toggle("unprinted", at >= last);
    const rest = entries.length > last ? `; printed are the first ${last}` : "";
    find("printed").textContent = `${find("found").textContent}${rest}`;
  });
  addEventListener("afterprint", render);
  let width = 0;
  new ResizeObserver(() => {
    if (grid.clientWidth !== width) {
      width = grid.clientWidth;
      layout();
    }
  }).observe(grid);
  let typed = 0;
  form.addEventListener("input", (event) => {
    if (event.target.id === "by-tag") offerValues();
    clearTimeout(typed);
    typed = setTimeout(update, event.target.matches("select") ? 0 : 150);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () =>
    setTimeout(() => {
      offerValues();
      update();
    }),
  );
  for (const button of document.querySelectorAll("button[data-status]")) {
    button.addEventListener("click", () => {
      form.reset();
      find("by-status").value = button.dataset.status;
      find("by-run").value = button.dataset.run;
      find("more").open = true;
      setTimeout(update);
      find("gallery").scrollIntoView();
      find("by-status").focus({ preventScroll: true });
    });
  }

  // The row that is open -----------------------------------------------------------------------

  const dialog = find("row");
  let current = 0, from = 0, opened = null, inGrid = false, leaving = false;
  const order = () => (items ? entries.flatMap((code) => model.byItem.get(code)) : entries);
  const open = (row) => {
    heat.clear();
    current = row;
    find("row-head").replaceChildren(...view.titled(row));
    find("row-body").replaceChildren(...view.opened(row, wish.metric, open));
    const at = order().indexOf(row);
    find("before").disabled = at <= 0;
    find("next").disabled = at < 0 || at === order().length - 1;
    if (!dialog.open) {
      [from, opened] = [row, document.activeElement];
      inGrid = grid.contains(opened);
      dialog.showModal();
      if (!leaving && !isEntered()) enter();
    }
    // What had the focus may be gone with the row before, or can't have it any more.
    const focused = document.activeElement;
    if (!dialog.contains(focused) || focused.disabled) dialog.focus({ preventScroll: true });
    dialog.scrollTop = 0;
  };
  // A word of a card opens its row with its heat map.
  const openAt = (word) => {
    const { row, map } = word.dataset;
    // Where the focus comes back to.
    word.closest("li").querySelector(`.open[data-row="${row}"]`).focus({ preventScroll: true });
    open(Number(row));
    const same = dialog.querySelector(`.full .mapped[data-map="${map}"]`);
    if (!same) return;
    same.focus({ preventScroll: true });
    heat.toggle(same);
  };
  const go = (by) => {
    const next = order()[order().indexOf(current) + by];
    if (next !== undefined && order().includes(current)) open(next);
  };
  find("before").addEventListener("click", () => go(-1));
  find("next").addEventListener("click", () => go(1));
  find("shut").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    heat.clear();
    if (isEntered()) {
      leaving = true;
      history.back();
    }
    // One goes on in the gallery where one has come to.
    const back = (inGrid && buttonOf(current)) || opened;
    back.focus({ preventScroll: true });
    if (inGrid && current !== from) back.closest("li")?.scrollIntoView({ block: "nearest" });
  });
  // An open row is a step of the history, so that Back closes it.
  const isEntered = () => history.state?.opened === true;
  const enter = () => {
    history.scrollRestoration = "manual"; // Back from the row leaves the page where it is
    history.pushState({ opened: true }, "");
    history.scrollRestoration = "auto";
  };
  addEventListener("popstate", () => {
    if (isEntered()) {
      // Forward: to the row that was open last.
      if (!dialog.open) open(current);
      return;
    }
    history.scrollRestoration = "auto";
    if (!leaving) dialog.close();
    else if (dialog.open) enter(); // the next row was opened meanwhile
    leaving = false;
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("input, pre, .scroll")) return;
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") go(-1);
    if (event.key === "ArrowRight") go(1);
  });
  grid.addEventListener("click", (event) => {
    const word = event.target.closest(".mapped");
    if (word) {
      if (!heat.isTap()) openAt(word);
      return;
    }
    const button = event.target.closest(".beside, .card:not(.side)")?.querySelector("button.open");
    if (!button) return;
    button.focus({ preventScroll: true });
    open(Number(button.dataset.row));
  });

  // Rows that changed most ---------------------------------------------------------------------

  const shifts = data.changes.filter((change) => change.pairs.length);
  if (shifts.length) {
    find("changed-panel").hidden = false;
    const select = find("changed-by");
    shifts.forEach((shift, i) =>
      option(select, i, data.runs.length > 2 ? `${shift.metric}, ${data.runs[shift.b]}` : shift.metric),
    );
    const list = find("changed");
    const fill = () => {
      const shift = shifts[select.value];
      const metric = names.indexOf(shift.metric);
      list.replaceChildren(...shift.pairs.map(([a, b, d]) => view.change(a, b, d, metric)));
    };
    select.addEventListener("change", fill);
    list.addEventListener("click", (event) => {
      const button = event.target.closest("button.open");
      if (button) open(Number(button.dataset.row));
    });
    fill();
  }

  update();
  plots(open);
  // Coming back, the browser fills in the form as it was, once the page is loaded.
  addEventListener("pageshow", ({ persisted }) => {
    if (persisted) return;
    offerValues();
    update();
    if (isEntered()) history.back(); // loaded anew with a row open
  });
})();
