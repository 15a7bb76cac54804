"use strict";
// Heat maps of words: where the image speaks for or against a word, drawn over its picture. One at
// a time: that of the word under the pointer or the focus, else the one that is pinned.
const heat = (() => {
  const { data } = model;
  const { levels, down, up } = data.colours;
  // As `scorekit explain` draws them: over a pale grey, by the root of the value, since a few
  // patches have most of it; a sign on a patch that has at least a fifth of the largest.
  const PALE = 0.55, COVER = 0.9, DARK = 0.6, FEWEST = 0.2, THOUSAND = 1000;

  const unpacked = (map) => {
    const [rows, columns, seen, packed] = data.maps[map];
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const values = Array.from(new Int8Array(bytes.buffer), (level) => level / levels);
    const [left, top, right, bottom] = seen.map((share) => share / THOUSAND);
    return { rows, columns, values, left, top, right, bottom };
  };

  // The lowest and the highest patch, as shares of the picture.
  const extremes = (grid) =>
    [Math.min(...grid.values), Math.max(...grid.values)].map((value, i) => {
      if (i ? value < FEWEST : value > -FEWEST) return null;
      const at = grid.values.indexOf(value);
      const [row, column] = [Math.floor(at / grid.columns), at % grid.columns];
      return {
        x: grid.left + ((grid.right - grid.left) * (column + 0.5)) / grid.columns,
        y: grid.top + ((grid.bottom - grid.top) * (row + 0.5)) / grid.rows,
      };
    });
  const third = (share) => (share < 1 / 3 ? 0 : share < 2 / 3 ? 1 : 2);
  const placed = ({ x, y }) => {
    const [side, height] = [["left", "", "right"][third(x)], ["top", "", "bottom"][third(y)]];
    if (!height) return side ? `on the ${side}` : "in the centre";
    return `at the ${height}${side && ` ${side}`}`;
  };

  const cropped = (grid) =>
    grid.left > 0.005 || grid.top > 0.005 || grid.right < 0.995 || grid.bottom < 0.995;

  const shade = (value) => {
    const arm = value < 0 ? down : up;
    const at = Math.abs(value) * (arm.length - 1);
    const low = Math.min(Math.floor(at), arm.length - 2);
    return arm[low].map((one, i) => one + (at - low) * (arm[low + 1][i] - one));
  };

  // Bilinear between the patches' centres, flat at the edges.
  const along = (start, end, n, size) =>
    Array.from({ length: size }, (_, i) => {
      const share = ((i + 0.5) / size - start) / (end - start);
      const at = Math.min(Math.max(share * n - 0.5, 0), n - 1);
      const low = Math.min(Math.floor(at), Math.max(n - 2, 0));
      return { low, high: Math.min(low + 1, n - 1), much: at - low, inside: share >= 0 && share < 1 };
    });

  const paint = (canvas, grid) => {
    const { width, height } = canvas;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    const across = along(grid.left, grid.right, grid.columns, width);
    const shades = Array.from({ length: 201 }, (_, i) => shade((i - 100) / 100));
    let at = 0;
    for (const y of along(grid.top, grid.bottom, grid.rows, height)) {
      const [above, below] = [y.low * grid.columns, y.high * grid.columns];
      for (const x of across) {
        const upper = grid.values[above + x.low] * (1 - x.much) + grid.values[above + x.high] * x.much;
        const lower = grid.values[below + x.low] * (1 - x.much) + grid.values[below + x.high] * x.much;
        const value = upper * (1 - y.much) + lower * y.much;
        const strength = Math.sqrt(Math.abs(value));
        if (x.inside && y.inside) {
          const colour = shades[Math.round(100 * (Math.sign(value) * strength + 1))];
          const cover = COVER * strength;
          const pale = PALE * (1 - cover);
          for (let c = 0; c < 3; c++) {
            pixels.data[at + c] = (colour[c] * cover + 255 * pale) / (cover + pale);
          }
          pixels.data[at + 3] = 255 * (cover + pale);
        } else {
          pixels.data[at + 3] = 255 * DARK;
        }
        at += 4;
      }
    }
    context.putImageData(pixels, 0, 0);
    const arm = Math.max(5, Math.min(width, height) / 42);
    extremes(grid).forEach((place, i) => {
      if (!place) return;
      for (const [rim, ink] of [[arm / 3.5, "black"], [0, "white"]]) {
        for (const turned of i ? [false, true] : [false]) {
          const half = [arm + rim, arm / 3.5 + rim];
          if (turned) half.reverse();
          context.fillStyle = ink;
          context.fillRect(
            place.x * width - half[0], place.y * height - half[1], 2 * half[0], 2 * half[1],
          );
        }
      }
    });
  };

  // Shown and hidden ---------------------------------------------------------------------------

  let shown = null, pinned = null;
  const pictureOf = (word) => {
    const around = word.closest(".beside, .card, dialog");
    return around && around.querySelector(`img[data-shows="${word.dataset.row}"]`);
  };
  const named = (word) => {
    const made = document.createElement("bdi");
    made.textContent = `“${scorekit.short(word.dataset.word, 40)}”`;
    return made;
  };

  // What a card says of the signs, where it covers neither if it can.
  const labelled = (word, grid) => {
    const tab = document.createElement("span");
    const used = extremes(grid).filter(Boolean).map((place) => third(place.y));
    tab.className = used.includes(0) && !used.includes(2) ? "tab" : "tab upper";
    tab.append(named(word), ": − against, + for");
    return tab;
  };

  const hide = () => {
    if (!shown) return;
    shown.canvas.remove();
    shown.tab.remove();
    shown.host.classList.remove("heated");
    if (shown.legend) shown.legend.replaceChildren(...hint());
    shown = null;
  };
  const show = (word) => {
    if (shown && shown.word === word) return;
    hide();
    const image = pictureOf(word);
    if (!image) return;
    const host = image.parentElement;
    const grid = unpacked(Number(word.dataset.map));
    const canvas = document.createElement("canvas");
    canvas.className = "heat";
    canvas.setAttribute("aria-hidden", "true");
    // Of the picture's own shape, so that `object-fit` puts both in the same place.
    const { w, h } = model.picture(Number(word.dataset.row));
    const scale = Math.min(host.clientWidth / w, host.clientHeight / h);
    canvas.width = Math.max(1, Math.round(w * scale));
    canvas.height = Math.max(1, Math.round(h * scale));
    paint(canvas, grid);
    const tab = labelled(word, grid);
    const legend = word.closest("dialog") && document.querySelector("dialog .heat-legend");
    host.classList.add("heated");
    host.append(canvas, ...(legend ? [] : [tab]));
    if (legend) legend.replaceChildren(...told(word, grid));
    shown = { word, host, canvas, tab, legend };
  };

  // The legend in words: what the colours mean, and where they are strongest.
  const swatch = (kind, sign) => {
    const made = document.createElement("span");
    made.className = `swatch ${kind}`;
    made.textContent = sign;
    made.setAttribute("aria-hidden", "true");
    return made;
  };
  const told = (word, grid) => {
    const [low, high] = extremes(grid);
    const where = (place) => (place ? `strongest ${placed(place)}` : "hardly anywhere");
    const out = [
      "Where the image speaks for or against ", named(word), ": ",
      swatch("against", "−"), ` red against it, ${where(low)}; `,
      swatch("for", "+"), ` teal for it, ${where(high)}.`,
    ];
    if (cropped(grid)) out.push(" Dark: not seen by the model.");
    return out;
  };
  const hint = () => [
    "A framed word shows where the image speaks for or against it: point at it, tap it, or reach " +
      "it by the Tab key. A click or Enter keeps the map, Escape removes it.",
  ];

  const mark = (word, on) => {
    if (word && word.hasAttribute("aria-pressed")) word.setAttribute("aria-pressed", String(on));
  };
  const unpin = () => {
    mark(pinned, false);
    pinned = null;
  };
  const toggle = (word) => {
    const again = pinned === word;
    unpin();
    if (again) return hide();
    pinned = word;
    mark(word, true);
    show(word);
  };
  const clear = () => {
    unpin();
    hide();
  };
  const back = () => (pinned && pinned.isConnected ? show(pinned) : hide());

  const wordAt = (event) => event.target instanceof Element && event.target.closest(".mapped");
  let touched = false;
  addEventListener("pointerdown", (event) => (touched = event.pointerType === "touch"), true);
  addEventListener("pointerover", (event) => {
    const word = event.pointerType !== "touch" && wordAt(event);
    if (word) show(word);
  });
  addEventListener("pointerout", (event) => {
    if (event.pointerType !== "touch" && wordAt(event)) back();
  });
  addEventListener("focusin", (event) => {
    const word = wordAt(event);
    if (word) show(word);
  });
  addEventListener("focusout", (event) => wordAt(event) && back());
  addEventListener(
    "keydown",
    (event) => {
      const word = wordAt(event);
      if (word && (event.key === "Enter" || event.key === " ")) {
        event.preventDefault();
        toggle(word);
      } else if (event.key === "Escape" && shown) {
        event.preventDefault(); // the row stays open
        event.stopPropagation();
        clear();
      }
    },
    true,
  );
  // In the open row a click pins; on a card a tap shows, while a click opens the row.
  addEventListener("click", (event) => {
    const word = wordAt(event);
    if (word && (touched || word.closest("dialog"))) toggle(word);
    else if (!word && pinned && !pinned.closest("dialog")) clear();
  });

  return { clear, toggle, hint, isTap: () => touched };
})();
