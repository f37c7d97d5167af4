// The ringed point: where does it come from, where does it go? By mouse, finger and arrow keys.

const NUDGE = 0.02; // of the frame, for an arrow key
const LEAP = 0.1; // with shift
const FIRST_ROWS = 40;

class DraggedPoint {
  constructor(figure, plot, field) {
    this.handle = figure.querySelector(".handle");
    this.words = figure.querySelector(".where");
    this.plot = plot;
    this.field = field;
    this.points = null; // the path, one point for each step of `field` or each frame
    this.cursor = null; // where the hand is; of stored paths the nearest is shown
    this.held = false;
    this.moved = () => {}; // for whoever draws
    this.grabbed = () => {}; // for whoever plays
    this.handle.addEventListener("pointerdown", (event) => this.grab(event));
    plot.canvas.addEventListener("click", (event) => this.moveTo(this.placeOf(event)));
    this.handle.addEventListener("keydown", (event) => this.key(event));
  }

  // Without a hand on it, the point is the one of the first rows in sight that has the longest way.
  start(place) {
    const { plot } = this;
    const { x0, x1, y0, y1 } = plot.frame;
    this.frame = place;
    let longest = -1;
    let chosen = null;
    for (let row = 0; row < Math.min(FIRST_ROWS, plot.panel.rows); row++) {
      const [from, to] = [plot.at(0, row), plot.at(plot.panel.frames - 1, row)];
      const way = Math.hypot((to[0] - from[0]) / (x1 - x0), (to[1] - from[1]) / (y1 - y0));
      const seen = this.pathOfRow(row).every(([x, y]) => x > x0 && x < x1 && y > y0 && y < y1);
      if (seen && way > longest) [longest, chosen] = [way, plot.at(Math.round(place), row)];
    }
    if (chosen) this.take(chosen);
  }

  get scale() {
    return this.points ? (this.points.length - 1) / (this.plot.panel.frames - 1) : 1;
  }

  // What the plot draws at a place between frames.
  pathAt(place) {
    return this.points ? { points: this.points, here: place * this.scale } : null;
  }

  here(place) {
    const at = place * this.scale;
    const before = Math.floor(at);
    const after = Math.min(before + 1, this.points.length - 1);
    return [0, 1].map((i) => {
      const first = this.points[before][i];
      return at === before ? first : first + (at - before) * (this.points[after][i] - first);
    });
  }

  // Follow the time.
  show(place, quiet) {
    this.frame = place;
    if (!this.points) return;
    if (!this.held) this.cursor = this.here(place);
    this.put(this.cursor);
    if (!quiet) this.say();
  }

  take(x) {
    const place = Math.round(this.frame);
    this.cursor = x;
    this.points = this.field
      ? this.field.path(x, Math.round((place * this.field.steps) / (this.plot.panel.frames - 1)))
      : this.pathOfRow(this.nearest(x, place));
  }

  pathOfRow(row) {
    return Array.from({ length: this.plot.panel.frames }, (_, frame) => this.plot.at(frame, row));
  }

  nearest(x, place) {
    const { plot } = this;
    const { x0, x1, y0, y1 } = plot.frame;
    let best = 0;
    let least = Infinity;
    for (let row = 0; row < plot.panel.rows; row++) {
      const [a, b] = plot.at(place, row);
      const distance = ((a - x[0]) / (x1 - x0)) ** 2 + ((b - x[1]) / (y1 - y0)) ** 2;
      if (distance < least) [best, least] = [row, distance];
    }
    return best;
  }

  moveTo(x) {
    const { x0, x1, y0, y1 } = this.plot.frame;
    this.take([clamp(x[0], x0, x1), clamp(x[1], y0, y1)]);
    this.put(this.cursor);
    this.moved();
    this.say();
  }

  put([x, y]) {
    const { width, height, edge } = this.plot;
    const [px, py] = this.plot.toPixels(x, y);
    const left = clamp(px, edge.left, width - edge.right);
    const top = clamp(py, edge.top, height - edge.bottom);
    this.handle.classList.toggle("away", left !== px || top !== py); // it waits at the edge of the frame
    this.handle.style.left = `${left}px`;
    this.handle.style.top = `${top}px`;
  }

  placeOf(event) {
    const box = this.plot.canvas.getBoundingClientRect();
    return this.plot.fromPixels(event.clientX - box.left, event.clientY - box.top);
  }

  grab(event) {
    event.preventDefault();
    this.handle.focus({ preventScroll: true });
    this.handle.setPointerCapture(event.pointerId);
    this.held = true;
    this.grabbed();
    const drag = (move) => {
      this.latest = move;
      this.waiting ||= requestAnimationFrame(() => {
        this.waiting = 0;
        this.moveTo(this.placeOf(this.latest));
      });
    };
    const release = (end) => {
      if (this.waiting) cancelAnimationFrame(this.waiting);
      this.waiting = 0;
      if (end.type === "pointerup" && this.latest) this.moveTo(this.placeOf(end));
      this.latest = null;
      this.held = false;
      this.handle.removeEventListener("pointermove", drag);
      for (const kind of ["pointerup", "pointercancel"]) this.handle.removeEventListener(kind, release);
    };
    this.handle.addEventListener("pointermove", drag);
    for (const kind of ["pointerup", "pointercancel"]) this.handle.addEventListener(kind, release);
  }

  key(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const way = ways[event.key];
    if (!way || !this.points) return;
    event.preventDefault();
    this.grabbed();
    const { x0, x1, y0, y1 } = this.plot.frame;
    const size = event.shiftKey ? LEAP : NUDGE;
    this.moveTo([this.cursor[0] + way[0] * size * (x1 - x0), this.cursor[1] + way[1] * size * (y1 - y0)]);
  }

  say() {
    const { x0, x1, y0, y1 } = this.plot.frame;
    const text = ([x, y]) => `(${written(x, x1 - x0)}, ${written(y, y1 - y0)})`;
    const now = this.plot.panel.captions[Math.round(this.frame)];
    const here = text(this.here(Math.round(this.frame)));
    const ends = `comes from ${text(this.points[0])}, goes to ${text(this.points[this.points.length - 1])}`;
    this.words.textContent = `${now}: ${here}; ${ends}.`;
  }
}
