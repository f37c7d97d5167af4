// What the network says on the way: one answer holds all times and all views, so that looking round asks nothing more.

const DIRECTIONS = ["velocity", "score"];
const MEANING = {
  velocity: "Arrows: how fast, and where to, the network moves a row from there at this time. All times share one scale.",
  x1: "Each line leads from a row on its way to the data row that the network expects at its end, E[x1 | x_t]; the dark dots are these rows.",
  noise: "Each line leads from a row on its way back to the source row that the network expects behind it, E[x0 | x_t]; the dark dots are these rows.",
  score: "Arrows: where the density of the rows of this time rises fastest, ∇ log p_t of the standardised rows. Each time has a scale of its own.",
};
const PICTURE_MEANING = {
  velocity: "What is said: the velocity, grey where nothing changes. All times share one scale.",
  x1: "What is said: the picture that the network expects at the end, E[x1 | x_t].",
  noise: "What is said: the source picture that the network expects behind each, E[x0 | x_t].",
  score: "What is said: the score ∇ log p_t, grey where it is nothing. All times share one scale, which the last ones exceed.",
};

class NetworkFigure {
  constructor(section) {
    this.figure = section.querySelector("figure");
    this.why = section.querySelector(".why");
    this.canvas = section.querySelector("canvas.way");
    this.second = section.querySelector("canvas.said");
    this.radios = [...section.querySelectorAll(".views input")];
    this.across = section.querySelector(".across");
    this.up = section.querySelector(".up");
    this.data = null;
    for (const radio of this.radios) radio.addEventListener("change", () => this.look());
    this.player = new Player(this.figure, (place) => this.draw(place), (place) => this.caption(place));
    for (const list of this.across ? [this.across, this.up] : []) {
      list.addEventListener("change", () => this.turn(list));
    }
    new ResizeObserver(() => this.again()).observe(this.figure);
  }

  get view() {
    return this.radios.find((radio) => radio.checked).value;
  }

  caption(place) {
    return this.data ? this.data.captions[Math.round(place)] : "";
  }

  none(why) {
    this.figure.hidden = true;
    this.why.hidden = false;
    this.why.textContent = why;
    this.data = null;
  }

  show(said) {
    if (said.kind === "none") {
      this.none(said.why);
      return;
    }
    const first = this.data === null;
    this.figure.hidden = false;
    this.why.hidden = true;
    const pair = this.data && this.data.pair;
    this.data = said;
    if (pair) this.data.pair = pair;
    for (const radio of this.radios) radio.disabled = !(radio.value in said.says);
    if (!(this.view in said.says)) this.radios.find((radio) => !radio.disabled).checked = true;
    this.excuse(said);
    if (said.kind === "pictures") this.pictures(said);
    else this.points(said, first);
    this.look();
  }

  // Why a view is not there; views with the same reason share a line.
  excuse({ missing, note }) {
    const reasons = new Map();
    for (const [view, why] of Object.entries(missing)) reasons.set(why, [...(reasons.get(why) || []), view]);
    const items = [...reasons].map(([why, views]) => {
      const item = document.createElement("li");
      item.textContent = `No ${views.join(", no ")}: ${why}.`;
      return item;
    });
    this.figure.querySelector(".missing").replaceChildren(...items);
    this.figure.querySelector(".note").textContent = note;
  }

  points(said, first) {
    const { low, high } = said;
    const frames = said.captions.length;
    const says = {};
    for (const [view, text] of Object.entries(said.says)) {
      says[view] = DIRECTIONS.includes(view) ? floatsOf(text, 4) : coordinatesOf(text, low, high);
    }
    const points = coordinatesOf(said.points, low, high);
    said.real = said.real && coordinatesOf(said.real, low, high);
    const panel = { states: coordinatesOf(said.states, low, high), rows: said.rows, frames };
    const pointCount = points.length / (frames * low.length);
    this.plot = new SaysPlot(this.canvas, said, panel, { says, points, pointCount, grid: said.grid });
    if (!first) return;
    const places = said.names.map((name, k) => [String(k), name]);
    offer(this.across, places, String(said.pair[0]));
    offer(this.up, places, String(said.pair[1]));
    this.figure.querySelector(".pick").hidden = said.names.length < 3;
  }

  pictures(said) {
    const data = { ...said, across: 4 };
    const panel = (states) => ({ states, rows: said.rows, frames: said.captions.length });
    this.way = new PictureGrid(this.canvas, data, panel(said.states));
    this.grids = {};
    for (const [view, states] of Object.entries(said.says)) {
      this.grids[view] = new PictureGrid(this.second, data, panel(states));
    }
  }

  look() {
    if (!this.data) return;
    const words = this.data.kind === "pictures" ? PICTURE_MEANING : MEANING;
    this.figure.querySelector(".meaning").textContent = words[this.view];
    this.player.move(this.player.place);
  }

  turn(changed) {
    const other = changed === this.across ? this.up : this.across;
    if (changed.value === other.value) other.value = String((Number(changed.value) + 1) % this.data.names.length);
    this.data.pair = [Number(this.across.value), Number(this.up.value)];
    this.again();
  }

  again() {
    if (!this.data || this.data.kind === "pictures" || this.figure.hidden) return;
    this.plot.resize();
    this.draw(this.player.place);
  }

  draw(place) {
    if (!this.data) return;
    if (this.data.kind === "pictures") {
      this.way.draw(Math.round(place));
      this.grids[this.view].draw(Math.round(place));
      return;
    }
    this.plot.view = this.view;
    this.plot.draw(place);
  }
}
