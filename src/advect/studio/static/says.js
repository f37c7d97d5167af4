// Rows on their way with what the network says of them: arrows for directions, lines to where places are.

const REACH = 0.9; // of the way to the next arrow, for one that is longer than nearly all others
const LONGEST = 2.2;

class SaysPlot extends Plot {
  // says: { view: numbers }; points: where directions are, as coordinates of all frames
  constructor(canvas, data, panel, extra) {
    super(canvas, data, panel, false);
    Object.assign(this, extra);
    this.view = null;
  }

  draw(place) {
    const frame = Math.round(place);
    super.draw(frame, null);
    if (!this.view || !this.says[this.view]) return;
    const { context, width, height, edge } = this;
    context.save();
    context.beginPath();
    context.rect(edge.left, edge.top, width - edge.left - edge.right, height - edge.top - edge.bottom);
    context.clip();
    if (DIRECTIONS.includes(this.view)) this.arrows(frame);
    else this.lines(frame);
    context.restore();
  }

  // Smaller than where nothing else is drawn.
  radius() {
    return clamp(this.width / 280, 1.3, 2.4);
  }

  of(numbers, count, frame, k) {
    const columns = this.data.low.length;
    return this.data.pair.map((column) => numbers[(frame * count + k) * columns + column]);
  }

  // A direction in pixels.
  along(frame, k) {
    const { x0, x1, y0, y1 } = this.frame;
    const { left, right, top, bottom } = this.edge;
    const [vx, vy] = this.of(this.says[this.view], this.pointCount, frame, k);
    return [(vx / (x1 - x0)) * (this.width - left - right), (-vy / (y1 - y0)) * (this.height - top - bottom)];
  }

  // The length that is drawn as long as arrows are apart: velocities keep theirs from time to time.
  unit(frame) {
    const frames = this.view === "velocity" ? Array.from({ length: this.panel.frames }, (_, k) => k) : [frame];
    const lengths = [];
    for (const one of frames) {
      for (let k = 0; k < this.pointCount; k++) lengths.push(Math.hypot(...this.along(one, k)));
    }
    const finite = lengths.filter(Number.isFinite).sort((a, b) => a - b);
    return finite.length ? finite[Math.floor(0.95 * (finite.length - 1))] || 1 : 1;
  }

  arrows(frame) {
    const { context, width, edge } = this;
    const apart = this.grid ? (width - edge.left - edge.right) / Math.sqrt(this.pointCount) : 42;
    const scale = (REACH * apart) / this.unit(frame);
    const count = this.grid ? this.pointCount : Math.min(this.pointCount, 120);
    context.strokeStyle = context.fillStyle = "rgba(29, 36, 51, 0.72)";
    context.lineWidth = 1.3;
    for (let k = 0; k < count; k++) {
      const [px, py] = this.toPixels(...this.of(this.points, this.pointCount, frame, k));
      let [dx, dy] = this.along(frame, k).map((part) => part * scale);
      const length = Math.hypot(dx, dy);
      if (!Number.isFinite(px + py + length) || length < 0.5) continue;
      const cut = Math.min(1, (LONGEST * apart) / length);
      [dx, dy] = [dx * cut, dy * cut];
      this.arrow(px, py, dx, dy);
    }
  }

  arrow(px, py, dx, dy) {
    const { context } = this;
    const length = Math.hypot(dx, dy);
    const head = Math.min(5, 0.6 * length);
    const [ux, uy] = [dx / length, dy / length];
    const [ex, ey] = [px + dx, py + dy];
    context.beginPath();
    context.moveTo(px, py);
    context.lineTo(ex - head * ux, ey - head * uy);
    context.stroke();
    context.beginPath();
    context.moveTo(ex, ey);
    context.lineTo(ex - head * ux - 0.5 * head * uy, ey - head * uy + 0.5 * head * ux);
    context.lineTo(ex - head * ux + 0.5 * head * uy, ey - head * uy - 0.5 * head * ux);
    context.fill();
  }

  lines(frame) {
    const { context } = this;
    const { rows } = this.panel;
    const ends = [];
    context.strokeStyle = "rgba(29, 36, 51, 0.28)";
    context.lineWidth = 1;
    context.beginPath();
    for (let row = 0; row < rows; row++) {
      const from = this.toPixels(...this.at(frame, row));
      const to = this.toPixels(...this.of(this.says[this.view], rows, frame, row));
      if (!Number.isFinite(from[0] + from[1] + to[0] + to[1])) continue;
      context.moveTo(...from);
      context.lineTo(...to);
      ends.push(to);
    }
    context.stroke();
    context.fillStyle = INK;
    for (const [px, py] of ends) {
      context.beginPath();
      context.arc(px, py, 2, 0, 2 * Math.PI);
      context.fill();
    }
  }
}
