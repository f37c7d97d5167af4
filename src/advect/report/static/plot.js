// A cloud of points on a canvas with axes. Figures keep a light ground in the dark, so the inks are fixed.

const INK = "#1d2433";
const FAINT = "#8a93a3";
const GRID = "#e9ecf1";
const REAL = "rgba(0, 114, 178, 0.2)";
const SAMPLE = "rgba(213, 94, 0, 0.8)";
const TAIL = "rgba(213, 94, 0, 0.16)";
const TAIL_FRAMES = 5; // of forty: how much of its way each point trails behind itself
const LIKE = 4; // ratio of ranges up to which two columns share a scale
const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif';

class Plot {
  // data: { names, pair, low, high, real, columns }; panel: { states, rows, frames }
  constructor(canvas, data, panel, small) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.data = data;
    this.panel = panel;
    this.small = small;
    this.resize();
  }

  // The size on the page, and which part of the plane is seen: columns of like range keep their shape.
  resize() {
    const width = this.canvas.parentElement.clientWidth;
    const [i, j] = this.data.pair;
    let [x0, x1] = [this.data.low[i], this.data.high[i]];
    let [y0, y1] = [this.data.low[j], this.data.high[j]];
    const labels = this.labelsWidth(y0, y1);
    const edge = this.small
      ? { left: labels + 10, right: 6, top: 6, bottom: 22 }
      : { left: labels + 32, right: 12, top: 10, bottom: 40 };
    const inner = Math.max(width - edge.left - edge.right, 40);
    const stretch = (y1 - y0) / (x1 - x0);
    const alike = stretch > 1 / LIKE && stretch < LIKE;
    const share = clamp(alike ? stretch : 0.62, 0.5, 0.8);
    if (alike && stretch > share) [x0, x1] = Plot.widened(x0, x1, (y1 - y0) / share);
    if (alike && stretch < share) [y0, y1] = Plot.widened(y0, y1, (x1 - x0) * share);
    this.frame = { x0, x1, y0, y1 };
    this.edge = edge;
    this.width = width;
    this.height = Math.round(inner * share) + edge.top + edge.bottom;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.canvas.style.height = `${this.height}px`;
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  // Room for the numbers on the left, which may be long.
  labelsWidth(low, high) {
    this.context.font = FONT;
    return Math.max(...ticks(low, high, 6).map((tick) => this.context.measureText(tick.text).width), 12);
  }

  static widened(low, high, range) {
    const middle = (low + high) / 2;
    return [middle - range / 2, middle + range / 2];
  }

  toPixels(x, y) {
    const { x0, x1, y0, y1 } = this.frame;
    const { left, right, top, bottom } = this.edge;
    return [
      left + ((x - x0) / (x1 - x0)) * (this.width - left - right),
      this.height - bottom - ((y - y0) / (y1 - y0)) * (this.height - top - bottom),
    ];
  }

  fromPixels(px, py) {
    const { x0, x1, y0, y1 } = this.frame;
    const { left, right, top, bottom } = this.edge;
    return [
      x0 + ((px - left) / (this.width - left - right)) * (x1 - x0),
      y0 + ((this.height - bottom - py) / (this.height - top - bottom)) * (y1 - y0),
    ];
  }

  // Where row `row` is at a place between two frames, in the two columns that are shown.
  at(place, row) {
    const { states, rows, frames } = this.panel;
    const columns = this.data.low.length;
    const before = Math.min(Math.floor(place), frames - 1);
    const after = Math.min(before + 1, frames - 1);
    const share = place - before;
    return this.data.pair.map((column) => {
      const first = states[(before * rows + row) * columns + column];
      const second = states[(after * rows + row) * columns + column];
      return share === 0 ? first : first + share * (second - first);
    });
  }

  draw(place, path) {
    const { context, width, height, edge } = this;
    context.clearRect(0, 0, width, height);
    this.axes();
    context.save();
    context.beginPath();
    context.rect(edge.left, edge.top, width - edge.left - edge.right, height - edge.top - edge.bottom);
    context.clip();
    if (this.data.real) this.dots(this.data.real.length / this.data.low.length, REAL, (row) => this.realAt(row));
    this.tails(place);
    this.dots(this.panel.rows, SAMPLE, (row) => this.at(place, row));
    if (path) this.path(path);
    context.restore();
  }

  realAt(row) {
    const columns = this.data.low.length;
    return this.data.pair.map((column) => this.data.real[row * columns + column]);
  }

  dots(count, colour, pointOf) {
    const { context } = this;
    const radius = this.radius(count);
    context.fillStyle = colour;
    for (let row = 0; row < count; row++) {
      const [px, py] = this.toPixels(...pointOf(row));
      if (!Number.isFinite(px + py)) continue;
      context.beginPath();
      context.arc(px, py, radius, 0, 2 * Math.PI);
      context.fill();
    }
  }

  radius(count) {
    return this.small ? 1.3 : clamp(60 / Math.sqrt(count), 1.6, 3.2);
  }

  tails(place) {
    const { context } = this;
    const back = (TAIL_FRAMES / 40) * (this.panel.frames - 1);
    if (place <= 0 || this.small) return;
    context.strokeStyle = TAIL;
    context.lineWidth = 1;
    context.beginPath();
    for (let row = 0; row < this.panel.rows; row++) {
      for (let k = 4; k >= 0; k--) {
        const [px, py] = this.toPixels(...this.at(Math.max(place - (back * k) / 4, 0), row));
        if (!Number.isFinite(px + py)) continue;
        if (k === 4) context.moveTo(px, py);
        else context.lineTo(px, py);
      }
    }
    context.stroke();
  }

  // path: { points, here } with `here` a place along the points: dashed where it comes from, solid where it goes.
  path({ points, here }) {
    const { context } = this;
    const pixels = points.map((point) => this.toPixels(...point)).filter(([a, b]) => Number.isFinite(a + b));
    if (pixels.length < 2) return;
    const cut = clamp(Math.round(here), 0, pixels.length - 1);
    for (const [colour, line] of [["#ffffff", 5], [INK, 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.lineJoin = "round";
      for (const [part, dashes] of [[pixels.slice(0, cut + 1), [5, 4]], [pixels.slice(cut), []]]) {
        context.setLineDash(colour === INK ? dashes : []);
        context.beginPath();
        part.forEach(([px, py], k) => (k ? context.lineTo(px, py) : context.moveTo(px, py)));
        context.stroke();
      }
    }
    context.setLineDash([]);
    this.mark(pixels[0], "#ffffff");
    this.mark(pixels[pixels.length - 1], INK);
  }

  mark([px, py], fill) {
    const { context } = this;
    context.beginPath();
    context.arc(px, py, 4.5, 0, 2 * Math.PI);
    context.fillStyle = fill;
    context.fill();
    context.strokeStyle = INK;
    context.lineWidth = 2;
    context.stroke();
  }

  axes() {
    const { context, width, height, edge, frame } = this;
    context.font = FONT;
    context.fillStyle = INK;
    context.lineWidth = 1;
    const few = this.small ? 3 : 6;
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const tick of ticks(frame.x0, frame.x1, few)) {
      const [px] = this.toPixels(tick.value, 0);
      this.line(px, edge.top, px, height - edge.bottom);
      const half = context.measureText(tick.text).width / 2; // the last one stays whole
      context.fillText(tick.text, Math.min(px, width - half - 1), height - edge.bottom + 5);
    }
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const tick of ticks(frame.y0, frame.y1, few)) {
      const [, py] = this.toPixels(0, tick.value);
      this.line(edge.left, py, width - edge.right, py);
      context.fillText(tick.text, edge.left - 6, py);
    }
    context.strokeStyle = FAINT;
    context.beginPath();
    context.moveTo(edge.left, edge.top);
    context.lineTo(edge.left, height - edge.bottom);
    context.lineTo(width - edge.right, height - edge.bottom);
    context.stroke();
    if (this.small) return;
    const [across, up] = this.data.pair.map((column) => shortened(this.data.names[column]));
    context.textAlign = "center";
    context.textBaseline = "bottom";
    context.fillText(across, (edge.left + width - edge.right) / 2, height - 2);
    context.save();
    context.translate(11, (edge.top + height - edge.bottom) / 2);
    context.rotate(-Math.PI / 2);
    context.textBaseline = "middle";
    context.fillText(up, 0, 0);
    context.restore();
  }

  line(ax, ay, bx, by) {
    this.context.strokeStyle = GRID;
    this.context.beginPath();
    this.context.moveTo(ax, ay);
    this.context.lineTo(bx, by);
    this.context.stroke();
  }
}

// Round numbers inside a range, at most about `few`.
function ticks(low, high, few) {
  const rough = (high - low) / few;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((one) => one >= rough) || rough;
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high && found.length < 20; k++) {
    found.push({ value: k * step, text: tickText(k * step, step) });
  }
  return found;
}

function tickText(value, step) {
  const large = Math.abs(value) >= 1e6 || step < 1e-4;
  const text = large ? value.toExponential(1) : value.toFixed(clamp(-Math.floor(Math.log10(step)), 0, 6));
  return text.replace("-", "\u2212");
}

function shortened(name) {
  return name.length > 40 ? `${name.slice(0, 26)}…${name.slice(-12)}` : name;
}
