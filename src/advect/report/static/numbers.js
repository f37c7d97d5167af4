// Numbers out of the page: base64 of little-endian bytes, and coordinates as 16-bit integers over three frames.

function bytesOf(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

// Read through a view, so that the machine's own order of bytes plays no part.
function floatsOf(text, width) {
  const bytes = bytesOf(text);
  const view = new DataView(bytes.buffer);
  const out = new Float64Array(bytes.length / width);
  for (let i = 0; i < out.length; i++) {
    out[i] = width === 8 ? view.getFloat64(8 * i, true) : view.getFloat32(4 * i, true);
  }
  return out;
}

const NOWHERE = 65535;

// Coordinates in the units of the data; what was not finite is NaN. `low` and `high` hold the frame of each column.
function coordinatesOf(text, low, high) {
  const bytes = bytesOf(text);
  const view = new DataView(bytes.buffer);
  const out = new Float64Array(bytes.length / 2);
  for (let i = 0; i < out.length; i++) {
    const place = view.getUint16(2 * i, true);
    const c = i % low.length;
    const range = high[c] - low[c];
    out[i] = place === NOWHERE ? NaN : low[c] - range + (3 * range * place) / (NOWHERE - 1);
  }
  return out;
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

// A number as fine as a hundred-thousandth of the range that is seen, with a true minus sign.
function written(value, range) {
  if (!Number.isFinite(value)) return "no number";
  const decimals = 5 - Math.floor(Math.log10(range));
  const plain = decimals <= 12 && Math.abs(value) < 1e12;
  const text = plain ? value.toFixed(clamp(decimals, 0, 12)) : value.toPrecision(6);
  return text.replace("-", "\u2212");
}
