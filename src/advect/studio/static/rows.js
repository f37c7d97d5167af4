// The figure of drawn rows: a cloud of two columns, the bars of one, or pictures.

const HOW_MANY = "how many";

class RowsFigure {
  constructor(root) {
    this.root = root;
    this.canvas = root.querySelector("canvas");
    this.across = root.querySelector(".across");
    this.up = root.querySelector(".up");
    this.data = null;
    if (!this.across) return;
    for (const list of [this.across, this.up]) list.addEventListener("change", () => this.chosen(list));
    new ResizeObserver(() => this.data && this.redraw()).observe(root);
  }

  show(said) {
    if (said.kind === "pictures") {
      const data = { ...said, across: 8 };
      new PictureGrid(this.canvas, data, { states: said.states, rows: said.rows, frames: 1 }).draw(0);
      this.canvas.setAttribute("aria-label", `${said.rows} drawn pictures`);
      return;
    }
    const first = this.data === null;
    const { low, high } = said;
    this.data = { ...said, real: said.real && coordinatesOf(said.real, low, high) };
    this.panel = { states: coordinatesOf(said.states, low, high), rows: said.rows, frames: 1 };
    if (first) this.offer();
    this.redraw();
  }

  get numeric() {
    return this.data.labels.map((labels) => labels.length === 0);
  }

  offer() {
    const { names, pair } = this.data;
    const places = names.map((name, k) => [String(k), name]);
    offer(this.across, places, String(pair ? pair[0] : 0));
    offer(this.up, [["", HOW_MANY], ...places.filter((_, k) => this.numeric[k])], pair ? String(pair[1]) : "");
  }

  // A category stands alone, and so does a column against itself.
  chosen(list) {
    const alone = !this.numeric[Number(this.across.value)] || this.across.value === this.up.value;
    if (alone && list === this.across) this.up.value = "";
    else if (alone) {
      const other = this.numeric.findIndex((number, k) => number && String(k) !== this.up.value);
      if (other >= 0) this.across.value = String(other);
      else this.up.value = "";
    }
    this.redraw();
  }

  redraw() {
    const across = Number(this.across.value);
    const { names } = this.data;
    if (this.up.value === "") {
      new Bars(this.canvas, this.data, this.panel, across);
      this.canvas.setAttribute("aria-label", `${names[across]}: shares of drawn and of held-out rows`);
      return;
    }
    const up = Number(this.up.value);
    this.data.pair = [across, up];
    new Plot(this.canvas, this.data, this.panel, false).draw(0, null);
    this.canvas.setAttribute("aria-label", `drawn rows: ${names[across]} across, ${names[up]} up`);
  }

  // How many of the drawn rows are not in sight.
  get outside() {
    if (!this.data) return 0;
    const seen = [Number(this.across.value), ...(this.up.value === "" ? [] : [Number(this.up.value)])];
    const { low, high } = this.data;
    let count = 0;
    for (let row = 0; row < this.panel.rows; row++) {
      const out = (k) => {
        const value = this.panel.states[row * low.length + k];
        return value < low[k] || value > high[k];
      };
      if (seen.some(out)) count += 1;
    }
    return count;
  }
}

function fillTable(table, { names, rows, left_out: more }, count) {
  const cell = (tag, text) => {
    const made = document.createElement(tag);
    made.textContent = text;
    return made;
  };
  table.caption.textContent = `The first ${rows.length} of ${count}${more ? `; ${more} more columns not shown` : ""}`;
  table.tHead.rows[0].replaceChildren(...names.map((name) => cell("th", name)));
  table.tBodies[0].replaceChildren(
    ...rows.map((row) => {
      const made = document.createElement("tr");
      made.append(...row.map((text) => cell("td", text)));
      return made;
    }),
  );
}
