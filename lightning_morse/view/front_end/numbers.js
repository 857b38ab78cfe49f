// Numbers in words.

// Beyond this the distance of a probability to 1 is written instead of the probability.
const NEARLY_ONE = 0.9999;
// Distances to 1 below this are lost in the rounding of the probability itself.
const LEAST_DISTANCE_TO_ONE = 1.2e-16;

export function short(x) {
  return x === null || Number.isNaN(x) ? "?" : String(Number(x.toPrecision(3)));
}

export function percent(share) {
  if (share > 0 && share < 0.01) return "< 1 %";
  if (share > 0.99 && share < 1) return "> 99 %";
  return `${Math.round(100 * share)} %`;
}

// The bound of a claim after a dot; empty where nothing is claimed.
export function claimBound(facts) {
  return claims(facts) ? ` · mu ≥ ${bound(facts.mu)}` : "";
}

// Whether anything is claimed. Older records give a bound where nothing is.
export function claims({ claim, mu }) {
  return mu > 0 && claim !== "no certain attractor";
}

// A lower bound on a probability, never rounded up.
export function bound(mu) {
  if (mu === null) return "";
  if (mu < NEARLY_ONE) return String(Math.floor(mu * 1e4 + 1e-9) / 1e4);
  const distance = Math.max(1 - mu, LEAST_DISTANCE_TO_ONE);
  const unit = 10 ** (Math.floor(Math.log10(distance)) - 1);
  return `1 − ${(Math.ceil(distance / unit - 1e-9) * unit).toExponential(1)}`;
}
