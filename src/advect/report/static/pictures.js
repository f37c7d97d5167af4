// Pictures on their way, in a grid; small ones are enlarged by whole factors without smoothing.

class PictureGrid {
  constructor(canvas, data, panel) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.data = data;
    this.panel = panel;
    this.bytes = bytesOf(panel.states);
    this.resize();
  }

  resize() {
    const { width, height, across } = this.data;
    const { rows } = this.panel;
    this.gap = Math.max(1, Math.round(0.12 * Math.max(width, height)));
    this.columns = Math.min(across, rows);
    this.canvas.width = this.gap + this.columns * (width + this.gap);
    this.canvas.height = this.gap + Math.ceil(rows / this.columns) * (height + this.gap);
  }

  draw(place) {
    const { width, height, channels } = this.data;
    const { rows, frames } = this.panel;
    const size = rows * width * height * channels;
    const before = Math.min(Math.floor(place), frames - 1);
    const after = Math.min(before + 1, frames - 1);
    const share = place - before;
    this.context.fillStyle = "#e2e5ea";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    const image = this.context.createImageData(width, height);
    for (let row = 0; row < rows; row++) {
      const start = row * width * height * channels;
      for (let p = 0; p < width * height; p++) {
        for (let c = 0; c < 3; c++) {
          const k = start + p * channels + (channels === 3 ? c : 0);
          image.data[4 * p + c] = (1 - share) * this.bytes[before * size + k] + share * this.bytes[after * size + k];
        }
        image.data[4 * p + 3] = 255;
      }
      const left = this.gap + (row % this.columns) * (width + this.gap);
      const top = this.gap + Math.floor(row / this.columns) * (height + this.gap);
      this.context.putImageData(image, left, top);
    }
  }
}
