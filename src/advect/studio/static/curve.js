// Loss by step: training and validation, on the axes of a cloud of points.

const VALIDATION = "#0b5c8a";

class Curve extends Plot {
  constructor(canvas) {
    const data = { names: ["step", "loss"], pair: [0, 1], low: [0, 0], high: [1, 1], real: null };
    super(canvas, data, { states: new Float64Array(0), rows: 0, frames: 1 }, false);
    this.lines = [];
  }

  update({ train, validation, steps }) {
    this.lines = [
      [train, FAINT, 1.6],
      [validation, VALIDATION, 2.2],
    ].filter(([points]) => points.length > 1);
    const values = this.lines.flatMap(([points]) => points.map(([, value]) => value)).sort((a, b) => a - b);
    if (!values.length) return false;
    // The first steps may be far above all others: nearly all of the points decide.
    let [low, high] = [values[0], values[Math.ceil(0.97 * (values.length - 1))]];
    const room = 0.08 * (high - low) || 0.5 * Math.abs(high) || 1;
    [low, high] = [low - room, high + room];
    this.data.low = [0, low];
    const last = steps || Math.max(...this.lines.map(([points]) => points[points.length - 1][0]));
    this.data.high = [1.03 * last, high]; // room for the last number on the axis
    this.resize();
    this.draw();
    return true;
  }

  draw() {
    const { context, width, height, edge } = this;
    context.clearRect(0, 0, width, height);
    this.axes();
    context.save();
    context.beginPath();
    context.rect(edge.left, edge.top, width - edge.left - edge.right, height - edge.top - edge.bottom);
    context.clip();
    for (const [points, colour, line] of this.lines) {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.lineJoin = "round";
      context.beginPath();
      points.forEach(([step, value], k) => {
        const [px, py] = this.toPixels(step, value);
        if (k) context.lineTo(px, py);
        else context.moveTo(px, py);
      });
      context.stroke();
    }
    context.restore();
  }
}
