// One column: shares of the rows, real ones filled and drawn ones as an outline, in bins or by category.

const BINS = 40;

class Bars extends Plot {
  constructor(canvas, data, panel, column) {
    const labels = data.labels[column];
    const [low, high] = [data.low[column], data.high[column]];
    const count = labels.length || BINS;
    const columns = data.low.length;
    const shares = (values, rows) => {
      const bins = new Array(count).fill(0);
      for (let row = 0; row < rows; row++) {
        const place = Math.floor(((values[row * columns + column] - low) / (high - low)) * count);
        if (place >= 0 && place < count) bins[place] += 1 / rows;
      }
      return bins;
    };
    const real = data.real ? shares(data.real, data.real.length / columns) : [];
    const drawn = shares(panel.states, panel.rows);
    const top = 1.08 * Math.max(...real, ...drawn, 1e-9);
    super(canvas, { names: [data.names[column], "share of the rows"], pair: [0, 1], low: [low, 0], high: [high, top], real: null }, panel, false);
    Object.assign(this, { labels, bins: { real, drawn }, count });
    this.draw();
  }

  // The frame is that of the shares, whatever the range of the column: they have no scale in common.
  resize() {
    super.resize();
    const [[x0, y0], [x1, y1]] = [this.data.low, this.data.high];
    this.frame = { x0, x1, y0, y1 };
  }

  draw() {
    const { context, width, height } = this;
    context.clearRect(0, 0, width, height);
    this.axes();
    const at = (k) => this.data.low[0] + (k / this.count) * (this.data.high[0] - this.data.low[0]);
    const gap = this.labels.length ? 0.14 : 0;
    context.fillStyle = "rgba(0, 114, 178, 0.4)";
    this.bins.real.forEach((share, k) => {
      const [left, top] = this.toPixels(at(k + gap), share);
      const [right, bottom] = this.toPixels(at(k + 1 - gap), 0);
      context.fillRect(left, top, right - left, bottom - top);
    });
    context.strokeStyle = "#d55e00";
    context.lineWidth = 2;
    context.beginPath();
    this.bins.drawn.forEach((share, k) => {
      const [left, top] = this.toPixels(at(k + gap), share);
      const [right, bottom] = this.toPixels(at(k + 1 - gap), 0);
      if (gap || k === 0) context.moveTo(left, bottom);
      context.lineTo(left, top);
      context.lineTo(right, top);
      if (gap || k === this.count - 1) context.lineTo(right, bottom);
    });
    context.stroke();
  }

  axes() {
    if (!this.labels.length) {
      super.axes();
      return;
    }
    // Names of categories stand where the numbers would: the axis itself is drawn without them.
    const own = this.frame;
    this.frame = { ...own, x0: 0, x1: 0 };
    super.axes();
    this.frame = own;
    const { context, height, edge } = this;
    context.fillStyle = INK;
    context.textAlign = "center";
    context.textBaseline = "top";
    const room = (this.width - edge.left - edge.right) / this.count;
    this.labels.forEach((label, k) => {
      let text = label;
      while (text.length > 1 && context.measureText(`${text}…`).width > room - 4) text = text.slice(0, -1);
      context.fillText(text === label ? text : `${text}…`, this.toPixels(k, 0)[0], height - edge.bottom + 5);
    });
  }
}
