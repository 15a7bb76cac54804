"use strict";
// What all reports share: the data, the theme, tables that sort, plots that follow the theme.
const scorekit = (() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);

  // plotly reads a little HTML and %{fields} in its texts; and a text from right to left must not
  // turn around what stands beside it.
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "{": "&#123;" };
  const text = (value) => `\u2068${String(value).replace(/[&<>{]/g, (c) => entities[c])}\u2069`;
  // Names of metrics often differ at their ends only, so it is the middle that goes.
  const short = (value, size) => {
    const letters = Array.from(String(value).replace(/\s+/g, " "));
    if (letters.length <= size) return letters.join("");
    const end = Math.floor((size - 1) / 2);
    return [...letters.slice(0, size - 1 - end), "…", ...letters.slice(-end)].join("");
  };

  const colour = (name) => {
    const probe = document.createElement("span");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const names = ["panel", "ink", "dim", "line", "band", "accent", "second", "strong", "warm"];
  const colours = () => Object.fromEntries(names.map((name) => [name, colour(name)]));
  let theme = colours();

  // Plots are drawn when they come into view, and again for another theme, choice or width.
  const PAPER = 640;
  const plots = new Map();
  const drawn = new Set();
  let printing = false;
  const draw = (element) => {
    const narrow = element.clientWidth < 560;
    const { traces, layout } = plots.get(element)(theme, narrow);
    const axis = { gridcolor: theme.line, zerolinecolor: theme.line, linecolor: theme.line };
    const free = layout.free && matchMedia("(pointer: fine)").matches;
    const still = { fixedrange: !free };
    // On a narrow window the button that saves a plot would lie over the top of it.
    const room = narrow ? 26 : 0;
    const margin = { l: 8, r: 12, t: 8, b: 8, ...layout.margin };
    const height = layout.height + room;
    // Else a plot that follows its window's width spills over what is below.
    element.style.height = `${height}px`;
    Plotly.react(
      element,
      traces,
      {
        hovermode: "closest",
        showlegend: false,
        dragmode: free ? "zoom" : false,
        paper_bgcolor: theme.panel,
        plot_bgcolor: theme.panel,
        font: { color: theme.ink, family: "system-ui, sans-serif", size: 13 },
        hoverlabel: { bgcolor: theme.band, bordercolor: theme.dim, font: { color: theme.ink } },
        ...layout,
        height,
        autosize: !printing,
        width: printing ? Math.min(PAPER, element.clientWidth) : undefined,
        margin: { ...margin, t: margin.t + room },
        xaxis: { automargin: true, ...axis, ...still, ...layout.xaxis },
        yaxis: { automargin: true, ...axis, ...still, ...layout.yaxis },
      },
      {
        displaylogo: false,
        responsive: true,
        plotlyServerURL: "",
        modeBarButtons: [["toImage"]],
        toImageButtonOptions: { format: "svg", filename: element.id },
      },
    );
    drawn.add(element);
  };
  const seen = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (isIntersecting && !drawn.has(target)) draw(target);
      }
    },
    { rootMargin: "400px" },
  );
  const redraw = () => drawn.forEach((element) => element.clientWidth && draw(element));
  const plot = (id, build) => {
    const element = document.getElementById(id);
    plots.set(element, build);
    seen.observe(element);
    return () => drawn.has(element) && draw(element);
  };

  // Theme: the system's until the button says otherwise, and then for all pages of the window.
  const KEPT = "scorekit-theme";
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const changed = () => {
    theme = colours();
    button.setAttribute("aria-pressed", String(dark()));
    redraw();
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      sessionStorage.setItem(KEPT, root.dataset.theme);
    } catch {
      // A browser may give a file none; then it is this page's theme alone.
    }
    changed();
  });
  system.addEventListener("change", changed);
  const recall = () => {
    try {
      const kept = sessionStorage.getItem(KEPT);
      if (kept) root.dataset.theme = kept;
    } catch {
      // As above.
    }
    changed();
  };
  recall();
  addEventListener("pageshow", ({ persisted }) => persisted && recall());

  // On paper all plots are drawn, in light colours and no wider than the paper.
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    theme = colours();
    printing = true;
    plots.forEach((_, element) => element.clientWidth && draw(element));
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
    printing = false;
    changed();
  });

  // Tables: a column sorts by data-key where a cell has one, by its text otherwise; empty keys
  // and the last rows (class "dim") stay last.
  const key = (row, column) => {
    const cell = row.cells[column];
    return "key" in cell.dataset ? cell.dataset.key : cell.textContent.trim();
  };
  const compare = (a, b) => {
    if (a === "" || b === "") return null;
    return Number.isNaN(Number(a)) || Number.isNaN(Number(b)) ? a.localeCompare(b) : a - b;
  };
  const sort = (head) => {
    const table = head.closest("table");
    const falling = head.getAttribute("aria-sort")
      ? head.getAttribute("aria-sort") === "ascending"
      : head.dataset.first !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    const moving = rows.filter((row) => !row.classList.contains("dim"));
    const column = head.cellIndex;
    moving.sort((one, two) => {
      const [a, b] = [key(one, column), key(two, column)];
      const found = compare(a, b);
      return found === null ? (a === "") - (b === "") : falling ? -found : found;
    });
    table.tBodies[0].append(...moving, ...rows.filter((row) => row.classList.contains("dim")));
  };
  for (const head of document.querySelectorAll("table.sortable thead th")) {
    const press = document.createElement("button");
    press.type = "button";
    press.append(...head.childNodes);
    head.append(press);
    press.addEventListener("click", () => sort(head));
  }

  return { data, text, short, plot, redraw };
})();
