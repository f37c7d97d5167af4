// The velocity of the model, evaluated here: a small network between affine maps that are tabulated in time.
// The Python module advect.report.field says the same in NumPy; a test holds the two together.

const SELU_SCALE = 1.0507009873554805;
const SELU_ALPHA = 1.6732632423543772;

const ACTIVATIONS = {
  selu: (a) => SELU_SCALE * (a > 0 ? a : SELU_ALPHA * Math.expm1(a)),
  silu: (a) => a / (1 + Math.exp(-a)),
  elu: (a) => (a > 0 ? a : Math.expm1(a)),
  tanh: Math.tanh,
  softplus: (a) => Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a))),
};

class Field {
  constructor(packed) {
    this.kind = packed.kind;
    this.activation = ACTIVATIONS[packed.activation];
    this.matrix = packed.matrix;
    this.offset = packed.offset;
    this.bend = packed.bend;
    this.tables = floatsOf(packed.tables, 8);
    this.width = this.tables.length / packed.rows;
    this.steps = (packed.rows - 1) / 2;
    this.layers = Field.layersOf(packed);
    this.modulations = new Array(packed.rows); // of a residual network: they depend on time alone
    const [[a, b], [c, d]] = this.matrix;
    const det = a * d - b * c;
    this.inverse = [[d / det, -b / det], [-c / det, a / det]];
  }

  static layersOf(packed) {
    const weights = floatsOf(packed.weights, 4);
    let at = 0;
    return packed.shapes.map(([outputs, inputs]) => {
      const weight = weights.subarray(at, at + outputs * inputs);
      const bias = weights.subarray(at + outputs * inputs, at + outputs * (inputs + 1));
      at += outputs * (inputs + 1);
      return { outputs, inputs, weight, bias };
    });
  }

  static linear(layer, h) {
    const { outputs, inputs, weight, bias } = layer;
    const out = new Float64Array(outputs);
    for (let i = 0, k = 0; i < outputs; i++) {
      let sum = bias[i];
      for (let j = 0; j < inputs; j++, k++) sum += weight[k] * h[j];
      out[i] = sum;
    }
    return out;
  }

  // Row of the tables: time, drift (2), slope (4), gain, scale, then time as the network sees it.
  row(place) {
    return this.tables.subarray(place * this.width, (place + 1) * this.width);
  }

  velocity(place, z) {
    const row = this.row(place);
    const [, d0, d1, s00, s01, s10, s11, gain, scale] = row;
    const seen = [scale * z[0], scale * z[1]];
    const output = this.kind === "mlp" ? this.mlp(row.subarray(9), seen) : this.residual(place, row.subarray(9), seen);
    return [
      d0 + s00 * z[0] + s01 * z[1] + gain * output[0],
      d1 + s10 * z[0] + s11 * z[1] + gain * output[1],
    ];
  }

  mlp(features, z) {
    let h = Float64Array.of(...z, ...features);
    const last = this.layers.length - 1;
    for (let k = 0; k < last; k++) h = Field.linear(this.layers[k], h).map(this.activation);
    return Field.linear(this.layers[last], h);
  }

  residual(place, features, z) {
    const [time, modulation, first] = this.layers;
    const silu = this.activation;
    const blocks = (this.layers.length - 4) / 2;
    this.modulations[place] ??= Field.linear(modulation, Field.linear(time, features).map(silu));
    const moved = this.modulations[place];
    let h = Field.linear(first, z);
    for (let k = 0; k < blocks; k++) {
      const u = Field.linear(this.layers[3 + 2 * k], h.map(silu));
      for (let i = 0; i < u.length; i++) {
        const gain = moved[2 * k * u.length + i];
        const shift = moved[(2 * k + 1) * u.length + i];
        u[i] = silu((1 + gain) * u[i] + shift);
      }
      const more = Field.linear(this.layers[4 + 2 * k], u);
      for (let i = 0; i < h.length; i++) h[i] += more[i];
    }
    return Field.linear(this.layers[this.layers.length - 1], h.map(silu));
  }

  // From the coordinates of the ODE to the units of the data, and back.
  toData(z) {
    return [0, 1].map((i) => {
      const u = this.matrix[i][0] * z[0] + this.matrix[i][1] * z[1] + this.offset[i];
      const [location, spread] = this.bend[i];
      return spread > 0 ? location + spread * Math.sinh(u) : u;
    });
  }

  fromData(x) {
    const u = [0, 1].map((i) => {
      const [location, spread] = this.bend[i];
      return (spread > 0 ? Math.asinh((x[i] - location) / spread) : x[i]) - this.offset[i];
    });
    return this.inverse.map((row) => row[0] * u[0] + row[1] * u[1]);
  }

  // The whole path of the point that is at `x` at grid step `start`: classic Runge–Kutta to both ends.
  // Returns one point of the data for each step of the grid.
  path(x, start) {
    const points = new Array(this.steps + 1);
    points[start] = x;
    for (const way of [1, -1]) {
      let z = this.fromData(x);
      for (let step = start; way > 0 ? step < this.steps : step > 0; step += way) {
        z = this.step(z, step, way);
        points[step + way] = this.toData(z);
      }
    }
    return points;
  }

  step(z, step, way) {
    const here = 2 * step;
    const middle = here + way;
    const there = middle + way;
    const h = this.row(there)[0] - this.row(here)[0];
    const along = (k, by) => [z[0] + by * k[0], z[1] + by * k[1]];
    const k1 = this.velocity(here, z);
    const k2 = this.velocity(middle, along(k1, h / 2));
    const k3 = this.velocity(middle, along(k2, h / 2));
    const k4 = this.velocity(there, along(k3, h));
    return [0, 1].map((i) => z[i] + (h / 6) * (k1[i] + 2 * k2[i] + 2 * k3[i] + k4[i]));
  }
}
